"""What comes next for a job, from what its journal says. Without I/O and without a clock.

    Begun ─▶ Create ─▶ Ready ─▶ Upload ─▶ ┌ Run ─▶ Ended ┐ ─▶ Fetch ─▶ Fetched ─▶ Conclude
                                          └───◀──────────┘
Nothing is done twice: each act is journaled before it, so whoever comes after a crash finds what may have been done, and asks for
it by its id.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from remote_env.batch.entries import Begun, Closed, Dropped, Ended, Entry, Fetched, NotRun, Ready, Sent, TakenUp
from remote_env.batch.jobs import Job, JobCommand
from remote_env.batch.results import ArtifactResult, CommandResult, JobOutcome, Phase
from remote_env.protocol import Outcome

# Of a command that could not be started: what the candidate or its image is to blame for.
_ITS_OWN_FAULT = ("not_found", "not_executable", "cannot_execute", "no_process", "no_workdir")


class Impossible(Exception):
    """The journal says what cannot be: it is not that of this job, or was changed."""


@dataclass(frozen=True)
class Attempt:
    """What the journal says of a job's latest attempt."""

    begun: Begun
    ready: Ready | None = None
    sent: Sent | None = None  # the command whose end is not known yet
    ended: tuple[CommandResult, ...] = ()
    artifacts: tuple[ArtifactResult, ...] | None = None
    closed: Closed | None = None
    taken_up: int = 0
    dropped: bool = False
    touched: bool = False  # whether any command was ever sent, but for those that are known not to have run

    @property
    def started(self) -> bool:
        """Whether anything of it ran, or may have. What has not may be begun anew, elsewhere."""
        return self.touched


def follow(attempt: Attempt | None, entry: Entry) -> Attempt:
    """The attempt, as it is after this entry. Raises Impossible."""
    if isinstance(entry, Begun):
        if attempt is not None and not _may_begin(attempt, entry):
            raise Impossible(f"{entry.job}: attempt {entry.attempt} begins while attempt {attempt.begun.attempt} is not over")
        return Attempt(entry)
    if attempt is None or attempt.begun.attempt != entry.attempt or attempt.dropped:
        raise Impossible(f"{entry.job}: {entry.kind} of attempt {entry.attempt}, which has not begun")
    if isinstance(entry, TakenUp):
        return replace(attempt, taken_up=attempt.taken_up + 1)
    if attempt.closed is not None:
        raise Impossible(f"{entry.job}: {entry.kind} after its end")
    if isinstance(entry, Closed):
        return replace(attempt, closed=entry)
    if isinstance(entry, Dropped):
        if attempt.started:
            raise Impossible(f"{entry.job}: dropped, and something of it may have run")
        return replace(attempt, dropped=True)
    if isinstance(entry, Ready):
        if attempt.ready is not None:
            raise Impossible(f"{entry.job}: a second sandbox")
        return replace(attempt, ready=entry)
    if attempt.ready is None:
        raise Impossible(f"{entry.job}: {entry.kind} without a sandbox")
    if isinstance(entry, Fetched):
        return replace(attempt, artifacts=tuple(entry.artifacts))
    if entry.step != len(attempt.ended):
        raise Impossible(f"{entry.job}: {entry.kind} of step {entry.step}, and {len(attempt.ended)} steps have ended")
    if isinstance(entry, Sent):
        if attempt.sent is not None:
            raise Impossible(f"{entry.job}: step {entry.step} is sent a second time, and the first may have run")
        return replace(attempt, sent=entry, touched=True)
    if attempt.sent is None:
        raise Impossible(f"{entry.job}: {entry.kind} of step {entry.step}, which was not sent")
    if isinstance(entry, NotRun):
        if entry.execution_id != attempt.sent.execution_id:
            raise Impossible(f"{entry.job}: step {entry.step} was sent as {attempt.sent.execution_id}, not as {entry.execution_id}")
        return replace(attempt, sent=None, touched=bool(attempt.ended))
    assert isinstance(entry, Ended)
    return replace(attempt, sent=None, ended=(*attempt.ended, entry.result))


def _may_begin(before: Attempt, entry: Begun) -> bool:
    if entry.attempt == before.begun.attempt:
        return before.dropped
    return entry.attempt == before.begun.attempt + 1 and (before.closed is not None or before.dropped)


# ------------------------------------------------------------------------------------------------------ the next step


@dataclass(frozen=True)
class Create:
    """Ask for the sandbox of the journaled id: it may be there."""


@dataclass(frozen=True)
class Run:
    """Send the command and wait for its end. `sent`: it may have been sent already, under this id."""

    step: int
    phase: Phase
    index: int
    command: JobCommand
    timeout_s: float
    sent: Sent | None = None


@dataclass(frozen=True)
class Fetch:
    """Fetch the artifacts."""


@dataclass(frozen=True)
class Conclude:
    outcome: JobOutcome
    reason: str | None = None


Step = Create | Run | Fetch | Conclude


def next_step(job: Job, attempt: Attempt) -> Step:
    if attempt.closed is not None:
        return Conclude(attempt.closed.outcome, attempt.closed.reason)
    if attempt.ready is None:
        return Create()
    verdict = judge(job, attempt.ended)
    if verdict is None:
        step = len(attempt.ended)
        phase, index, command = job.steps[step]
        if attempt.sent is not None:
            return Run(step, phase, index, command, attempt.sent.timeout_s, attempt.sent)
        left = time_left(job, attempt.ended)
        return Run(step, phase, index, command, command.timeout_s if left is None else min(command.timeout_s, left))
    if job.artifacts and attempt.artifacts is None:
        return Fetch()
    return require_artifacts(job, verdict, attempt.artifacts or ())


def time_left(job: Job, ended: tuple[CommandResult, ...]) -> float | None:
    """Of the job's own clock, in seconds: it runs while its commands do. None where it has none."""
    return None if job.timeout_s is None else job.timeout_s - sum(result.duration_s or 0.0 for result in ended)


# ---------------------------------------------------------------------------------------------------- the outcome


def judge(job: Job, ended: tuple[CommandResult, ...]) -> Conclude | None:
    """What the commands that have ended make of the job; None: the next one is to run."""
    steps = job.steps
    first: Conclude | None = None
    for result, (phase, index, command) in zip(ended, steps, strict=False):
        verdict = _of_command(result, _name(phase, index, command))
        if verdict is None:
            continue
        if phase == "setup" and verdict.outcome != "lost":
            verdict = Conclude("error", verdict.reason)
        if verdict.outcome in ("lost", "error") and not (phase == "setup" and command.continue_on_failure and _did_run(result)):
            return verdict
        if phase == "setup":
            continue
        first = first or verdict
        if not command.continue_on_failure:
            return first
    if len(ended) >= len(steps):
        return first or Conclude("passed")
    left = time_left(job, ended)
    if left is not None and left <= 0:
        phase, index, command = steps[len(ended)]
        reason = f"the job's {job.timeout_s:g} s were over before {_name(phase, index, command)}"
        return first or Conclude("error" if phase == "setup" else "timed_out", reason)
    return None


def require_artifacts(job: Job, verdict: Conclude, fetched: tuple[ArtifactResult, ...]) -> Conclude:
    """A job that passed and has not got what it had to leave behind is an error."""
    if verdict.outcome != "passed":
        return verdict
    there = {result.path for result in fetched if result.file is not None}
    missing = [artifact.path for artifact in job.artifacts if artifact.required and artifact.path not in there]
    return Conclude("error", f"required artifact missing: {', '.join(missing)}") if missing else verdict


def _of_command(result: CommandResult, name: str) -> Conclude | None:
    """None where it exited with 0."""
    outcome = result.outcome
    if outcome.kind == "exited":
        return None if outcome.code == 0 else Conclude("failed", f"{name} exited with {outcome.code}")
    if outcome.kind == "signalled":
        return Conclude("failed", f"{name} died of signal {outcome.signal}")
    if outcome.kind in ("oom", "oom_suspected"):
        suspected = ", as it seems" if outcome.kind == "oom_suspected" else ""
        return Conclude("failed", f"{name} ran into the memory limit{suspected}")
    if outcome.kind == "timed_out":
        return Conclude("timed_out", f"{name} was ended after {result.timeout_s:g} s" if result.timeout_s else f"{name} timed out")
    if outcome.kind == "failed_to_start":
        return Conclude("failed" if outcome.reason in _ITS_OWN_FAULT else "error", f"{name} could not be started: {_why(outcome)}")
    if outcome.kind == "lost":
        return Conclude("lost", f"{name} was lost: {_why(outcome)}")
    return Conclude("error", f"{name} was {outcome.kind.replace('_', ' ')}" + (f": {outcome.reason}" if outcome.reason else ""))


def _did_run(result: CommandResult) -> bool:
    return result.outcome.kind not in ("lost", "cancelled", "not_run")


def _why(outcome: Outcome) -> str:
    return (outcome.reason or "no reason given").replace("_", " ")


def _name(phase: Phase, index: int, command: JobCommand) -> str:
    return f"{'setup command' if phase == 'setup' else 'command'} {index + 1}" + (f" ({command.name})" if command.name else "")
