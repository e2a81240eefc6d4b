"""Jobs, journal entries and results, as short as a test can say them."""

from __future__ import annotations

import itertools
from datetime import datetime, timezone
from typing import Any

from remote_env.batch.entries import Begun, Closed, Dropped, Ended, Fetched, NotRun, Ready, Sent, TakenUp
from remote_env.batch.jobs import Job
from remote_env.batch.results import ArtifactResult, CommandResult, JobOutcome, JobResult, Phase
from remote_env.protocol import Outcome

AT = datetime(2030, 1, 1, tzinfo=timezone.utc)
_ids = itertools.count()


def job(id: str = "a", **fields: Any) -> Job:
    return Job.model_validate({"id": id, "image": "busybox", "commands": ["true"], **fields})


def command(
    kind: str = "exited", code: int | None = 0, *, phase: Phase = "command", index: int = 0, seconds: float = 1.0, **more: Any
) -> CommandResult:
    """A command that ended so."""
    fields = {"kind": kind, "ran": kind not in ("failed_to_start", "not_run"), "code": code if kind == "exited" else None}
    outcome = Outcome.model_validate(fields | {name: more.pop(name) for name in ("reason", "signal", "clock") if name in more})
    return CommandResult(
        phase=phase, index=index, command="x", execution_id=f"execution-{next(_ids)}", outcome=outcome, exit_code=outcome.code,
        duration_s=seconds, timeout_s=more.pop("timeout_s", 1800.0), **more,
    )  # fmt: skip


def result(id: str = "a", outcome: JobOutcome = "passed", *, attempt: int = 1, **more: Any) -> JobResult:
    fields = {"image": "busybox", "run_id": "run-0000", "queued_at": AT, "ended_at": AT, **more}
    return JobResult(id=id, attempt=attempt, outcome=outcome, **fields)


class Story:
    """The journal entries of one attempt of a job."""

    def __init__(self, of: Job, attempt: int = 1) -> None:
        self._job = of
        self._named: dict[str, Any] = {"job": of.id, "attempt": attempt, "at": 0.0}

    def begun(self, sandbox_id: str = "sandbox-0", server: str = "http://a:1", **more: Any) -> Begun:
        fields = {"digest": self._job.digest, "server": server, "sandbox_id": sandbox_id, "lease_s": 300.0, "worker": 0, "queued_at": 0.0}
        return Begun.model_validate(self._named | fields | more)

    def taken_up(self) -> TakenUp:
        return TakenUp(worker=1, **self._named)

    def ready(self) -> Ready:
        return Ready(epoch="epoch-00", create_s=0.5, **self._named)

    def sent(self, step: int, execution_id: str | None = None, timeout_s: float = 1800.0) -> Sent:
        return Sent(step=step, execution_id=execution_id or f"step-{step}", timeout_s=timeout_s, **self._named)

    def not_run(self, step: int, execution_id: str | None = None) -> NotRun:
        return NotRun(step=step, execution_id=execution_id or f"step-{step}", **self._named)

    def ended(self, step: int, ended: CommandResult | None = None) -> Ended:
        return Ended(step=step, result=ended or command(), **self._named)

    def fetched(self, *artifacts: ArtifactResult) -> Fetched:
        return Fetched(artifacts=list(artifacts), **self._named)

    def dropped(self) -> Dropped:
        return Dropped(reason="no room", **self._named)

    def closed(self, outcome: JobOutcome = "passed") -> Closed:
        return Closed(outcome=outcome, reason=None, **self._named)
