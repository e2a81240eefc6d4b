"""The entry point of `remote-env`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and leaves the process with its exit code."""
    if sys.argv[1:] == ["--version"]:  # asked by scripts, so without importing all the rest
        print_version()
        return
    from remote_env.cli.app import app

    app(prog_name="remote-env")


def print_version() -> None:
    from remote_env.version import __version__

    sys.stdout.write(f"remote-env {__version__}\n")


if __name__ == "__main__":
    main()
