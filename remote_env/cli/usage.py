"""How wrong usage is told: the mistake, the usage line, where to read more; exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from remote_env.cli import screen
from remote_env.cli.codes import FAILED, INTERRUPTED, USAGE
from remote_env.cli.invocation import is_usage_error, unexpected


class Group(TyperGroup):
    """All commands, in the order in which they were registered."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Runs the command line and leaves the process. Parse errors come out here, to be told in our own way."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            code = super().main(arguments, prog_name or "remote-env", **extra)
        except typer.Abort as error:  # which is also what the parser makes of Ctrl-C
            sys.exit(INTERRUPTED if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt) else FAILED)
        except Exception as error:
            if not is_usage_error(error):
                unexpected(error)
                sys.exit(FAILED)
            _tell(error, as_json="--json" in arguments)
            sys.exit(USAGE)
        sys.exit(code if isinstance(code, int) else 0)


def _tell(error: Any, *, as_json: bool) -> None:
    message = str(error.format_message())
    screen.complain(message)
    if error.ctx is not None:
        screen.note(error.ctx.get_usage())
        screen.note(f"`{error.ctx.command_path} --help` tells more")
    if as_json:
        screen.print_json({"error": {"kind": "Usage", "message": message, "exit_code": USAGE}})
