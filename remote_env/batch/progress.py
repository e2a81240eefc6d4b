"""How far a batch is, counted from what it tells. Without I/O; times are seconds since the epoch, as the events have them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from remote_env.batch.events import (
    BatchEvent,
    BatchStarted,
    BatchState,
    BatchStateName,
    JobFinished,
    JobQueued,
    JobStarted,
    JobStep,
    JobWaiting,
    LinkStateName,
    ServerState,
)
from remote_env.batch.results import OUTCOMES

_WINDOW = 200  # endings that the rate is taken from


@dataclass(frozen=True)
class Running:
    """A job that a worker has. `doing` is its step in words."""

    id: str
    server: str
    since: float
    doing: str = "its sandbox is made"


class Progress:
    """Feed it every event, in order. One thread at a time, as a batch calls its listeners."""

    def __init__(self) -> None:
        self.total = 0
        self.kept = 0  # results of an earlier run of the same directory
        self.finished = 0  # in this run
        self.state: BatchStateName = "running"
        self.counts: Counter[str] = Counter()
        self.running: dict[str, Running] = {}
        self.servers: dict[str, tuple[LinkStateName, str | None]] = {}
        self._began = 0.0
        self._endings: deque[float] = deque(maxlen=_WINDOW)

    def feed(self, event: BatchEvent) -> None:
        if isinstance(event, BatchStarted):
            self.total, self.kept, self._began = event.total, len(event.kept), event.at
            self.counts.update(result.outcome for result in event.kept)
        elif isinstance(event, JobStarted):
            self.running[event.id] = Running(event.id, event.server, event.at)
        elif isinstance(event, (JobStep, JobWaiting)):
            self._step(event)
        elif isinstance(event, JobQueued):
            self.running.pop(event.id, None)
        elif isinstance(event, JobFinished):
            self.running.pop(event.result.id, None)
            self.finished += 1
            self.counts[event.result.outcome] += 1
            self._endings.append(event.at)
        elif isinstance(event, ServerState):
            self.servers[event.url] = (event.state, event.detail)
        elif isinstance(event, BatchState):
            self.state = event.state

    @property
    def done(self) -> int:
        return self.kept + self.finished

    @property
    def queued(self) -> int:
        return max(0, self.total - self.done - len(self.running))

    @property
    def shown_counts(self) -> Mapping[str, int]:
        """All that stand in a line of numbers: running, queued, and each outcome that there is, passed and failed always."""
        ended: dict[str, int] = {name: self.counts[name] for name in OUTCOMES if self.counts[name] or name in ("passed", "failed")}
        return {"running": len(self.running), "queued": self.queued, **ended}

    def slowest(self) -> Running | None:
        """The running job that began first."""
        return min(self.running.values(), key=lambda job: job.since, default=None)

    def rate(self, now: float) -> float | None:
        """Jobs that end in a second, of late; None before the first has."""
        if not self._endings:
            return None
        since = self._began if self.finished <= _WINDOW else self._endings[0]
        return len(self._endings) / max(now - since, 1e-3)

    def left_s(self, now: float) -> float | None:
        """Seconds until all jobs have ended, if it goes on like this; None where nobody can say, or not all will."""
        rate = self.rate(now)
        if rate is None or self.state != "running":
            return None
        return (self.total - self.done) / rate

    def _step(self, event: JobStep | JobWaiting) -> None:
        job = self.running.get(event.id)
        if job is None:
            return
        if isinstance(event, JobWaiting):
            doing = "waits for room"
        elif event.phase in ("setup", "command"):
            doing = f"{event.phase} {event.index + 1}/{event.count}" + (f" ({event.name})" if event.name else "")
        else:
            doing = {"create": "its sandbox is made", "files": "files go up", "artifacts": "artifacts come", "remove": "is removed"}[
                event.phase
            ]
        self.running[event.id] = Running(job.id, job.server, job.since, doing)
