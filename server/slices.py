"""Slices of an execution's output, as GET …/output serves them: offsets count kept bytes, head and tail in a row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from server.answers import kept_of
from server.api.services import OutputSlice
from server.live import LiveExecution
from server.machines.execution import State
from server.problems import ProblemError
from server.spool import Spool, read

_CHUNK = 1 << 20  # bytes of output in one piece of an answer


def ended_slice(spool: Spool, execution_id: str, final: Mapping[str, Any], start: int, end: int | None) -> OutputSlice:
    """Bytes [start, end) of what is kept of an ended execution's output. Raises ProblemError gone where it was purged."""
    kept = kept_of(final)
    state = "abandoned" if final["outcome"]["kind"] == "not_run" else "ended"
    last = kept.size if end is None else min(end, kept.size)
    path = spool.path(execution_id)
    if kept.size and not path.exists():
        raise ProblemError("gone", f"the output of execution {execution_id} was purged", id=execution_id)

    async def chunks() -> AsyncIterator[bytes]:
        at = start
        while at < last:
            piece = await asyncio.to_thread(read, path, kept, at, min(at + _CHUNK, last))
            if not piece:
                raise OSError(f"the spool file of {execution_id} is shorter than its output")
            yield piece
            at += len(piece)

    return OutputSlice(state=state, total=kept.size, start=start, end=max(start, last), chunks=chunks())


def running_slice(live: LiveExecution, start: int, end: int | None) -> OutputSlice:
    """Bytes [start, end) of what a running execution has said. Only the head is served: its place in the kept output will
    not change any more."""
    stable = stable_bytes(live)
    last = stable if end is None else min(end, stable)
    state = "running" if live.machine.state is not State.WAITING else "accepted"
    file = live.spool_file

    async def chunks() -> AsyncIterator[bytes]:
        at = start
        while file is not None and at < last:
            piece = await asyncio.to_thread(read, file.path, file.kept(), at, min(at + _CHUNK, last))
            if not piece:
                raise OSError(f"the spool file of {live.id} is shorter than its output")
            yield piece
            at += len(piece)

    return OutputSlice(state=state, total=None, start=start, end=max(start, last), chunks=chunks())


def stable_bytes(live: LiveExecution) -> int:
    """Bytes at the beginning of a running execution's output that will be kept whatever comes."""
    return 0 if live.spool_file is None else min(live.spool_file.kept().head, live.output_limit // 2)
