"""What a batch's journal says: one entry a line, written before what it tells of is done, or after it is known."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from remote_env.batch.results import ArtifactResult, CommandResult, JobOutcome


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    job: str
    attempt: int
    at: float  # seconds since the epoch


class Begun(_Entry):
    """A sandbox of this id will be asked for. Once more for the same attempt: the one before has come to nothing."""

    kind: Literal["begun"] = "begun"
    digest: str  # of the job
    server: str
    sandbox_id: str
    lease_s: float
    worker: int
    queued_at: float
    retry_of: JobOutcome | None = None  # how the attempt before it ended


class TakenUp(_Entry):
    """Another process of the batch goes on with it."""

    kind: Literal["taken_up"] = "taken_up"
    worker: int


class Ready(_Entry):
    """Its sandbox runs, with this epoch."""

    kind: Literal["ready"] = "ready"
    epoch: str
    create_s: float


class Sent(_Entry):
    """The command of this step will be sent, under this id."""

    kind: Literal["sent"] = "sent"
    step: int
    execution_id: str
    timeout_s: float


class NotRun(_Entry):
    """What was sent under this id did not run and never will."""

    kind: Literal["not_run"] = "not_run"
    step: int
    execution_id: str


class Ended(_Entry):
    """The step's command has ended, and its output is in its files."""

    kind: Literal["ended"] = "ended"
    step: int
    result: CommandResult


class Fetched(_Entry):
    """All artifacts are there that could be had."""

    kind: Literal["fetched"] = "fetched"
    artifacts: list[ArtifactResult]


class Dropped(_Entry):
    """Nothing of it ran: it waits in the queue as if it had never been begun."""

    kind: Literal["dropped"] = "dropped"
    reason: str


class Closed(_Entry):
    """It has come to this end, whatever its commands did. Its result's line follows."""

    kind: Literal["closed"] = "closed"
    outcome: JobOutcome
    reason: str | None = None


Entry = Begun | TakenUp | Ready | Sent | NotRun | Ended | Fetched | Dropped | Closed
ENTRIES: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])
