"""The command line, `remote-env`."""

from __future__ import annotations

import typer

from remote_env.cli import serve


def main() -> None:
    app = typer.Typer(no_args_is_help=True)
    app.callback()(lambda: None)
    serve.register(app)
    app()


if __name__ == "__main__":
    main()
