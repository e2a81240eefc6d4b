"""What an error of the client means for a job, by whether anything of it ran. Without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from remote_env.errors import (
    AnswerMismatch,
    EpochChanged,
    FileError,
    IdConflict,
    LinkLost,
    MisuseError,
    OutcomeUnknownError,
    ProtocolMismatch,
    RemoteEnvError,
    SandboxGone,
    SandboxNotCreated,
    ServerBusy,
    Unauthorized,
    Unreachable,
)


class Fate(Enum):
    LOST = "lost"  # what ran, or may have run, cannot be had
    ERROR = "error"  # it cannot be done, here or elsewhere
    WAIT = "wait"  # the server has no room: begin it anew later, or elsewhere
    MOVE = "move"  # the server is of no use: begin it anew elsewhere
    AGAIN = "again"  # begin it anew: nothing of it ran, and it was bad luck
    LEAVE = "leave"  # it may be running, and the server does not talk with us: another run of the batch may know more


@dataclass(frozen=True)
class Ruling:
    fate: Fate
    server_is_dead: bool = False  # as far as this job could learn


SILENT = (LinkLost, AnswerMismatch, Unreachable)
_REFUSING = (Unauthorized, ProtocolMismatch)


def ruling(error: RemoteEnvError, *, started: bool) -> Ruling:
    """`started`: whether anything of the job ran, or may have."""
    if isinstance(error, SILENT):
        return Ruling(Fate.LOST if started else Fate.MOVE, server_is_dead=True)
    if isinstance(error, _REFUSING):
        return Ruling(Fate.LEAVE if started else Fate.MOVE, server_is_dead=True)
    if isinstance(error, IdConflict):  # its id was sent by another version of the client, which words it otherwise
        return Ruling(Fate.LOST if started else Fate.AGAIN)
    if isinstance(error, (FileError, MisuseError)):
        return Ruling(Fate.ERROR)
    if started:
        return Ruling(Fate.LOST)
    if isinstance(error, ServerBusy):
        return Ruling(Fate.WAIT)
    if isinstance(error, SandboxNotCreated):
        return Ruling(Fate.AGAIN if error.undelivered else Fate.ERROR)
    if isinstance(error, (SandboxGone, EpochChanged, OutcomeUnknownError)):
        return Ruling(Fate.AGAIN)
    return Ruling(Fate.ERROR)
