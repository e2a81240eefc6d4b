"""What came of a job: one line of `results.jsonl` for each attempt. The last line of an id counts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from remote_env.protocol import Outcome

JobOutcome = Literal["passed", "failed", "timed_out", "lost", "error"]
"""passed: every command exited with 0. failed: one did not. timed_out: a clock of the job or of a command ran out. lost: what ran, or
may have run, was lost with its sandbox or server. error: the candidate was never judged. `lost` and `error` are infrastructure."""

OUTCOMES: tuple[JobOutcome, ...] = ("passed", "failed", "timed_out", "lost", "error")
JUDGED: tuple[JobOutcome, ...] = ("passed", "failed", "timed_out")
INFRASTRUCTURE: tuple[JobOutcome, ...] = ("lost", "error")

Phase = Literal["setup", "command"]


class Line(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class OutputResult(Line):
    """What is kept of one output. `file` is below the batch's directory; None where it could not be fetched (`error` says why)."""

    file: str | None = None
    total_bytes: int = 0
    kept_bytes: int = 0
    sha256: str | None = None  # of the kept bytes: of the file
    truncated: Literal["limit", "disk_full"] | None = None
    tail: str = ""  # the last 2,000 characters
    error: str | None = None


class CommandResult(Line):
    """One setup command or command, as it ended. Durations in seconds."""

    phase: Phase
    index: int  # among the commands of its phase, from 0
    name: str | None = None
    command: str | list[str]
    execution_id: str
    outcome: Outcome
    exit_code: int | None = None  # only where it exited by itself
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_s: float | None = None
    timeout_s: float | None = None  # the clock it had: its own, or what was left of the job's
    output_file: str | None = None  # below the batch's directory; of stdout alone where the job asked for `split`
    total_bytes: int = 0
    kept_bytes: int = 0
    sha256: str | None = None
    truncated: Literal["limit", "disk_full"] | None = None
    tail: str = ""  # the last 2,000 characters
    output_error: str | None = None  # why there is no output_file
    stderr: OutputResult | None = None  # only where the job asked for `split`


class ArtifactResult(Line):
    path: str  # in the sandbox
    file: str | None = None  # below the batch's directory; None where it was not fetched
    size: int | None = None  # bytes; of a tree, of all its files
    sha256: str | None = None  # of a file; None for a tree
    error: str | None = None


class JobResult(Line):
    """How one attempt of a job ended. Times with offset, durations in seconds."""

    id: str
    attempt: int = 1
    outcome: JobOutcome
    reason: str | None = None  # None where it passed
    image: str
    server: str | None = None  # None: it never came to one
    sandbox_id: str | None = None
    epoch: str | None = None
    run_id: str
    queued_at: datetime
    started_at: datetime | None = None  # when a worker took it
    ended_at: datetime
    duration_s: float = 0.0  # from started_at to ended_at
    create_s: float | None = None  # until its sandbox was ready
    worker: int | None = None
    kept: bool = False  # whether its sandbox was left, for somebody to look into
    reattached: int = 0  # how many times another process of the batch took it up
    commands: list[CommandResult] = Field(default_factory=list)
    artifacts: list[ArtifactResult] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def infrastructure(self) -> bool:
        return self.outcome in INFRASTRUCTURE
