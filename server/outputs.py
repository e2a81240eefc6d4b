"""Outputs as requests see them: a stretch of what is kept, or all that comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

from server.api.services import OutputSlice
from server.correlation import Correlation
from server.events import Event, Position, follow, starting_point
from server.followed import EndedExecution, RunningExecution
from server.lookup import Lookup
from server.slices import chosen_output, ended_slice, running_slice, stable_bytes
from server.spool import Spool
from server.waits import WaitRoom


class Outputs:
    """All methods raise ProblemError: not_found, epoch_mismatch, gone; invalid where the execution has no such stream or position."""

    def __init__(self, lookup: Lookup, spool: Spool, room: WaitRoom, heartbeat_s: float) -> None:
        self._lookup = lookup
        self._spool = spool
        self._room = room
        self._heartbeat_s = heartbeat_s

    async def slice(self, eid: str, epoch: str, start: int, end: int | None, wait_s: float, stream: str | None) -> OutputSlice:
        """See `Services.output`."""
        known = self._lookup.find(eid, epoch)
        if known.live is not None:
            live, output = known.live, chosen_output(known.live, stream)
            await live.moved.until(lambda: live.ended_at is not None or stable_bytes(output) > start, wait_s)
            if live.ended_at is None:
                return replace(running_slice(live, output, start, end), about=known.about)
            final = live.final
        else:
            assert known.row is not None
            final = known.row.final
        assert final is not None
        return replace(ended_slice(self._spool, eid, final, stream, start, end), about=known.about)

    def follow(self, eid: str, epoch: str, at: Position | None) -> tuple[Correlation, AsyncGenerator[Event, None]]:
        """See `Services.follow`."""
        known = self._lookup.find(eid, epoch)
        followed: RunningExecution | EndedExecution
        if known.live is not None:
            followed = RunningExecution(known.live, self._spool, self._room)
        else:
            assert known.row is not None
            followed = EndedExecution(known.row, self._spool, self._room)
        start = starting_point(followed, at)
        if start is None:
            raise known.refuse("invalid", "has no such position")
        return known.about, follow(followed, start, announce=at != (), heartbeat_s=self._heartbeat_s)
