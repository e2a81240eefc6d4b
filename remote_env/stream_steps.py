"""What a `Stream` is told, and what it says to do next: its happenings and its instructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remote_env.errors import RemoteEnvError
from remote_env.events import Accepted, Gap, OutputPiece, Started, StreamName, WireEvent
from remote_env.protocol import Execution, Problem

# -------------------------------------------------------------------------------------------------------- happenings


@dataclass(frozen=True)
class Heard:
    """Events of the server's, on the connection that was opened; none: that it stands."""

    now: float
    events: Sequence[WireEvent]


@dataclass(frozen=True)
class Broke:
    """A connection could not be made, was cut, or brought what cannot be trusted. `silent`: nothing came for too long."""

    now: float
    reason: str
    silent: bool = False


@dataclass(frozen=True)
class Fetched:
    """The answer to a Fetch: bytes from its `start` on, none when there are no more yet; and the state at that time."""

    now: float
    data: bytes
    state: str


@dataclass(frozen=True)
class Told:
    """How the execution stands."""

    now: float
    record: Execution


@dataclass(frozen=True)
class Failed:
    """A Fetch or Ask that brought no answer of ours."""

    now: float
    reason: str


@dataclass(frozen=True)
class RefusedBy:
    """A Problem of ours."""

    now: float
    problem: Problem


Happening = Heard | Broke | Fetched | Told | Failed | RefusedBy


# ------------------------------------------------------------------------------------------------------ instructions


@dataclass(frozen=True)
class Open:
    """GET …/events on a connection of its own. `position`: Last-Event-ID; None: from the output's present end on."""

    position: str | None
    after_s: float = 0.0


@dataclass(frozen=True)
class Read:
    """Read on from the connection that was opened."""


@dataclass(frozen=True)
class Fetch:
    """GET …/output, kept bytes [start, end)."""

    stream: StreamName
    start: int
    end: int
    wait_s: float = 0.0
    after_s: float = 0.0


@dataclass(frozen=True)
class Ask:
    """GET the execution."""

    after_s: float = 0.0


@dataclass(frozen=True)
class Finish:
    """Everything was passed on."""

    record: Execution


@dataclass(frozen=True)
class Fail:
    error: RemoteEnvError


Instruction = Open | Read | Fetch | Ask | Finish | Fail
Passed = Accepted | Started | OutputPiece | Gap


@dataclass(frozen=True)
class Step:
    events: tuple[Passed, ...]
    next: Instruction
