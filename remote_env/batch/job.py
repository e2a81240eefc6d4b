"""Carries one attempt of a job out: does what `plan` says comes next, and journals it before."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from remote_env.batch import plan
from remote_env.batch.collecting import clear_unfinished, collect_output, fetch_artifacts, gone_artifacts
from remote_env.batch.directory import BatchDirectory
from remote_env.batch.entries import Closed, Dropped, Ended, Entry, Fetched, NotRun, Ready, Sent
from remote_env.batch.events import BatchEvent, JobStep, StepPhase
from remote_env.batch.fate import Fate, ruling
from remote_env.batch.jobs import Job, JobCommand
from remote_env.batch.results import CommandResult, JobOutcome, JobResult
from remote_env.batch.servers import Server
from remote_env.client import Client
from remote_env.creation import forget_sandbox
from remote_env.driving import drive
from remote_env.errors import CommandNotDelivered, EpochChanged, LinkLost, MisuseError, NotRunError, RemoteEnvError, SandboxGone
from remote_env.execution import Execution
from remote_env.protocol import new_id
from remote_env.sandbox import Sandbox

UNDELIVERED_MOST = 3  # times in a row that a command is sent, none of which arrives
CANCELLED = "cancelled by Ctrl-C"


class Desk(Protocol):
    """What a job's work needs of the batch."""

    @property
    def directory(self) -> BatchDirectory: ...

    @property
    def base(self) -> Path:
        """What `source` paths start from."""

    @property
    def cancelling(self) -> bool:
        """Whether what runs is to be ended."""

    def keeps(self, outcome: JobOutcome) -> bool:
        """Whether the sandbox of a job that ended so is to stay."""

    def emit(self, event: BatchEvent) -> None: ...


@dataclass(frozen=True)
class Finished:
    result: JobResult


@dataclass(frozen=True)
class Left:
    """It may be running; it stays as it is journaled."""

    sandbox_id: str
    reason: str


@dataclass(frozen=True)
class Unbegun:
    """Nothing of it ran. `fate`: WAIT, MOVE or AGAIN."""

    fate: Fate
    reason: str


class _Cancelled(Exception):
    """The batch is to end now."""


class JobRun:
    """One attempt of one job, at one server, in one worker's hands.

    Args:
        attempt: what the journal says of it; its last entry is Begun or TakenUp, of this worker.
        on_ready: called once its sandbox is there.
        on_dead_server: called with the error where the server is of no use.
    """

    def __init__(
        self, job: Job, attempt: plan.Attempt, server: Server, desk: Desk, *, worker: int,
        on_ready: Callable[[], None], on_dead_server: Callable[[RemoteEnvError], None],
    ) -> None:  # fmt: skip
        self._job = job
        self._attempt = attempt
        self._server = server
        self._client: Client = server.client
        self._desk = desk
        self._worker = worker
        self._on_ready = on_ready
        self._on_dead_server = on_dead_server
        self._sandbox: Sandbox | None = None
        self._uploaded = False
        self._undelivered = 0

    def carry_out(self) -> Finished | Left | Unbegun:
        """Raises OSError where the batch's own directory cannot be written."""
        if self._attempt.taken_up:
            clear_unfinished(self._place())
        while True:
            step = plan.next_step(self._job, self._attempt)
            if isinstance(step, plan.Conclude):
                return self._conclude(step)
            try:
                self._require_going()
                self._act(step)
                self._require_going(unless_concluded=True)
            except _Cancelled:
                return self._cancelled()
            except RemoteEnvError as error:
                return self._rule(error)

    def give_up(self, reason: str) -> Finished:
        """It is not tried, or no further."""
        return self._close("error", reason)

    def without_server(self, why: str) -> Finished | Left | Unbegun:
        """Its server was given up before this could begin."""
        step = plan.next_step(self._job, self._attempt)
        return self._conclude(step) if isinstance(step, plan.Conclude) else self._rule(LinkLost(why))

    def _act(self, step: plan.Create | plan.Run | plan.Fetch) -> None:
        if isinstance(step, plan.Create):
            self._create()
        elif isinstance(step, plan.Run):
            self._run(step)
        else:
            self._fetch()

    def _cancelled(self) -> Finished | Unbegun:
        return self._close("error", CANCELLED) if self._attempt.started else self._give_back(Fate.WAIT, CANCELLED)

    def _rule(self, error: RemoteEnvError) -> Finished | Left | Unbegun:
        if self._desk.cancelling:
            return self._cancelled()
        ruled = ruling(error, started=self._attempt.started)
        if ruled.server_is_dead:
            self._on_dead_server(error)
        if ruled.fate is Fate.LOST:
            return self._close("lost", str(error))
        if ruled.fate is Fate.ERROR:
            return self._close("error", str(error))
        if ruled.fate is Fate.LEAVE:
            return Left(self._attempt.begun.sandbox_id, str(error))
        return self._give_back(ruled.fate, str(error))

    # ------------------------------------------------------------------------------------------------- the steps

    def _create(self) -> None:
        self._tell("create")
        job, begun = self._job, self._attempt.begun
        resources = job.resources
        began = time.monotonic()
        self._sandbox = self._client.create_sandbox(
            job.image, queue_s=0.0, id=begun.sandbox_id, lease_s=begun.lease_s, workdir=job.workdir, env=job.env, user=job.user,
            network=job.network, binds=job.binds, labels={"job": job.id, **job.labels}, cpus=resources.cpus,
            memory_bytes=resources.memory, pids=resources.pids, shm_bytes=resources.shm,
        )  # fmt: skip
        self._on_ready()
        self._note(Ready(epoch=self._sandbox.epoch, create_s=time.monotonic() - began, **self._named()))

    def _run(self, step: plan.Run) -> None:
        if step.sent is None and not self._attempt.started and not self._uploaded:
            self._upload()
            self._require_going()
        count = len(self._job.setup) if step.phase == "setup" else len(self._job.commands)
        self._tell(step.phase, step.index, count, step.command.name)
        execution = None
        if step.sent is None:
            self._live()  # where it is gone, nothing was sent
            sent = Sent(step=step.step, execution_id=new_id(), timeout_s=step.timeout_s, **self._named())
            self._note(sent)
        else:
            sent = step.sent
            execution = self._known(sent)
        try:
            if execution is None:
                execution = self._send(sent, step.command)
        except NotRunError as error:
            self._not_run(sent, error)
            return
        assert execution.outcome is not None
        if execution.outcome.kind == "not_run":  # an earlier process has fenced it, and ended before it could say so
            self._not_run(sent, CommandNotDelivered("The command was fenced: it did not run and never will."))
            return
        self._undelivered = 0
        self._ended(step, execution)

    def _not_run(self, sent: Sent, error: NotRunError) -> None:
        """It may be sent anew, under another id. Raises the error where that would help nobody."""
        self._note(NotRun(step=sent.step, execution_id=sent.execution_id, **self._named()))
        self._undelivered += 1
        if not isinstance(error, CommandNotDelivered) or self._undelivered >= UNDELIVERED_MOST:
            raise error

    def _known(self, sent: Sent) -> Execution | None:
        """The command that an earlier process sent, at its end; None where the server knows nothing of it."""
        try:
            execution = self._client.execution(sent.execution_id)
        except EpochChanged:
            return None
        return execution.wait()

    def _send(self, sent: Sent, command: JobCommand) -> Execution:
        spec: dict[str, Any] = {
            "id": sent.execution_id, "timeout_s": sent.timeout_s, "workdir": command.workdir, "env": command.env, "user": command.user,
            "stdin": command.stdin, "shell": command.shell, "login": command.login, "streams": "split" if command.split else "merged",
        }  # fmt: skip
        if command.output_limit_bytes is not None:
            spec["output_limit_bytes"] = command.output_limit_bytes
        return self._live().run(command.what, idempotent=False, on_undelivered="raise", **spec)

    def _ended(self, step: plan.Run, execution: Execution) -> None:
        record = execution.record
        assert record.outcome is not None
        if self._desk.cancelling and record.outcome.kind in ("cancelled", "lost"):
            raise _Cancelled
        duration = None
        if record.started_at is not None and record.ended_at is not None:
            duration = (record.ended_at - record.started_at).total_seconds()
        stem = self._place() / f"{step.step}-{step.phase}-{step.index}"
        output, stderr = collect_output(execution, self._desk.directory, stem)
        result = CommandResult(
            phase=step.phase, index=step.index, name=step.command.name, command=step.command.what, execution_id=record.id,
            outcome=record.outcome, exit_code=record.outcome.code, started_at=record.started_at, ended_at=record.ended_at,
            duration_s=duration, timeout_s=step.timeout_s, output_file=output.file, total_bytes=output.total_bytes,
            kept_bytes=output.kept_bytes, sha256=output.sha256, truncated=output.truncated, tail=output.tail, output_error=output.error,
            stderr=stderr,
        )  # fmt: skip
        self._note(Ended(step=step.step, result=result, **self._named()))

    def _upload(self) -> None:
        if self._job.files:
            self._tell("files", count=len(self._job.files))
        for entry in self._job.files:
            sandbox = self._live()
            data = entry.data()
            if data is not None:
                sandbox.write(entry.path, data, mode=entry.bits)
                continue
            source = self._desk.base / (entry.source or "")
            try:
                if entry.bits is None:
                    sandbox.upload(source, entry.path)
                else:
                    with open(source, "rb") as file:
                        sandbox.write(entry.path, file, mode=entry.bits)
            except RemoteEnvError:
                raise
            except OSError as error:
                raise _SourceUnreadable(f"{source}: {error.strerror or error}") from error
        self._uploaded = True

    def _fetch(self) -> None:
        self._tell("artifacts", count=len(self._job.artifacts))
        place = self._place() / "artifacts"
        try:
            artifacts = fetch_artifacts(self._live(), self._job.artifacts, self._desk.directory, place)
        except RemoteEnvError as error:
            artifacts = gone_artifacts(self._job.artifacts, str(error))
        self._note(Fetched(artifacts=artifacts, **self._named()))

    # -------------------------------------------------------------------------------------------------- its end

    def _close(self, outcome: JobOutcome, reason: str) -> Finished:
        self._note(Closed(outcome=outcome, reason=reason, **self._named()))
        return self._conclude(plan.Conclude(outcome, reason))

    def _conclude(self, verdict: plan.Conclude) -> Finished:
        if self._attempt.closed is None:
            self._note(Closed(outcome=verdict.outcome, reason=verdict.reason, **self._named()))
        begun, ready = self._attempt.begun, self._attempt.ready
        ended = time.time()
        kept = self._sandbox is not None and self._sandbox.gone is None and self._desk.keeps(verdict.outcome)
        result = JobResult(
            id=self._job.id, attempt=begun.attempt, outcome=verdict.outcome, reason=verdict.reason, image=self._job.image,
            server=begun.server, sandbox_id=begun.sandbox_id, epoch=ready.epoch if ready else None, run_id=self._client.run_id,
            queued_at=_time(begun.queued_at), started_at=_time(begun.at), ended_at=_time(ended), duration_s=max(0.0, ended - begun.at),
            create_s=ready.create_s if ready else None, worker=self._worker, kept=kept, reattached=self._attempt.taken_up,
            commands=list(self._attempt.ended), artifacts=list(self._attempt.artifacts or ()), metadata=self._job.metadata,
        )  # fmt: skip
        if not kept:
            self._remove()  # first: of a job with a result, no later run looks for a sandbox
        self._desk.directory.conclude(result)
        return Finished(result)

    def _give_back(self, fate: Fate, reason: str) -> Unbegun:
        self._note(Dropped(reason=reason, **self._named()))
        if fate is not Fate.WAIT or self._attempt.ready is not None or self._desk.cancelling:
            self._remove()
        return Unbegun(fate, reason)

    def _remove(self) -> None:
        """What is left here is removed at the end of the batch, or by its lease."""
        self._tell("remove")
        if self._sandbox is not None:
            self._sandbox.mark_gone("it was removed")
        if self._server.reason is None:
            drive(forget_sandbox(self._client.exchange, self._attempt.begun.sandbox_id))

    # --------------------------------------------------------------------------------------------------- helpers

    def _live(self) -> Sandbox:
        """Its sandbox, in the life that its commands are meant for. Raises SandboxGone."""
        if self._sandbox is None:
            ready = self._attempt.ready
            assert ready is not None
            sandbox = self._client.sandbox(self._attempt.begun.sandbox_id)
            if sandbox.gone is not None or sandbox.epoch != ready.epoch:
                why = sandbox.gone or "it was restarted"
                raise SandboxGone(f"Sandbox {sandbox.id} is gone: {why}.", sandbox_id=sandbox.id)
            self._sandbox = sandbox
        return self._sandbox

    def _place(self) -> Path:
        return self._desk.directory.place(self._job.id, self._attempt.begun.attempt)

    def _require_going(self, *, unless_concluded: bool = False) -> None:
        if not self._desk.cancelling:
            return
        if unless_concluded and isinstance(plan.next_step(self._job, self._attempt), plan.Conclude):
            return
        raise _Cancelled

    def _note(self, entry: Entry) -> None:
        self._attempt = plan.follow(self._attempt, entry)
        self._desk.directory.note(entry)

    def _named(self) -> dict[str, Any]:
        return {"job": self._job.id, "attempt": self._attempt.begun.attempt, "at": time.time()}

    def _tell(self, phase: StepPhase, index: int = 0, count: int = 1, name: str | None = None) -> None:
        self._desk.emit(JobStep(time.time(), self._job.id, phase, index, count, name))


class _SourceUnreadable(MisuseError):
    """A file that is to be put into the sandbox cannot be read here."""


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
