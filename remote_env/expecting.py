"""What a program on a terminal says, as text, and the search in it for what somebody waits for. No I/O and no clock.

The rules: the earliest match wins, of those that begin at one place that of the pattern named first; text up to its end
is taken, text after it waits for whoever looks next. Nothing is matched twice, and nothing is thrown away without a count.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass

from remote_env.errors import InvalidSpec

TEXT_LIMIT = 4 << 20  # characters that wait for a match: of more, the oldest go, and are counted
_LOOK_BACK = 1 << 16  # characters: what was searched before is not searched again, but for a match that goes on from there


class End:
    """The type of `END`."""

    def __repr__(self) -> str:
        return "END"


END = End()
"""Among patterns: the end of the program, once no other pattern is found in what it has said."""

Pattern = str | re.Pattern[str] | End


@dataclass(frozen=True)
class Match:
    """What was found.

    Attributes:
        index: of the pattern, among those that were looked for.
        before: the text in front of it, back to the previous match.
        match: the text that the pattern fits; "" for END.
        groups: the pattern's groups.
        dropped: characters in front of `before` that are not in it: more came than is kept for a match.
    """

    index: int
    before: str
    match: str
    groups: tuple[str | None, ...] = ()
    dropped: int = 0


def compile_patterns(patterns: Pattern | Sequence[Pattern]) -> tuple[re.Pattern[str] | End, ...]:
    """A str is a regular expression, in which a dot fits line ends too. Raises InvalidSpec for what is none."""
    several = (patterns,) if isinstance(patterns, (str, re.Pattern, End)) else tuple(patterns)
    if not several:
        raise InvalidSpec("Nothing to expect was given: a pattern, or several.")
    return tuple(_compiled(each) for each in several)


def _compiled(pattern: object) -> re.Pattern[str] | End:
    if isinstance(pattern, End) or (isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str)):
        return pattern
    if not isinstance(pattern, str):
        raise InvalidSpec(f"A pattern is a str, a compiled regular expression of str, or END, not {type(pattern).__name__}.")
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise InvalidSpec(
            f"Not a regular expression: {pattern!r}: {error}. `re.escape` makes one of a text that is meant as it is."
        ) from None


class Expecter:
    """The text that a program has said and nobody has taken yet. Bytes go in, as they come; matches come out.

    `errors`: what becomes of bytes that are not UTF-8, as for `bytes.decode`.
    """

    def __init__(self, errors: str = "replace") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._text = ""
        self._dropped = 0
        self.ended = False

    @property
    def waiting(self) -> int:
        """Characters that nobody has taken."""
        return len(self._text)

    @property
    def text(self) -> str:
        """What nobody has taken."""
        return self._text

    def feed(self, data: bytes) -> None:
        """More of it. A character whose bytes come apart is one; what is not UTF-8 becomes U+FFFD."""
        self._add(self._decoder.decode(data))

    def skip(self) -> None:
        """Bytes are missing here: a character that was begun will not be whole."""
        self._add(self._decoder.decode(b"", final=True))
        self._decoder.reset()

    def end(self) -> None:
        """No more will come."""
        self.skip()
        self.ended = True

    def take(self) -> str:
        """All the text that waits; it waits no more."""
        text, self._text, self._dropped = self._text, "", 0
        return text

    def expect(self, patterns: Pattern | Sequence[Pattern]) -> Expectation:
        """Begins to look for these. Raises InvalidSpec."""
        return Expectation(self, compile_patterns(patterns))

    def _add(self, text: str) -> None:
        self._text += text
        surplus = len(self._text) - TEXT_LIMIT
        if surplus > 0:
            self._text = self._text[surplus:]
            self._dropped += surplus

    def _search(self, patterns: Sequence[re.Pattern[str] | End], start: int) -> Match | None:
        best: tuple[int, re.Match[str]] | None = None
        for index, pattern in enumerate(patterns):
            found = None if isinstance(pattern, End) else pattern.search(self._text, start)
            if found is not None and (best is None or found.start() < best[1].start()):
                best = index, found
        if best is not None:
            index, found = best
            match = Match(index, self._text[: found.start()], found[0], found.groups(), self._dropped)
            self._text, self._dropped = self._text[found.end() :], 0
            return match
        if self.ended:
            for index, pattern in enumerate(patterns):
                if isinstance(pattern, End):
                    dropped = self._dropped
                    return Match(index, self.take(), "", (), dropped)
        return None


class Expectation:
    """One search, over text that is still coming: asked again whenever there is more."""

    def __init__(self, expecter: Expecter, patterns: Sequence[re.Pattern[str] | End]) -> None:
        self._expecter = expecter
        self._patterns = patterns
        self._searched = 0  # characters, counted from the end of what was dropped so far
        self._dropped = expecter._dropped

    def match(self) -> Match | None:
        """What is found in the text so far, and takes it; None while there is nothing."""
        expecter = self._expecter
        searched = max(0, self._searched - (expecter._dropped - self._dropped))
        found = expecter._search(self._patterns, max(0, searched - _LOOK_BACK))
        self._searched, self._dropped = expecter.waiting, expecter._dropped
        return found
