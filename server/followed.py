"""Executions as followers see them: those alive in memory, also beyond their end, and those that the journal has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

from remote_env.protocol import Execution
from server import answers
from server.events import FollowedOutput
from server.journal import ExecutionRow
from server.live import LiveExecution
from server.output import LiveOutput
from server.spool import Kept, Spool, Stream, read_at
from server.waits import WaitRoom


class _EndedOutput:
    """What is kept of one stream."""

    def __init__(self, stream: Stream, path: Path, kept: Kept) -> None:
        self.stream = stream
        self._path = path
        self._kept = kept

    @property
    def total(self) -> int:
        return self._kept.total

    def available(self, offset: int) -> tuple[int, int]:
        return self._kept.available(offset)

    async def read(self, start: int, end: int) -> bytes:
        return await asyncio.to_thread(read_at, self._path, start, end)


class _LiveOutput:
    """What can still be read of one stream: while it runs more than what will be kept, afterwards just that."""

    def __init__(self, live: LiveExecution, output: LiveOutput) -> None:
        self.stream = output.stream
        self._live = live
        self._file = output.spool_file

    @property
    def total(self) -> int:
        return self._file.total

    def available(self, offset: int) -> tuple[int, int]:
        if self._live.ended_at is None:
            return self._file.available(offset)
        assert self._live.final is not None
        return answers.kept_of(self._live.final, self.stream).available(offset)

    async def read(self, start: int, end: int) -> bytes:
        return await asyncio.to_thread(read_at, self._file.path, start, end)


class EndedExecution:
    """A final row of the journal. Nothing about it changes."""

    over = True

    def __init__(self, row: ExecutionRow, spool: Spool, room: WaitRoom) -> None:
        assert row.final is not None
        self._row = row
        self._spool = spool
        self._room = room
        self.started = row.final.get("started_at") is not None
        self.outputs: tuple[FollowedOutput, ...] = tuple(
            _EndedOutput(stream, spool.path(row.id, stream), answers.kept_of(row.final, stream)) for stream in answers.streams_of(row.final)
        )

    @property
    def stopping(self) -> bool:
        return self._room.closed

    def record(self) -> Execution:
        return answers.row_answer(self._row, self._spool)

    async def change(self, seconds: float) -> None:
        raise AssertionError(f"execution {self._row.id} is over: there is nothing to wait for")


class RunningExecution:
    """An execution that had not ended when it was first followed."""

    def __init__(self, live: LiveExecution, spool: Spool, room: WaitRoom) -> None:
        self._live = live
        self._spool = spool
        self._room = room
        self.outputs: tuple[FollowedOutput, ...] = tuple(_LiveOutput(live, output) for output in live.outputs)

    @property
    def started(self) -> bool:
        return self._live.started_at is not None

    @property
    def over(self) -> bool:
        return self._live.ended_at is not None

    @property
    def stopping(self) -> bool:
        return self._room.closed

    def record(self) -> Execution:
        return answers.ended_answer(self._live, self._spool) if self.over else answers.live_answer(self._live)

    async def change(self, seconds: float) -> None:
        await self._live.moved.wait(seconds)
