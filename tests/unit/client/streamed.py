"""What the tests of following an execution begin with: streams in each phase, and what a server says."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from remote_env.events import (
    Accepted,
    Greeting,
    OutputPiece,
    StreamName,
    WireEvent,
)
from remote_env.protocol import Execution, Outcome, Output, Problem
from remote_env.stream import Phase, Stream
from remote_env.stream_steps import (
    Broke,
    Fail,
    Fetch,
    Heard,
    Read,
    Step,
)
from remote_env.timings import Timings

TIMINGS = Timings()
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
RUNNING = Execution(id="e" * 32, sandbox_id="s" * 32, epoch="epoch", run_id="r" * 32, state="running", started_at=AT)
HELLO = b"hello "
WORLD = "wörld\n".encode()
POLL_FROM_6 = Fetch("merged", 6, 6 + (1 << 20), TIMINGS.poll_slice_s)


def kept(output: bytes, limit: int = 1 << 20, *, inline: bool = True) -> Output:
    """What a server keeps of this output, as it says so at the end."""
    half = limit // 2
    data, gap = (output, None) if len(output) <= limit else (output[:half] + output[-half:], (half, len(output) - half))
    return Output(
        text=data.decode("latin-1") if inline and data.isascii() else None,
        total_bytes=len(output),
        kept_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        gap=gap,
        truncated="limit" if gap else None,
    )


def ended(written: bytes, **fields: Any) -> Execution:
    outcome = Outcome(kind="exited", ran=True, code=0)
    return RUNNING.model_copy(update={"state": "ended", "outcome": outcome, "output": kept(written, inline=False), **fields})


def greeting(position: str | None = None, record: Execution = RUNNING) -> Greeting:
    return Greeting(Accepted(record.id, record.sandbox_id, record.epoch, record.run_id, record.streams, record.accepted_at), position)


def piece(offset: int, data: bytes, stream: StreamName = "merged") -> OutputPiece:
    return OutputPiece(stream, offset, data)


def begun(record: Execution = RUNNING, start: Sequence[int] | None = (0,), timings: Timings = TIMINGS) -> Stream:
    stream = Stream(record, start=start, timings=timings, draw=lambda: 0.0)
    stream.begin(0.0)
    return stream


def streaming(*events: WireEvent) -> Stream:
    stream = begun()
    assert stream.handle(Heard(1.0, (greeting(), *events))).next == Read()
    return stream


def polling(now: float = 1.0, record: Execution = RUNNING, start: Sequence[int] | None = (0,)) -> Stream:
    stream = begun(record, start)
    stream.handle(Broke(now, "nothing came", silent=True))
    assert stream.phase is Phase.POLLING
    return stream


def refusal(code: str, retry_after_s: float | None = None) -> Problem:
    return Problem.of(code, "by a test's order", retry_after_s=retry_after_s)


def error_of(step: Step) -> Exception:
    assert isinstance(step.next, Fail)
    return step.next.error
