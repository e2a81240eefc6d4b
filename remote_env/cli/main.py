"""The entry point of `remote-env`."""

from __future__ import annotations

import os
import sys

from remote_env.cli.codes import INTERRUPTED


def main() -> None:
    """Runs the command line and leaves the process with its exit code."""
    open_missing_streams()
    if sys.argv[1:] == ["--version"]:  # asked by scripts, so without importing all the rest
        print_version()
        return
    try:
        from remote_env.cli.app import app

        app(prog_name="remote-env")
    except KeyboardInterrupt:  # before any command has begun
        sys.exit(INTERRUPTED)


def open_missing_streams() -> None:
    """Has standard streams that were closed when we were started (`>&-`, a daemon's) lead nowhere: a socket that took such a
    number would get what is meant for them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in this order: each takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def print_version() -> None:
    from remote_env.version import __version__

    sys.stdout.write(f"remote-env {__version__}\n")


if __name__ == "__main__":
    main()
