"""What the follower of an execution is told next: how it stands, what it says, and what of that is gone. No HTTP here.

A follower stands at a position and reads from the spool file at its own pace. One piece at a time is in memory for it,
whatever it does: a slow one falls behind and finds gaps where the output limit has dropped what it did not get to see;
the command and other followers notice nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from remote_env.protocol import Execution, ExecutionState
from server.lifetime import RETRY_AFTER_STOP_S
from server.spool import Stream

PIECE = 64 * 1024  # bytes of output in one event at most
PACE_S = 0.01  # a follower that has caught up is told at most so often: a chatty command must not cost an event a line

Position = tuple[int, ...]
"""Where a follower stands: for each stream, in order, the offset into the WHOLE output at which what comes next begins."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The first event of every connection. `position` is where this one begins, None where that is the beginning."""

    execution: Execution
    position: Position | None


@dataclass(frozen=True, slots=True)
class Started:
    """The command runs, or has run. Said once on every connection."""

    execution: Execution


@dataclass(frozen=True, slots=True)
class Piece:
    """Some output. It is UTF-8 by itself, or a few bytes of a torn character, or no text at all."""

    stream: Stream
    offset: int  # of its first byte
    data: bytes
    position: Position  # behind it


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes [start, end) of a stream are not to be had any more."""

    stream: Stream
    start: int
    end: int
    position: Position  # behind it


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing has happened for a while, and the server is alive."""

    state: ExecutionState


@dataclass(frozen=True, slots=True)
class Stopping:
    """The last event where the server stops: come again after so many seconds."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class End:
    """The last event: the execution is over, and all that can be had of its output was said."""

    execution: Execution


Event = Accepted | Started | Piece | Gap | Heartbeat | Stopping | End


class FollowedOutput(Protocol):
    """One stream of an execution's output. Offsets are into the whole output, in bytes."""

    @property
    def stream(self) -> Stream: ...

    @property
    def total(self) -> int:
        """What was written so far."""

    def available(self, offset: int) -> tuple[int, int]:
        """The next stretch [start, end) that can be read, from `offset` on. Empty where there is none (yet); `start` is beyond
        `offset` where what lies between is gone."""

    async def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end), fewer where there are fewer. What is no longer available afterwards may not be what was
        written. Raises FileNotFoundError where the output was purged."""


class Followed(Protocol):
    """An execution, while it runs and after it has ended."""

    @property
    def outputs(self) -> Sequence[FollowedOutput]:
        """The merged output, or stdout and stderr."""

    @property
    def started(self) -> bool: ...

    @property
    def over(self) -> bool:
        """Nothing about it will change any more, its output neither."""

    @property
    def stopping(self) -> bool:
        """The server stops."""

    def record(self) -> Execution:
        """As a GET answers it now."""

    async def change(self, seconds: float) -> None:
        """Return when something may have changed, after so many seconds at the latest."""


def starting_point(followed: Followed, asked: Position | None) -> Position | None:
    """Where a follower begins that asked for this position: () is the beginning of everything, None what comes from now on.
    None where it is no position of this execution."""
    totals = tuple(output.total for output in followed.outputs)
    if asked is None:
        return totals
    if not asked:
        return (0,) * len(totals)
    fits = len(asked) == len(totals) and all(offset <= total for offset, total in zip(asked, totals, strict=True))
    return asked if fits else None


async def follow(
    followed: Followed, start: Position, *, announce: bool, heartbeat_s: float, pace_s: float = PACE_S
) -> AsyncGenerator[Event, None]:
    """Everything from `start` on, until the end of the execution or of the server.

    Args:
        start: for each of its outputs, how far into it; not beyond its present total.
        announce: whether `Accepted` says where it begins.
        heartbeat_s: seconds without another event after which one is made.
        pace_s: seconds to let output gather after the last was told, while there is no more of it than fits in one event.
    """
    loop = asyncio.get_running_loop()
    cursors = [_Cursor(output, offset) for output, offset in zip(followed.outputs, start, strict=True)]

    def position() -> Position:
        return tuple(cursor.offset for cursor in cursors)

    yield Accepted(followed.record(), position() if announce else None)
    started = False
    said_at = loop.time()
    while not followed.stopping:
        if followed.started and not started:
            started = True
            yield Started(followed.record())
            said_at = loop.time()
        over = followed.over  # looked at before the output: what is there now is all of it
        behind = [cursor for cursor in cursors if cursor.is_behind(over)]
        for cursor in behind:
            for begin, end, data in await cursor.take(over):
                cursor.offset = end
                stream = cursor.output.stream
                yield Gap(stream, begin, end, position()) if data is None else Piece(stream, begin, data, position())
                said_at = loop.time()
        if behind:
            # While that was read and sent, more may have come. The end is told at once, and so is what comes after a silence.
            while not (followed.over or followed.stopping) and (left := said_at + pace_s - loop.time()) > 0:
                if any(cursor.is_far_behind() for cursor in cursors):
                    break
                await followed.change(left)
            continue
        if over:
            yield End(followed.record())
            return
        left = said_at + heartbeat_s - loop.time()
        if left > 0:
            await followed.change(left)
        else:
            yield Heartbeat(followed.record().state)
            said_at = loop.time()
    yield Stopping(RETRY_AFTER_STOP_S)


class _Cursor:
    """Where a follower stands in one stream."""

    def __init__(self, output: FollowedOutput, offset: int) -> None:
        self.output = output
        self.offset = offset
        self._held = offset  # up to here there is only the beginning of a character, whose rest has not come

    def is_behind(self, over: bool) -> bool:
        """Whether there is something to say now."""
        start, end = self.output.available(self.offset)
        if start > self.offset:
            return True
        return end > self.offset and (end > self._held or over or self._gap_at(end))

    def is_far_behind(self) -> bool:
        """Whether there is enough to say to fill an event."""
        start, end = self.output.available(self.offset)
        return end - start >= PIECE

    def _gap_at(self, offset: int) -> bool:
        return self.output.available(offset)[0] > offset

    async def take(self, over: bool) -> list[tuple[int, int, bytes | None]]:
        """What comes next, as (start, end, bytes, or None where they are gone). Empty where it is only part of a character."""
        start, end = self.output.available(self.offset)
        if start > self.offset:
            return [(self.offset, start, None)]
        try:
            data = await self.output.read(start, min(end, start + PIECE))
        except FileNotFoundError:
            return [(start, self.output.total, None)]
        if not data:
            raise OSError(f"the spool file ends before byte {start} of the {self.output.stream} output")
        # Some of it may have been dropped while it was read: only what is still there was surely read as it was written.
        left, end = self.output.available(start)
        if left > start:
            return [(start, left, None)]
        data = data[: end - start]
        end = start + len(data)
        rest_comes = not self._gap_at(end) and not (over and end >= self.output.total)
        parts: list[tuple[int, int, bytes | None]] = []
        for part in cut_text(data, rest_comes):
            parts.append((start, start + len(part), part))
            start += len(part)
        if not parts:
            self._held = end
        return parts


def cut_text(data: bytes, rest_comes: bool) -> list[bytes]:
    """Cut so that text stands by itself: what is left of a character torn at the beginning stands apart; one torn at the
    end too, or it is left out where its rest comes. At most three parts; together they are a beginning of `data`."""
    head = _torn_head(data)
    tail = _torn_tail(data[head:])
    end = len(data) - tail
    parts = [data[:head], data[head:end], b"" if rest_comes else data[end:]]
    return [part for part in parts if part]


def _torn_head(data: bytes) -> int:
    """Bytes at the beginning that end a character which began before; 0 where it is no UTF-8 at all."""
    length = next((at for at, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), min(len(data), 4))
    return length if length < 4 else 0


def _torn_tail(data: bytes) -> int:
    """Bytes at the end that begin a character whose rest is missing."""
    for length in range(1, min(3, len(data)) + 1):
        byte = data[-length]
        if byte & 0xC0 != 0x80:  # ASCII or the first byte of a character
            whole = 4 if 0xF0 <= byte <= 0xF4 else 3 if byte & 0xF0 == 0xE0 else 2 if 0xC2 <= byte <= 0xDF else 1
            return length if whole > length else 0
    return 0
