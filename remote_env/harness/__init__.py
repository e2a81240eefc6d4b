"""Adapters: remote-env as the environment of agent harnesses. One module a harness; each imports its peer lazily."""
