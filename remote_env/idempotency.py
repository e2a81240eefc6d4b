"""Which commands are reads, so that losing the answer is worse than running them again.

A command that may have run is never run again; one that is proven here to change nothing may be, as a new execution. Proven means: the
command lies in a small part of the shell's grammar (`_reads.shell`), and a table (`_reads.table`) lists each program in it together
with each option that it is given. Whatever is not understood is not a read.

What is taken for granted, because a command line does not show it: names mean the usual programs (no function, alias or PATH
entry in their place), their configuration is ordinary (a git with `core.fsmonitor` or `diff.external` set runs those), operands
are files rather than named pipes or devices reached through a link, HOME is an absolute path, and the shell ends with the
command. A long-lived session is another matter: there `cd ..` is not the same the second time. Caches that a program fills as it
reads (git's index, Python's byte code, pip's note of the newest pip, access times) do not count as changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from remote_env._reads.rule import ReadRule, rule
from remote_env._reads.shell import simple_commands
from remote_env._reads.table import DEFAULT_RULES
from remote_env._reads.words import NotARead, Word, refuse_device

__all__ = ["ReadCommands", "ReadRule", "is_idempotent_read", "rule"]

_SYSTEM_PROGRAM = re.compile(r"/(?:usr/)?bin/([^/]+)")


class ReadCommands:
    """The programs that are known to only read. Immutable; safe to share between threads."""

    def __init__(self, rules: Mapping[str, ReadRule]) -> None:
        self._rules = MappingProxyType(dict(rules))

    @classmethod
    def default(cls) -> ReadCommands:
        """The table that comes with the package."""
        return _DEFAULT

    def extended(self, additions: Mapping[str, str | ReadRule | None]) -> ReadCommands:
        """A table with more, other or fewer programs than this one.

        Args:
            additions: program, with its subcommands where the rule is for one (`"kubectl get"`) → the options that only read, as
                `rule` takes them (`"-A -o= --namespace="`), with any number of operands; or a `ReadRule`; or None, which takes the
                program or subcommand out. What is given replaces what the table had for that name.

        Raises:
            ValueError: a name is empty, or an option list is malformed.
        """
        rules = dict(self._rules)
        for name, addition in additions.items():
            path = name.split()
            if not path:
                raise ValueError("a program's name is empty")
            _set(rules, path, rule(addition) if isinstance(addition, str) else addition)
        return ReadCommands(rules)

    def is_read(self, command: str | Sequence[str]) -> bool:
        """True where running the command twice is proven to leave everything as running it once, or not at all, does.

        Args:
            command: a string for `sh -c` or `bash -c`, or an argv list that no shell sees.
        """
        return self.why_not(command) is None

    def why_not(self, command: str | Sequence[str]) -> str | None:
        """Why the command is not taken for a read, in words for a log; None where it is one. Never raises.

        The reason names programs and options and repeats no operand, value or assignment: those may be secrets.
        """
        try:
            for words in simple_commands(command) if isinstance(command, str) else [_argv(command)]:
                self._require_read(words)
        except NotARead as reason:
            return str(reason)
        return None

    def _require_read(self, words: Sequence[Word]) -> None:
        name = words[0].text
        if system_program := _SYSTEM_PROGRAM.fullmatch(name):
            name = system_program[1]
        rule = self._rules.get(name)
        if rule is None or words[0].expands_at is not None:
            raise NotARead("a program that is not known to only read")
        for word in words[1:]:
            refuse_device(word.text)
        try:
            rule.require_read(words[1:])
        except NotARead as reason:
            raise NotARead(f"{name}: {reason}") from None


def is_idempotent_read(command: str | Sequence[str], table: ReadCommands | None = None) -> bool:
    """True where `command` is proven to be a read by `table` (default: the one that comes with the package)."""
    return (table or _DEFAULT).is_read(command)


def _argv(command: Iterable[object]) -> tuple[Word, ...]:
    words = []
    for argument in command:
        if not isinstance(argument, str) or "\0" in argument:
            raise NotARead("an argument that no program can get")
        words.append(Word(argument))
    if not words:
        raise NotARead("an empty command")
    return tuple(words)


def _set(rules: dict[str, ReadRule], path: Sequence[str], new: ReadRule | None) -> None:
    """Put `new` at the program or subcommand that `path` names; None takes it out."""
    name, *subcommand = path
    if subcommand:
        outer = rules.get(name, rule())
        subcommands = dict(outer.subcommands or {})
        _set(subcommands, subcommand, new)
        rules[name] = replace(outer, subcommands=MappingProxyType(subcommands))
    elif new is None:
        rules.pop(name, None)
    else:
        rules[name] = new


_DEFAULT = ReadCommands(DEFAULT_RULES)
