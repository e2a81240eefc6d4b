"""`IMAGE -- COMMAND...`: which words are ours, and which are the command's."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from remote_env.cli.invocation import Command, is_usage_error


class WordsCommand(Command):
    """A command whose arguments are one name and the words of another command.

    Up to `--`, options may stand before and after the name. Without `--` the other command begins with the first word
    after the name, and options from there on are its own: `exec SANDBOX grep -c x file` counts, it does not run `x`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        head = args[: args.index("--")] if "--" in args else args
        mistake: Exception | None = None
        words: object = ()
        try:
            words = self.make_parser(ctx).parse_args(list(head))[0].get("words")
        except Exception as error:
            if not is_usage_error(error):
                raise
            mistake = error
        if mistake is None and not (isinstance(words, (tuple, list)) and words):
            return super().parse_args(ctx, args)
        ctx.allow_interspersed_args = False
        rest = super().parse_args(ctx, args)
        first, *_ = ctx.params.get("words") or [""]
        if mistake is not None and first.startswith("-"):
            raise mistake  # an option that we do not have, not a command
        return rest


def command_of(words: list[str] | None, line: str | None, as_argv: bool) -> str | list[str]:
    """The command as the server wants it: a string for a shell, a list to be run as it is."""
    if line is not None:
        if words or as_argv:
            raise typer.BadParameter("give a command line with -c, or the command's words, not both", param_hint="-c")
        if not line.strip():
            raise typer.BadParameter("the command line is empty", param_hint="-c")
        return line
    if not words:
        raise typer.BadParameter("what is to be run? Write it after --, or as a command line with -c", param_hint="COMMAND")
    if not as_argv and len(words) == 1 and words[0].strip() and shlex.quote(words[0]) != words[0]:
        return words[0]
    return words
