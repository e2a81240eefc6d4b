"""What one program may be told so that it only reads: its options, and how many operands.

Options are matched by their exact names. Programs accept abbreviations (`--outp=x` is `sort --output`), so everything that is not
listed is refused. A rule counts any word that begins with `-` as an option wherever it stands, as GNU's getopt does; where the
program does not, the word is a mere operand. Which is why an operand limit goes with `options_first`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from remote_env._reads.words import NotARead, Word


class Arity(Enum):
    """How many values an option takes; written in an option list as the suffix."""

    NONE = ""
    GLUED = "?"  # none, or one glued to it: --color, --color=always, -M90%
    ONE = "="
    ONE_OR_LAST = "=?"  # one, but none where it is the last word: git branch --merged
    TWO = "=="


@dataclass(frozen=True)
class Invocation:
    """The words of one program, sorted: options with their values in order, and operands."""

    options: tuple[tuple[str, str], ...]
    operands: tuple[Word, ...]

    def values(self, *names: str) -> list[str]:
        """The values given to the options of these names."""
        return [value for name, value in self.options if name in names]


@dataclass(frozen=True)
class ReadRule:
    """When an invocation of one program is a read.

    Attributes:
        options: option name (`-a`, `--all`, `-NUM` for `-20`) → arity.
        operands: how many are allowed; None for any number.
        options_first: an option behind an operand is refused.
        no_option_writes: no option that the program has can write, listed or not; so a glob that might expand to one is harmless.
        negative_numbers: `-5` is an operand.
        bare: may be called without a subcommand. Matters only with `subcommands`.
        subcommands: rules for what follows the subcommand's name; with them, even an empty
            mapping, the program has no operands of its own.
        forbidden: a pattern that no word may contain.
        also: a further condition on the sorted words; raises `NotARead`.
        instead: replaces all of the above; gets the words as they are; raises `NotARead`.
    """

    options: Mapping[str, Arity] = field(default_factory=lambda: MappingProxyType({}))
    operands: int | None = None
    options_first: bool = False
    no_option_writes: bool = False
    negative_numbers: bool = False
    bare: bool = False
    subcommands: Mapping[str, ReadRule] | None = None
    forbidden: re.Pattern[str] | None = None
    also: Callable[[Invocation], None] | None = None
    instead: Callable[[Sequence[Word]], None] | None = None

    def require_read(self, arguments: Sequence[Word]) -> None:
        """Return when the program, given these words after its name, only reads.

        Raises:
            NotARead: it does not, or nobody knows.
        """
        if self.forbidden is not None and any(self.forbidden.search(word.text) for word in arguments):
            raise NotARead("an argument that makes it do more than read")
        if self.instead is not None:
            self.instead(arguments)
            return
        remaining = _Arguments(self, arguments)
        if self.subcommands is not None:
            self._require_read_subcommand(remaining, self.subcommands)
            return
        invocation = remaining.taken_apart()
        if self.also is not None:
            self.also(invocation)

    def _require_read_subcommand(self, remaining: _Arguments, rules: Mapping[str, ReadRule]) -> None:
        remaining.leading_options()
        if not remaining.words:
            if not self.bare:
                raise NotARead("no subcommand")
            return
        subcommand = remaining.words[0]
        rule = rules.get(subcommand.text)
        if rule is None or subcommand.expands_at is not None:
            raise NotARead("a subcommand that is not known to only read")
        try:
            rule.require_read(remaining.words[1:])
        except NotARead as reason:
            raise NotARead(f"{subcommand.text}: {reason}") from None


_NAME = re.compile(r"-[A-Za-z0-9]|--[A-Za-z][A-Za-z-]{0,40}")
_NEGATIVE_NUMBER = re.compile(r"-[0-9]+(\.[0-9]+)?")


class _Arguments:
    """Takes the words of one invocation apart, from the left; `words` are those still ahead."""

    def __init__(self, rule: ReadRule, words: Sequence[Word]) -> None:
        self.rule = rule
        self.words = list(words)
        self.options: list[tuple[str, str]] = []
        self.operands: list[Word] = []

    def is_option(self, word: Word) -> bool:
        if self.rule.negative_numbers and _NEGATIVE_NUMBER.fullmatch(word.text):
            return False
        return word.text.startswith("-") and word.text != "-"

    def leading_options(self) -> None:
        """Take options up to the first other word. `--` is refused: what is behind it would not be a subcommand."""
        while self.words and self.is_option(self.words[0]):
            self.option(self.words.pop(0))

    def taken_apart(self) -> Invocation:
        while self.words:
            word = self.words.pop(0)
            if word == Word("--"):
                while self.words:
                    self.operand(self.words.pop(0), behind_dashes=True)
            elif not self.is_option(word):
                self.operand(word, behind_dashes=False)
            elif self.operands and self.rule.options_first:
                raise NotARead("an option behind an operand")
            else:
                self.option(word)
        return Invocation(tuple(self.options), tuple(self.operands))

    def operand(self, word: Word, *, behind_dashes: bool) -> None:
        self.operands.append(word)
        limit = self.rule.operands
        if limit is not None and len(self.operands) > limit:
            raise NotARead(f"more than {limit} operands")
        if word.expands_at is None:
            return
        if limit is not None:
            raise NotARead("an operand that may expand to several, where their number counts")
        if word.may_become_option and not behind_dashes and not self.rule.no_option_writes:
            raise NotARead("an operand that may expand to an option")

    def option(self, word: Word) -> None:
        if word.text.startswith("--"):
            self.long_option(word)
        elif word.expands_at is not None:
            raise NotARead("an option that the shell expands")
        elif "-NUM" in self.rule.options and re.fullmatch(r"-[0-9]+", word.text):
            self.options.append(("-NUM", word.text[1:]))
        else:
            self.short_options(word.text)

    def long_option(self, word: Word) -> None:
        name, equals, value = word.text.partition("=")
        if word.expands_at is not None and not (equals and word.expands_at > len(name)):
            raise NotARead("an option that the shell expands")
        arity = self.arity(name)
        if not equals:
            self.options.append((name, self.separate_values(arity)))
        elif arity in (Arity.NONE, Arity.TWO):
            raise NotARead(f"a value for the option {name}")
        else:
            self.options.append((name, value))

    def short_options(self, text: str) -> None:
        for index, letter in enumerate(text[1:], start=2):
            name, glued = f"-{letter}", text[index:]
            arity = self.arity(name)
            if arity is Arity.NONE:
                self.options.append((name, ""))
            else:
                self.options.append((name, glued or self.separate_values(arity)))
                return

    def arity(self, name: str) -> Arity:
        arity = self.rule.options.get(name)
        if arity is None:
            raise NotARead(f"the option {name if _NAME.fullmatch(name) else 'given'} is not known to only read")
        return arity

    def separate_values(self, arity: Arity) -> str:
        """Take the words that are the option's values; the last of them, or "" where it takes none."""
        if arity is Arity.ONE_OR_LAST and not self.words:
            return ""
        value = ""
        for _ in range({Arity.NONE: 0, Arity.GLUED: 0, Arity.TWO: 2}.get(arity, 1)):
            if not self.words:
                raise NotARead("an option without its value")
            word = self.words.pop(0)
            if word.expands_at is not None:
                raise NotARead("an option whose value may expand to several")
            # Another implementation may not take a value here, and then this is an option.
            if word.text.startswith("-") and word.text != "-" and not _NEGATIVE_NUMBER.fullmatch(word.text):
                raise NotARead("a value that looks like an option")
            value = word.text
        return value


_OPTION = re.compile(r"(?P<name>--[A-Za-z0-9][\w-]*|-NUM|-[A-Za-z0-9])(?P<arity>=\?|==|=|\?|)")
_FLAGS = re.compile(r"-[A-Za-z0-9]{2,}")


def rule(
    options: str = "",
    *,
    operands: int | None = None,
    options_first: bool = False,
    no_option_writes: bool = False,
    negative_numbers: bool = False,
    bare: bool = False,
    subcommands: Mapping[str, ReadRule] | None = None,
    forbidden: str | None = None,
    also: Callable[[Invocation], None] | None = None,
    instead: Callable[[Sequence[Word]], None] | None = None,
) -> ReadRule:
    """A rule from a list of options in one string, separated by blanks.

    `-a` or `--all` takes no value, `-n=` or `--lines=` takes one, `--color?` may have one glued to it, `--arg==` takes two, `--merged=?`
    takes one but may also be the last word; `-abc` is short for `-a -b -c`; `-NUM` is a number such as `-20`.

    Raises:
        ValueError: a word in `options` is none of these.
    """
    return ReadRule(
        options=MappingProxyType(dict(_parsed(options.split()))),
        operands=operands,
        options_first=options_first,
        no_option_writes=no_option_writes,
        negative_numbers=negative_numbers,
        bare=bare,
        subcommands=None if subcommands is None else MappingProxyType(dict(subcommands)),
        forbidden=None if forbidden is None else re.compile(forbidden),
        also=also,
        instead=instead,
    )


def _parsed(words: Iterable[str]) -> Iterable[tuple[str, Arity]]:
    for word in words:
        if match := _OPTION.fullmatch(word):
            yield match["name"], Arity(match["arity"])
        elif _FLAGS.fullmatch(word):
            yield from ((f"-{letter}", Arity.NONE) for letter in word[1:])
        else:
            raise ValueError(f"not an option in the form -a, -n=, -M?, --long, --long=, --long?, --pair==, -abc or -NUM: {word!r}")
