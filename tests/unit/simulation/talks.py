"""What is said in a session, by whom, and in whose output it belongs. A byte is its place among all that was ever said there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import pairwise


class Talk:
    """All that was written to one session's pipe.

    Attributes:
        authors: of each byte; None for what runs in the background.
        until: how much of it was written until the session's end.
    """

    def __init__(self) -> None:
        self.authors: list[str | None] = []
        self.until: int | None = None
        self._between: set[int] = set()  # said while there was no command

    def says(self, author: str | None, between: bool) -> int:
        place = len(self.authors)
        self.authors.append(author)
        if between:
            self._between.add(place)
        return place

    def ends(self) -> None:
        self.until = len(self.authors)

    def wrong_with(
        self, id_: str, heard: Sequence[int | None], *, whole: bool, unheard: Set[str] | None, told_apart: bool
    ) -> str | None:  # fmt: skip
        """What is wrong with that output of the session, or of a command of it.

        Args:
            whole: it must be all there.
            unheard: for the session: commands that were lost with their sandbox before anything was heard of them. What they may
                have said by then is the session's.
            told_apart: the journal was never set back to before a command's end, after which the session had its pipe again.
        """
        if any(place is None or place >= len(self.authors) for place in heard):
            return "has what nobody wrote"
        places = [place for place in heard if place is not None]
        if any(later <= earlier for earlier, later in pairwise(places)):
            return "has a byte twice, or in the wrong order"
        strangers = {self.authors[place] for place in places} - {None, *(unheard if unheard is not None else (id_,))}
        if strangers:
            return f"has what {sorted(map(str, strangers))} wrote"
        if told_apart and unheard is None and self._between & set(places):
            return "has what was said while there was no command"
        own = [place for place, author in enumerate(self.authors) if author == id_]
        missing = set(own) - set(places)
        if whole and missing:
            return f"lacks {len(missing)} bytes that it wrote"
        return None

    def unheard_or_doubled(self, outputs: Mapping[str, Sequence[int | None]]) -> str | None:
        """Once the session is over: every byte until then is in one output of it and its commands, and in one alone."""
        heard = [place for output in outputs.values() for place in output]
        doubled = [place for place in set(heard) if heard.count(place) > 1]
        if doubled:
            return f"byte {doubled[0]} is in {[id_ for id_, output in outputs.items() if doubled[0] in output]}"
        missing = sorted(set(range(self.until or 0)) - {place for place in heard if place is not None})
        if missing:
            return f"byte {missing[0]}, of {self.authors[missing[0]] or 'the background'}, is in no output"
        return None
