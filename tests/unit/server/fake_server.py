"""`remote-env serve` as a process of its own, with the fake services behind its routes."""

from __future__ import annotations

import sys

import typer

import server.main
from remote_env.cli import serve as command
from tests.unit.server.fakes import FakeServices

if __name__ == "__main__":
    real = server.main.serve
    server.main.serve = lambda settings: real(settings, FakeServices)
    app = typer.Typer(callback=lambda: None)
    command.register(app)
    sys.exit(app())
