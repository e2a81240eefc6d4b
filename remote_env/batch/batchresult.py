"""What `run_batch` and its twin for asyncio yield for a job, and what they make its sandbox from. Without I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from remote_env.errors import (
    CommandLost,
    Damaged,
    InvalidSpec,
    NotRunError,
    OutcomeUnknownError,
    OutputIncomplete,
    ProtocolMismatch,
    SandboxGone,
    SessionEnded,
)

J = TypeVar("J")
V = TypeVar("V")

Environment = str | Mapping[str, Any] | Callable[[J], str | Mapping[str, Any]] | None

_INFRASTRUCTURE = (CommandLost, Damaged, NotRunError, OutcomeUnknownError, OutputIncomplete, ProtocolMismatch, SandboxGone)


@dataclass(frozen=True)
class BatchResult(Generic[J, V]):
    """What became of one job.

    Attributes:
        index: its place among the jobs, from 0.
        value: what the function returned; None where it raised.
        exception: what it, or the making of its sandbox, raised; None where it returned.
        infrastructure: whether the job says nothing about its candidate: the function was never called, its sandbox was lost
            under it, whatever it then returned, or it raised an error of remote_env that speaks of a sandbox, server or link.
        sandbox_id: None where none was made.
        began_at: when it was taken up, in seconds since the epoch.
        duration_s: seconds from then on, making and removing its sandbox included.
    """

    index: int
    job: J
    value: V | None
    exception: BaseException | None
    infrastructure: bool
    sandbox_id: str | None
    began_at: float
    duration_s: float

    def result(self) -> V:
        """What the function returned. Raises what it raised."""
        if self.exception is not None:
            raise self.exception
        return self.value  # type: ignore[return-value]  # V may be None itself

    @property
    def ok(self) -> bool:
        """Whether the function returned, in a sandbox that lived."""
        return self.exception is None and not self.infrastructure


def is_infrastructure(error: BaseException | None) -> bool:
    """Whether an error out of a job's function is no fault of the function or of what it ran."""
    return isinstance(error, _INFRASTRUCTURE) and not isinstance(error, SessionEnded)


def environment_of(image: Environment[J], options: Mapping[str, Any], job: J) -> dict[str, Any]:
    """The arguments of a job's sandbox. Raises InvalidSpec where there is no image among them."""
    chosen = image(job) if callable(image) else image
    if isinstance(chosen, str):
        return {**options, "image": chosen}
    if chosen is not None:
        options = {**options, **chosen}
    if "image" in options:
        return dict(options)
    own = job.get("image") if isinstance(job, Mapping) else None
    if not isinstance(own, str):
        raise InvalidSpec('No image: give `image=`, or jobs with one under "image".')
    return {**options, "image": own}
