"""The Typer application: the options before a command's name, and all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from remote_env.cli import batch, cp, doctor, executions, run, runs, sandboxes, serve, shell, snapshots
from remote_env.cli.codes import USAGE
from remote_env.cli.invocation import AsJson, Invocation, TokenFile, Url
from remote_env.cli.main import print_version
from remote_env.cli.usage import Group

app = typer.Typer(cls=Group, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True, context_settings={"max_content_width": 100})
def before_command(
    ctx: typer.Context,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Run commands in containers, on this machine or another: each at most once, and no result lost.

    \b
      remote-env serve                        on the machine with the engine
      remote-env run python:3.12-slim -- python -c 'print(6 * 7)'
      remote-env doctor                       what is wrong, and how to mend it
    """
    ctx.obj = Invocation(url, token_file, as_json)
    if version:
        print_version()
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(USAGE)


serve.register(app)
for module in (run, batch, shell, cp, sandboxes, executions, snapshots, runs, doctor):
    module.register(app)
