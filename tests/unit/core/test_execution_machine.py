"""The execution machine: every (state, event) pair."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Literal

import pytest

import server.machines
from server.machines import execution as rules
from server.machines.execution import (
    AttachOutput,
    BorrowOutput,
    CancelRequested,
    CommitCancel,
    CommitFinal,
    CommitLost,
    EndingArrived,
    Event,
    ExecutionMachine,
    GiveBackOutput,
    GivenBack,
    Instruction,
    InvalidTransition,
    Lent,
    ListedEnded,
    ListedRunning,
    NotListed,
    NotSent,
    OutputTaken,
    PauseOutput,
    ResumeOutput,
    SandboxOver,
    SendAck,
    SendKill,
    SendRun,
    SendSkip,
    Started,
    State,
    TakeOutput,
    Turn,
)
from server.messages import Ending, EndingKind

ENDING = Ending(EndingKind.EXITED)
EVENTS: tuple[Event, ...] = (
    Turn(), NotSent(), Started(), EndingArrived(ENDING), OutputTaken(), CancelRequested(), ListedRunning(),
    ListedEnded(ENDING), NotListed(), SandboxOver("sandbox_died"), Lent(), GivenBack(),
)  # fmt: skip
Kind = Literal["run", "fence"]

W, S, R, H, D, E = State.WAITING, State.SENT, State.RUNNING, State.HELD, State.DRAINING, State.ENDED
ATTACH, ANEW, TAKE, ACK, KILL, SKIP, RUN, FLAG = (
    AttachOutput(), AttachOutput(from_nothing=True), TakeOutput(ENDING), SendAck(), SendKill(), SendSkip(), SendRun(), CommitCancel()
)  # fmt: skip
BORROW, BACK, PAUSE, RESUME = BorrowOutput(), GiveBackOutput(), PauseOutput(take=True), ResumeOutput()


def lost(ran: bool | Literal["unknown"]) -> CommitLost:
    return CommitLost("sandbox_died", ran)


Table = dict[tuple[State, type], tuple[State, tuple[Instruction, ...]]]

# (state, event) → (state, instructions) of a run that nobody cancelled. What is not here must raise.
PLAIN: Table = {
    (W, Turn): (S, (RUN,)),
    (W, CancelRequested): (W, (FLAG,)),
    (W, ListedRunning): (R, (ATTACH,)),
    (W, ListedEnded): (D, (ATTACH, TAKE)),
    (W, NotListed): (W, ()),
    (W, SandboxOver): (E, (lost("unknown"),)),
    (W, Lent): (W, ()),
    (W, GivenBack): (W, ()),
    (S, NotSent): (W, ()),
    (S, Started): (R, (ANEW,)),
    (S, EndingArrived): (D, (ANEW, TAKE)),
    (S, CancelRequested): (S, (FLAG, KILL)),
    (S, ListedRunning): (R, (ATTACH,)),
    (S, ListedEnded): (D, (ATTACH, TAKE)),
    (S, NotListed): (W, ()),
    (S, SandboxOver): (E, (lost("unknown"),)),
    (R, EndingArrived): (D, (TAKE,)),
    (R, CancelRequested): (R, (FLAG, KILL)),
    (R, ListedRunning): (R, (ATTACH,)),
    (R, ListedEnded): (D, (ATTACH, TAKE)),
    (R, SandboxOver): (E, (lost(True),)),
    (R, Lent): (R, (PAUSE,)),
    (R, GivenBack): (R, ()),
    (H, ListedEnded): (H, (ATTACH,)),
    (H, CancelRequested): (H, ()),
    (H, GivenBack): (D, (TAKE,)),
    (D, Lent): (D, ()),
    (D, GivenBack): (D, ()),
    (D, OutputTaken): (E, (CommitFinal(), ACK)),
    (D, CancelRequested): (D, ()),
    (D, ListedEnded): (D, ()),
    (E, CancelRequested): (E, ()),
}

# Where the flag is set, and where the row is a fence, these differ.
CANCELLING = PLAIN | {
    (W, Turn): (S, (SKIP,)),
    (W, CancelRequested): (W, ()),
    (W, ListedRunning): (R, (ATTACH, KILL)),
    (S, CancelRequested): (S, ()),
    (S, ListedRunning): (R, (ATTACH, KILL)),
    (R, CancelRequested): (R, ()),
    (R, ListedRunning): (R, (ATTACH, KILL)),
}
FENCE = PLAIN | {
    (W, Turn): (S, (SKIP,)),
    (S, CancelRequested): (S, ()),  # what runs nevertheless, under a fence's number, can be cancelled
}

# A command of a session tells the session what becomes of their pipe.
BORROWING = PLAIN | {
    (W, Turn): (S, (BORROW, RUN)),
    (W, NotListed): (W, (BACK,)),
    (W, SandboxOver): (E, (lost("unknown"), BACK)),
    (S, NotSent): (W, (BACK,)),
    (S, NotListed): (W, (BACK,)),
    (S, SandboxOver): (E, (lost("unknown"), BACK)),
    (R, SandboxOver): (E, (lost(True), BACK)),
    (D, OutputTaken): (E, (CommitFinal(), ACK, BACK)),
}

# A session whose pipe a command reads.
LENT = PLAIN | {
    (W, ListedEnded): (H, (ATTACH,)),
    (S, EndingArrived): (D, (ANEW, TAKE)),
    (R, GivenBack): (R, (RESUME,)),
    (R, EndingArrived): (H, ()),
    (R, ListedEnded): (H, (ATTACH,)),
}

# A way into each state, for a run (or fence) with the flag as given at its beginning.
PATHS: dict[State, tuple[Event, ...]] = {
    W: (),
    S: (Turn(),),
    R: (Turn(), Started()),
    H: (Turn(), Started(), Lent(), EndingArrived(ENDING)),
    D: (Turn(), Started(), EndingArrived(ENDING)),
    E: (Turn(), Started(), EndingArrived(ENDING), OutputTaken()),
}


def machine_in(state: State, kind: Kind = "run", cancelling: bool = False, borrows: bool = False) -> ExecutionMachine:
    machine = ExecutionMachine(kind, cancelling, borrows)
    for event in PATHS[state]:
        machine.handle(event)
    assert machine.state is state
    return machine


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("state", State, ids=lambda state: state.value)
@pytest.mark.parametrize(
    ("kind", "cancelling", "borrows", "table"),
    [("run", False, False, PLAIN), ("run", True, False, CANCELLING), ("fence", False, False, FENCE), ("run", False, True, BORROWING)],
    ids=["run", "cancelled run", "fence", "command of a session"],
)
def test_each_pair_gives_exactly_its_instructions_or_is_refused(
    kind: Kind, cancelling: bool, borrows: bool, table: Table, state: State, event: Event
) -> None:  # fmt: skip
    machine = machine_in(state, kind, cancelling, borrows)
    expected = table.get((state, type(event)))
    if expected is not None:
        assert (machine.handle(event), machine.state) == (expected[1], expected[0])
        return
    story = list(machine.story)
    with pytest.raises(InvalidTransition):
        machine.handle(event)
    assert (machine.state, machine.cancelling, machine.kind, list(machine.story)) == (state, cancelling, kind, story)


@pytest.mark.parametrize(("state", "event"), [pair for pair in LENT if pair[0] in (W, R)], ids=lambda part: getattr(part, "name", None))
def test_a_session_whose_pipe_is_lent_keeps_its_hands_off_it(state: State, event: type) -> None:
    """ONEREADER: whatever comes first, the session's ending or its command's."""
    machine = machine_in(state)
    machine.handle(Lent())
    instructions = machine.handle(next(each for each in EVENTS if type(each) is event))
    assert (instructions, machine.state) == (LENT[state, event][1], LENT[state, event][0])


def test_what_a_pipe_holds_when_a_command_that_ran_on_is_found_again_is_the_commands() -> None:
    assert machine_in(R).handle(Lent(take=False)) == (PauseOutput(take=False),)


def test_a_sessions_ending_is_taken_when_its_command_is_over() -> None:
    machine = machine_in(R)
    told = [machine.handle(event) for event in (Lent(), EndingArrived(ENDING), GivenBack(), OutputTaken())]
    assert told == [(PAUSE,), (), (TAKE,), (CommitFinal(), ACK)]


def test_a_pipe_is_resumed_once() -> None:
    machine = machine_in(R)
    assert [machine.handle(event) for event in (Lent(), GivenBack(), GivenBack())] == [(PAUSE,), (RESUME,), ()]


def test_the_table_lists_no_pair_beyond_those_tested() -> None:
    assert set(rules.TABLE) == set(PLAIN)


def test_a_refusal_tells_the_execution_s_story() -> None:
    machine = machine_in(R)
    with pytest.raises(InvalidTransition, match="Turn in waiting → Started in sent → OutputTaken in running"):
        machine.handle(OutputTaken())


def test_a_cancel_is_committed_before_a_kill_is_sent() -> None:
    instructions = machine_in(R).handle(CancelRequested())
    assert instructions.index(FLAG) < instructions.index(KILL)


@pytest.mark.parametrize("state", [S, R], ids=lambda state: state.value)
def test_a_second_cancel_says_nothing_new(state: State) -> None:
    machine = machine_in(state)
    machine.handle(CancelRequested())
    assert machine.handle(CancelRequested()) == ()


def test_a_cancelled_run_that_never_arrived_becomes_a_skip_on_the_next_link() -> None:
    """CANCELJ: sent on a link that broke, cancelled, not in the next hello's table: it must not be started any more."""
    machine = machine_in(S)
    machine.handle(CancelRequested())
    machine.handle(NotListed())
    assert machine.handle(Turn()) == (SKIP,)


def test_a_link_that_takes_nothing_keeps_the_place() -> None:
    machine = machine_in(S)
    machine.handle(NotSent())
    assert machine.handle(Turn()) == (RUN,)


def test_the_result_is_committed_before_the_init_may_forget_it() -> None:
    """ACKAFTER."""
    assert machine_in(D).handle(OutputTaken()) == (CommitFinal(), ACK)


def test_a_cancel_after_the_ending_changes_nothing() -> None:
    """The command was faster: its true ending stands."""
    machine = machine_in(D)
    machine.handle(CancelRequested())
    assert (machine.cancelling, machine.handle(OutputTaken())) == (False, (CommitFinal(), ACK))


def test_the_machines_import_neither_clock_nor_disk_nor_network() -> None:
    """A table that reads the clock or the disk cannot be simulated."""
    allowed = {
        "__future__", "typing", "dataclasses", "enum", "collections", "collections.abc", "remote_env.protocol",
        "server.messages", "server.machines.execution", "server.machines.lease", "server.machines.sandbox",
    }  # fmt: skip
    imported: dict[str, set[str]] = {}
    for path in sorted(Path(next(iter(server.machines.__path__))).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.setdefault(path.name, set()).update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.setdefault(path.name, set()).add(node.module or "")
    assert set(imported) >= {"execution.py", "sandbox.py", "lease.py"}
    assert {name: modules - allowed for name, modules in imported.items() if modules - allowed} == {}
    assert "server.machines.execution" in sys.modules
