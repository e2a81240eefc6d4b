"""Terminals as requests see them: what is typed into one, exactly once, and what it shows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Literal

from remote_env.protocol import Execution
from server import answers
from server.correlation import Correlation
from server.events import Event, Position
from server.live import LiveExecution
from server.lookup import Known, Lookup
from server.problems import ProblemError
from server.terminal import Terminal, TerminalClosed

_START_S = 5.0  # seconds for a program to be there, or to come back with its init, before what is typed is refused
_FOR_EVER_S = 10**8  # seconds; what is typed on may come long before the program does
_READ_S = 5.0  # seconds for a program to read before what is typed is refused
_RETRY_S = 1.0

Follow = Callable[[str, str, Position | None], tuple[Correlation, AsyncGenerator[Event, None]]]


@dataclass(frozen=True)
class Place:
    """Where bytes of input stand: behind how many others of the same typist."""

    typist: str
    offset: int


@dataclass(frozen=True)
class TerminalView:
    """What somebody at a terminal gets to see.

    Attributes:
        offset: into the whole output, at which `events` begin.
        input_count: bytes of input it was given before (by the typist, where one is named); None where nobody knows.
        events: see `server.events.follow`.
    """

    about: Correlation
    offset: int
    input_count: int | None
    events: AsyncGenerator[Event, None]


class Terminals:
    """All methods raise ProblemError: not_found, epoch_mismatch, gone; wrong_state where the execution has no terminal, or is
    over."""

    def __init__(self, lookup: Lookup, follow: Follow) -> None:
        self._lookup = lookup
        self._follow = follow

    async def type_in(self, eid: str, epoch: str, data: bytes, offset: int | Literal["restart"]) -> int:
        """Give its terminal the part of `data` that it has not had, and return how many bytes of input it has had then, which
        may be fewer than were sent: the rest is to be sent again.

        Args:
            offset: bytes of input that were sent before `data`; "restart" begins to count anew.
        Raises:
            ProblemError: too_many where the program reads nothing; input_unknown where a server before this one may have given
                it some; wrong_state where bytes between are missing.
        """
        known, _, terminal = await self._open(eid, epoch)
        async with terminal.turn:
            if offset == "restart":
                terminal.count = 0
                offset = 0
            if terminal.count is None:
                raise known.refuse("input_unknown", "was given input by a server before this one; begin the count anew with `restart`")
            if offset > terminal.count:
                raise known.refuse("wrong_state", f"has had {terminal.count} bytes of input, not {offset}")
            rest = data[terminal.count - offset :]
            try:
                taken = await terminal.type_in(rest, _READ_S)
            except TerminalClosed:
                raise known.refuse("wrong_state", "is over") from None
            if rest and not taken:
                detail = f"execution {eid} does not read what is typed; it has had {terminal.count} bytes"
                raise ProblemError("too_many", detail, _RETRY_S, eid, known.about)
            return terminal.count

    async def type_on(self, eid: str, epoch: str, data: bytes, place: Place | None = None) -> None:
        """Give its terminal these bytes behind all that it has had; waits for the program to be there, and to read them. One that
        does not read keeps nobody else from having a turn, and being told so. `place`: what the typist has given it already, over
        another link, is not typed again. Raises invalid, too: bytes before them are missing."""
        known, _, terminal = await self._open(eid, epoch, _FOR_EVER_S)
        end = 0 if place is None else place.offset + len(data)
        typist = None if place is None else place.typist
        while data:
            async with terminal.turn:
                if typist is not None:
                    missing = end - terminal.typed_by(typist)
                    if missing > len(data):
                        raise known.refuse("invalid", f"has not had the {missing - len(data)} bytes of this typist's before these")
                    data = data[len(data) - max(0, missing) :]
                try:
                    data = data[await terminal.type_in(data, _READ_S, typist) :]
                except TerminalClosed:
                    raise known.refuse("wrong_state", "is over") from None

    async def resize(self, eid: str, epoch: str, rows: int, cols: int) -> Execution:
        """The size of its terminal, in characters, from now on, or from its start on."""
        _, live, terminal = self._find(eid, epoch)
        terminal.resize(rows, cols)
        return answers.live_answer(live)

    def view(self, eid: str, epoch: str, offset: int | None, typist: str | None = None) -> TerminalView:
        """What its terminal shows from this offset into its whole output on; None: from now on. Of an execution that is over,
        too. `typist`: who looks, and types by `Place`."""
        known = self._lookup.find(eid, epoch)
        if known.live is not None:
            on_terminal, shown = known.live.terminal is not None, known.live.total_bytes
            seen = known.live.terminal
            count = None if seen is None else seen.count if typist is None else seen.seat(typist)
        else:
            assert known.row is not None
            assert known.row.final is not None
            spec = known.row.spec or {}
            on_terminal, shown, count = "tty" in spec and "opens" not in spec, known.row.final["output"]["total"], None
        if not on_terminal:
            raise known.refuse("wrong_state", "runs on no terminal")
        about, events = self._follow(eid, epoch, None if offset is None else (offset,))
        return TerminalView(about, shown if offset is None else offset, count, events)

    async def _open(self, eid: str, epoch: str, within_s: float = _START_S) -> tuple[Known, LiveExecution, Terminal]:
        """Its terminal, once it is there: its start may be a moment away, or its init's link."""
        known, live, terminal = self._find(eid, epoch)
        await live.moved.until(lambda: terminal.open or live.ended_at is not None, within_s)
        if not terminal.open:
            raise known.refuse("wrong_state", "is over" if live.ended_at is not None else "has not started, or cannot be reached just now")
        return known, live, terminal

    def _find(self, eid: str, epoch: str) -> tuple[Known, LiveExecution, Terminal]:
        known = self._lookup.find(eid, epoch)
        live = known.live
        if live is None or live.ended_at is not None:
            raise known.refuse("wrong_state", "is over")
        if live.terminal is None:
            raise known.refuse("wrong_state", "runs on no terminal")
        return known, live, live.terminal
