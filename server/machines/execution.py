"""The life of one execution, as the server that is alive now knows it.

Rule 1: everything that decides what is sent, drained, committed or acknowledged for an execution is in this table.
Rule 2: a pair that is not listed raises, and changes nothing.
Rule 3: the journal comes first: an instruction that tells anybody something stands behind the commit it relies on.

    WAITING    in the journal; its message (run, or skip) has not been sent on this link
    SENT       its message has been sent on this link; the init has said nothing yet
    RUNNING    the init said `started`, or lists it as running; there is a read end of its output
    HELD       a session whose ending has arrived while a command of it has not ended: what the pipe holds is the command's
    DRAINING   its ending has arrived; the rest of its output is being taken
    ENDED      its final row is committed; the init holds the ending until the ack

After a server's death each unfinished row begins again as WAITING, and the next hello says where it really is (REHELLO).

A session is an execution whose pipe its commands write to as well, one after the other. It has one reader at any time
(ONEREADER): a command borrows the pipe before its run is sent, and gives it back after its ack. What the pipe holds when
it is lent was said between commands and is the session's; what it holds at the command's ending is the command's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal


class State(Enum):
    WAITING = "waiting"
    SENT = "sent"
    RUNNING = "running"
    HELD = "held"
    DRAINING = "draining"
    ENDED = "ended"


# ------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True)
class Turn:
    """The link is ready and every lower number has been sent on it (ORDER)."""


@dataclass(frozen=True)
class NotSent:
    """The link took no message just now: the place is kept (ORDER)."""


@dataclass(frozen=True)
class Started:
    pass


@dataclass(frozen=True)
class EndingArrived:
    ending: Any  # server.messages.Ending; this table only hands it on


@dataclass(frozen=True)
class OutputTaken:
    """What the pipe held at the ending is in the spool (DRAINFIRST)."""


@dataclass(frozen=True)
class CancelRequested:
    pass


@dataclass(frozen=True)
class ListedRunning:
    """The hello's table has it as running."""


@dataclass(frozen=True)
class ListedEnded:
    """The hello's table has its unacknowledged ending."""

    ending: Any


@dataclass(frozen=True)
class NotListed:
    """The hello's table does not have it, and its number is above the init's highest: it never arrived."""


@dataclass(frozen=True)
class SandboxOver:
    """The sandbox is gone for good, its last words are read, and there was no ending among them."""

    reason: str


@dataclass(frozen=True)
class Lent:
    """Of a session: a command of it takes over the reading of its pipe.

    Args:
        take: what the pipe holds now is still the session's. Not after a restart, when the command may have run on.
    """

    take: bool = True


@dataclass(frozen=True)
class GivenBack:
    """Of a session: that command is over, or was not sent."""


Event = (
    Turn | NotSent | Started | EndingArrived | OutputTaken | CancelRequested | ListedRunning | ListedEnded | NotListed | SandboxOver
    | Lent | GivenBack
)  # fmt: skip

# -------------------------------------------------------------------------------------------- instructions


@dataclass(frozen=True)
class SendRun:
    pass


@dataclass(frozen=True)
class SendSkip:
    """Fence the number: the id was abandoned, or cancelled before it was ever sent."""


@dataclass(frozen=True)
class SendKill:
    pass


@dataclass(frozen=True)
class AttachOutput:
    """Read its output from the read end that came with this message, in place of any older one (ONEREADER).

    Args:
        from_nothing: it has only now started, or never did: what the spool may have under its id is not its output. Never at
            a hello: a command can have run on while the journal was set back to before it and given its id once more.
    """

    from_nothing: bool = False


@dataclass(frozen=True)
class TakeOutput:
    """Take what the pipe holds once (DRAINN), then report OutputTaken."""

    ending: Any


@dataclass(frozen=True)
class CommitCancel:
    pass


@dataclass(frozen=True)
class CommitFinal:
    """Commit what the init's ending says."""


@dataclass(frozen=True)
class CommitLost:
    reason: str
    ran: bool | Literal["unknown"]


@dataclass(frozen=True)
class SendAck:
    pass


@dataclass(frozen=True)
class BorrowOutput:
    """Tell the session of this command that its pipe is lent."""


@dataclass(frozen=True)
class GiveBackOutput:
    """Tell the session of this command that it has its pipe again."""


@dataclass(frozen=True)
class PauseOutput:
    """Take what the pipe holds once where `take`, and read no more of it."""

    take: bool


@dataclass(frozen=True)
class ResumeOutput:
    pass


Instruction = (
    SendRun | SendSkip | SendKill | AttachOutput | TakeOutput | CommitCancel | CommitFinal | CommitLost | SendAck
    | BorrowOutput | GiveBackOutput | PauseOutput | ResumeOutput
)  # fmt: skip


class InvalidTransition(Exception):
    """An event came that the table does not allow in this state. The message tells the execution's story."""


class ExecutionMachine:
    """One execution's state. `handle(event)` returns what is to be done, in order.

    Args:
        kind: "run", or "fence" for an abandoned id that only takes a number.
        cancelling: the cancel flag as it stands in the journal.
        borrows: it is a session's command that writes to the session's pipe.

    Attributes:
        lent: whether a command reads this session's pipe now.
    """

    __slots__ = ("borrows", "cancelling", "held", "kind", "lent", "state", "story")

    def __init__(self, kind: Literal["run", "fence"], cancelling: bool = False, borrows: bool = False) -> None:
        self.kind = kind
        self.cancelling = cancelling
        self.borrows = borrows
        self.lent = False
        self.held: Any = None  # the ending, while it is
        self.state = State.WAITING
        self.story: deque[str] = deque(maxlen=20)

    def handle(self, event: Event) -> tuple[Instruction, ...]:
        """Raises InvalidTransition, and then nothing has changed."""
        rule = TABLE.get((self.state, type(event)))
        if rule is None:
            story = " → ".join((*self.story, f"{type(event).__name__} in {self.state.value}"))
            raise InvalidTransition(f"{type(event).__name__} cannot come in state {self.state.value}: {story}")
        self.story.append(f"{type(event).__name__} in {self.state.value}")
        self.state, instructions = rule(self, event)
        return instructions


_Result = tuple[State, tuple[Instruction, ...]]
_Rule = Callable[[ExecutionMachine, Any], _Result]


def _send(machine: ExecutionMachine, _: Turn) -> _Result:
    if machine.kind == "fence" or machine.cancelling:
        return State.SENT, (SendSkip(),)
    return State.SENT, (BorrowOutput(), SendRun()) if machine.borrows else (SendRun(),)


def _started(machine: ExecutionMachine, _: Started) -> _Result:
    return State.RUNNING, (AttachOutput(from_nothing=True),)


def _listed_running(machine: ExecutionMachine, _: ListedRunning) -> _Result:
    # A cancel may have been sent on a link that broke: it is sent again (CANCELJ).
    return State.RUNNING, (AttachOutput(), SendKill()) if machine.cancelling else (AttachOutput(),)


def _ending(machine: ExecutionMachine, event: EndingArrived | ListedEnded) -> _Result:
    attach = (AttachOutput(),) if isinstance(event, ListedEnded) else ()
    if machine.lent:
        machine.held = event.ending
        return State.HELD, attach
    return State.DRAINING, (*attach, TakeOutput(event.ending))


def _held_again(_: ExecutionMachine, __: ListedEnded) -> _Result:
    return State.HELD, (AttachOutput(),)


def _ended_unstarted(_: ExecutionMachine, event: EndingArrived) -> _Result:
    return State.DRAINING, (AttachOutput(from_nothing=True), TakeOutput(event.ending))


def _output_taken(machine: ExecutionMachine, _: OutputTaken) -> _Result:
    return State.ENDED, (CommitFinal(), SendAck(), *_back(machine))


def _cancel_waiting(machine: ExecutionMachine, _: CancelRequested) -> _Result:
    return machine.state, () if machine.cancelling else _flag(machine)


def _cancel_sent(machine: ExecutionMachine, _: CancelRequested) -> _Result:
    # A fence that runs is a command whose run was sent before the journal was set back, under the number that the fence got.
    if machine.cancelling or (machine.kind == "fence" and machine.state is State.SENT):
        return machine.state, ()
    return machine.state, (*_flag(machine), SendKill())


def _flag(machine: ExecutionMachine) -> tuple[Instruction, ...]:
    machine.cancelling = True
    return (CommitCancel(),)


def _over(machine: ExecutionMachine, event: SandboxOver) -> _Result:
    ran: bool | Literal["unknown"] = True if machine.state is State.RUNNING else "unknown"
    return State.ENDED, (CommitLost(event.reason, ran), *_back(machine))


def _stay(machine: ExecutionMachine, _: Event) -> _Result:
    return machine.state, ()


def _wait_again(machine: ExecutionMachine, _: NotListed | NotSent) -> _Result:
    return State.WAITING, _back(machine)


def _back(machine: ExecutionMachine) -> tuple[Instruction, ...]:
    return (GiveBackOutput(),) if machine.borrows else ()


def _lent(machine: ExecutionMachine, event: Lent) -> _Result:
    machine.lent = True
    return machine.state, (PauseOutput(event.take),) if machine.state is State.RUNNING else ()


def _given_back(machine: ExecutionMachine, _: GivenBack) -> _Result:
    was_lent, machine.lent = machine.lent, False
    if machine.state is State.HELD:
        return State.DRAINING, (TakeOutput(machine.held),)
    return machine.state, (ResumeOutput(),) if was_lent and machine.state is State.RUNNING else ()


TABLE: dict[tuple[State, type], _Rule] = {
    (State.WAITING, Turn): _send,
    (State.WAITING, CancelRequested): _cancel_waiting,
    (State.WAITING, ListedRunning): _listed_running,
    (State.WAITING, ListedEnded): _ending,
    (State.WAITING, NotListed): _wait_again,
    (State.WAITING, SandboxOver): _over,
    (State.WAITING, Lent): _lent,  # at a server's start, before the hello has said what runs
    (State.WAITING, GivenBack): _given_back,
    (State.SENT, NotSent): _wait_again,
    (State.SENT, Started): _started,
    (State.SENT, EndingArrived): _ended_unstarted,  # it failed to start, or was skipped
    (State.SENT, CancelRequested): _cancel_sent,
    (State.SENT, ListedRunning): _listed_running,
    (State.SENT, ListedEnded): _ending,
    (State.SENT, NotListed): _wait_again,
    (State.SENT, SandboxOver): _over,
    (State.RUNNING, EndingArrived): _ending,
    (State.RUNNING, CancelRequested): _cancel_sent,
    (State.RUNNING, ListedRunning): _listed_running,
    (State.RUNNING, ListedEnded): _ending,
    (State.RUNNING, SandboxOver): _over,
    (State.RUNNING, Lent): _lent,
    (State.RUNNING, GivenBack): _given_back,
    (State.HELD, GivenBack): _given_back,
    (State.HELD, ListedEnded): _held_again,
    (State.HELD, CancelRequested): _stay,
    (State.DRAINING, Lent): _stay,  # of a command that comes too late for it: the init refuses it
    (State.DRAINING, GivenBack): _stay,
    (State.DRAINING, OutputTaken): _output_taken,
    (State.DRAINING, CancelRequested): _stay,  # `exited` may win
    (State.DRAINING, ListedEnded): _stay,  # the same ending over a new link; the ack follows the commit
    (State.ENDED, CancelRequested): _stay,
    # ENDED has no ListedEnded: whose final row is committed is not alive here any more, and its ending is acknowledged by
    # what the journal says (see machines/sandbox.py). One that is ENDED in memory alone must not be (ACKAFTER).
}
