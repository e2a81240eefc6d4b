"""What a batch tells while it runs. Listeners are called from worker threads, one at a time, in the order of what happened.

Times are seconds since the epoch (`time.time()`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from remote_env.batch.results import JobResult
from remote_env.batch.summary import Summary

StepPhase = Literal["create", "files", "setup", "command", "artifacts", "remove"]
LinkStateName = Literal["connected", "disconnected", "dead"]
BatchStateName = Literal["running", "draining", "cancelling"]


@dataclass(frozen=True)
class BatchStarted:
    """First of all. `kept` are the results that an earlier run of the same directory left."""

    at: float
    run_id: str
    out: str
    total: int  # jobs of this run, those in `kept` included
    workers: int
    servers: tuple[str, ...]
    kept: tuple[JobResult, ...] = ()


@dataclass(frozen=True)
class JobQueued:
    """It waits for a worker: at the beginning, or again, because its server died before it was started there (`reason`)."""

    at: float
    id: str
    attempt: int = 1
    reason: str | None = None


@dataclass(frozen=True)
class JobStarted:
    """A worker has it. `reattached`: an earlier process of the batch had begun it."""

    at: float
    id: str
    attempt: int
    server: str
    worker: int
    reattached: bool = False


@dataclass(frozen=True)
class JobWaiting:
    """The server has no room for it just now; it is asked again."""

    at: float
    id: str
    server: str
    reason: str


@dataclass(frozen=True)
class JobStep:
    """It has begun this step. `index` counts from 0 among the `count` of its phase."""

    at: float
    id: str
    phase: StepPhase
    index: int = 0
    count: int = 1
    name: str | None = None


@dataclass(frozen=True)
class JobFinished:
    """Its line is in results.jsonl."""

    at: float
    result: JobResult


@dataclass(frozen=True)
class ServerState:
    """connected; disconnected: asked again and again; dead: given up, its jobs are lost or moved."""

    at: float
    url: str
    state: LinkStateName
    detail: str | None = None


@dataclass(frozen=True)
class BatchState:
    """draining: what runs ends, nothing is begun any more. cancelling: what runs is cancelled and removed."""

    at: float
    state: BatchStateName


@dataclass(frozen=True)
class Message:
    """A sentence for whoever watches."""

    at: float
    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class BatchEnded:
    """Last of all."""

    at: float
    summary: Summary
    exit_code: int
    unfinished: tuple[str, ...] = field(default=())  # ids of jobs without a result


BatchEvent = BatchStarted | JobQueued | JobStarted | JobWaiting | JobStep | JobFinished | ServerState | BatchState | Message | BatchEnded
Listener = Callable[[BatchEvent], None]
