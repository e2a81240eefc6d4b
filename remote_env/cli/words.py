"""`IMAGE -- COMMAND...`: which words are ours, and which are the command's."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from remote_env.cli.invocation import Command


class WordsCommand(Command):
    """A command whose arguments are one name and the words of another command.

    Our options stand before the name, or right after it. With the first word that is no option, or with `--`, the other
    command begins, and what follows is its own: `exec SANDBOX grep -c x file` counts, it does not run `x`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = False
        before, rest = self._split(ctx, args)
        if rest:
            after, words = self._split(ctx, rest[1:])
            if after and after[-1] == "--":
                after.pop()
            args = [*after, *before, rest[0], *words]
        return super().parse_args(ctx, args)

    def _split(self, ctx: Any, args: list[str]) -> tuple[list[str], list[str]]:
        """The options at the beginning of `args`, with the `--` that ends them, and what is left. Raises usage errors."""
        given = self.make_parser(ctx).parse_args(list(args))[0]
        left = 0
        for each in self.params:
            if each.param_type_name == "argument":
                value = given.get(str(each.name))
                left += 1 if isinstance(value, str) else len(value) if isinstance(value, (tuple, list)) else 0
        return args[: len(args) - left], args[len(args) - left :]


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
