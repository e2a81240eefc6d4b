"""Slices of an execution's output, as GET …/output serves them: offsets count kept bytes, head and tail in a row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from server.answers import kept_of, streams_of
from server.api.services import OutputSlice
from server.live import LiveExecution
from server.machines.execution import State
from server.output import LiveOutput
from server.problems import ProblemError
from server.spool import MERGED, Spool, Stream, read, read_at

_CHUNK = 1 << 20  # bytes of output in one piece of an answer


def chosen(streams: tuple[Stream, ...], wanted: str | None, execution_id: str) -> Stream:
    """Which of an execution's streams a request is about; the first where it names none. Raises ProblemError wrong_state."""
    if wanted is None:
        return streams[0]
    for stream in streams:
        if stream == wanted:
            return stream
    held = "its output merged" if streams == MERGED else "stdout and stderr apart"
    raise ProblemError("wrong_state", f"execution {execution_id} has {held}: there is no {wanted}", id=execution_id)


def ended_slice(spool: Spool, execution_id: str, final: Mapping[str, Any], wanted: str | None, start: int, end: int | None) -> OutputSlice:
    """Bytes [start, end) of what is kept of one stream of an ended execution. Raises ProblemError gone where it was purged,
    wrong_state where it has no such stream."""
    stream = chosen(streams_of(final), wanted, execution_id)
    kept = kept_of(final, stream)
    state = "abandoned" if final["outcome"]["kind"] == "not_run" else "ended"
    last = kept.size if end is None else min(end, kept.size)
    path = spool.path(execution_id, stream)
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


def chosen_output(live: LiveExecution, wanted: str | None) -> LiveOutput:
    """The output of a running execution that a request is about. Raises ProblemError wrong_state."""
    stream = chosen(tuple(output.stream for output in live.outputs), wanted, live.id)
    return next(output for output in live.outputs if output.stream == stream)


def running_slice(live: LiveExecution, output: LiveOutput, start: int, end: int | None) -> OutputSlice:
    """Bytes [start, end) of what a running execution has said on one stream. Only the head is served: its place in the kept
    output will not change any more."""
    stable = stable_bytes(output)
    last = stable if end is None else min(end, stable)
    state = "running" if live.machine.state is not State.WAITING else "accepted"
    path = output.spool_file.path

    async def chunks() -> AsyncIterator[bytes]:
        at = start
        while at < last:
            piece = await asyncio.to_thread(read_at, path, at, min(at + _CHUNK, last))
            if not piece:
                raise OSError(f"the spool file of {live.id} is shorter than its output")
            yield piece
            at += len(piece)

    return OutputSlice(state=state, total=None, start=start, end=max(start, last), chunks=chunks())


def stable_bytes(output: LiveOutput) -> int:
    """Bytes at the beginning of a stream of a running execution that will be kept whatever comes."""
    return min(output.spool_file.kept().head, output.spool_file.limit // 2)
