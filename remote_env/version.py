"""The version of client and server: they are one package."""

__version__ = "0.1.0"
