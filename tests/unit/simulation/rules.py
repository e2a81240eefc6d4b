"""Every rule of the protocol, and how it is switched off: in the real tables, or in the part here that carries it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from remote_env import delivery
from remote_env.errors import CommandNotDelivered, SessionEnded
from server import sessions
from server.machines import execution as execution_rules
from server.machines import sandbox as sandbox_rules
from server.machines.execution import (
    AttachOutput,
    CommitFinal,
    ExecutionMachine,
    Instruction,
    NotListed,
    PauseOutput,
    SendAck,
    State,
    TakeOutput,
)
from server.messages import Ending, EndingKind
from tests.unit.simulation.actions import Action
from tests.unit.simulation.histories import OPEN_SESSION

# --------------------------------------------------------------------------------------- rules of the real tables

_reconcile = sandbox_rules.reconcile
_Step = tuple[State, tuple[Instruction, ...]]


def _any_incarnation(**known: Any) -> sandbox_rules.Accepted | sandbox_rules.GiveUp:
    """INCARN off: whoever says hello is taken for the one that was there before."""
    return _reconcile(**{**known, "epoch": known["hello"].incarnation.hex()})


def _lenient(**known: Any) -> sandbox_rules.Accepted | sandbox_rules.GiveUp:
    """STRICT off: what the table does not list is sent again, and what the journal does not know is acknowledged."""
    listed = {entry.id: entry.number for entry in known["hello"].entries}
    there = [row for row in known["unfinished"] if row.id in listed]
    missing = tuple((row.id, NotListed()) for row in known["unfinished"] if row.id not in listed)
    final = {**known["final"], **{id_: listed[id_] for id_ in listed if id_ not in {row.id for row in there}}}
    verdict = _reconcile(**{**known, "unfinished": there, "final": final, "journal_highest": known["hello"].highest})
    if isinstance(verdict, sandbox_rules.GiveUp):
        return verdict
    return sandbox_rules.Accepted(verdict.events + missing, verdict.acknowledge)


_silence = sandbox_rules.silence


def _patient(**seen: Any) -> sandbox_rules.GiveUp | None:
    """UNREACH off: however long an init is silent, it is waited for."""
    return _silence(**{**seen, "silent_s": 0.0})


def _still_sent(machine: ExecutionMachine, _: NotListed) -> _Step:
    return State.SENT, ()


def _ack_first(_: ExecutionMachine, __: execution_rules.OutputTaken) -> _Step:
    return State.ENDED, (SendAck(), CommitFinal())


def _cancelled_at_once(_: ExecutionMachine, __: execution_rules.CancelRequested) -> _Step:
    """CANCELJ off: what memory calls "not sent" is ended without asking the init."""
    return State.DRAINING, (TakeOutput(Ending(EndingKind.SKIPPED)),)


def _flag_in_memory(machine: ExecutionMachine) -> tuple[Instruction, ...]:
    """CANCELJ off: the flag is not committed."""
    machine.cancelling = True
    return ()


def _claims(self: delivery.Delivery, *_: object) -> delivery.Failed:
    """CLAIM off: one copy's refusal, or that the id is unknown, is taken for "did not run and never will"."""
    return self._fail(CommandNotDelivered("not taken"))


# ----------------------------------------------------------------------------------------------- rules of sessions


def _lent_untaken(machine: ExecutionMachine, _: execution_rules.Lent) -> _Step:
    machine.lent = True
    return machine.state, (PauseOutput(take=False),)


def _never_held(_: ExecutionMachine, event: execution_rules.EndingArrived | execution_rules.ListedEnded) -> _Step:
    attach = (AttachOutput(),) if isinstance(event, execution_rules.ListedEnded) else ()
    return State.DRAINING, (*attach, TakeOutput(event.ending))


def _given_back_at_once(machine: ExecutionMachine, event: execution_rules.EndingArrived) -> _Step:
    return State.DRAINING, (*execution_rules._back(machine), TakeOutput(event.ending))


_session_for = sessions.session_for


def _busy_or_not(sandbox: Any, spec: Any, live: Any, journal: Any) -> Any:
    """session_busy off: a session that runs takes any number of commands."""
    session = live.get(spec.session)
    if session is not None and session.machine.state is State.RUNNING and not session.machine.cancelling:
        return session
    return _session_for(sandbox, spec, live, journal)


def _closing_or_not(sandbox: Any, spec: Any, live: Any, journal: Any) -> Any:
    """session_ended off: one that is being closed takes commands as before."""
    session = live.get(spec.session)
    if session is not None and session.machine.cancelling and session.command is None:
        return session
    return _session_for(sandbox, spec, live, journal)


_refused = delivery.Delivery._refused


def _session_ended_claims(self: delivery.Delivery, event: delivery.RefusedBy) -> delivery.Step:
    if event.problem.code == "session_ended" and self.phase is delivery.Phase.POSTING:
        return self._fail(SessionEnded(event.problem.detail))
    return _refused(self, event)


# ------------------------------------------------------------------------------------------------------ the rules

HISTORIES = 3000  # within which a rule that is off has to show


@dataclass(frozen=True)
class Rule:
    """Args:
    name: as the protocol calls it.
    means: in a few words.
    groups: the kinds of faults that it is there for.
    off: what the simulated parts do not do then.
    table: entries of the execution machine's table that are replaced.
    patches: dotted names that are replaced.
    begin: how its histories begin, where what it is for takes long to come about.
    """

    name: str
    means: str
    groups: tuple[str, ...]
    off: frozenset[str] = frozenset()
    table: Mapping[tuple[State, type], Any] | None = None
    patches: Mapping[str, Any] | None = None
    begin: tuple[Action, ...] = ()

    @contextmanager
    def switched_off(self) -> Iterator[frozenset[str]]:
        """Everything in the block does without the rule; gives what a `World` is to be made with."""
        with ExitStack() as stack:
            if self.table is not None:
                stack.enter_context(mock.patch.dict(execution_rules.TABLE, self.table))
            for name, replacement in (self.patches or {}).items():
                stack.enter_context(mock.patch(name, replacement))
            yield self.off


def _rule(name: str, means: str, *groups: str, **how: Any) -> Rule:
    off = how.pop("off", () if how.get("table") or how.get("patches") else (name,))
    return Rule(name, means, groups, frozenset(off), **how)


_ONE_COMMAND: tuple[Action, ...] = (  # from its call to its acknowledgement
    ("call", 0, 0), ("request", 0, 0), ("deliver", 0, 0), ("init_reads", 0, 0), ("server_reads", 0, 0), ("command_exits", 0, 0),
    ("server_reads", 0, 0), ("drain", 0, 0), ("init_reads", 0, 0),
)  # fmt: skip
_COPIED_RUN_UNREAD: tuple[Action, ...] = (  # the init has not read it, the journal's copy does not know it, a proxy has its POST
    ("copy_journal", 0, 0), ("call", 0, 0), ("request", 0, 0), ("duplicate", 0, 0), ("deliver", 0, 0),
)  # fmt: skip
_LATE_POST: tuple[Action, ...] = (  # its caller was told 404, and it is still under way
    ("call", 0, 0), ("request", 0, 0), ("break_off", 0, 0), ("request", 0, 0), ("deliver", 0, 1),
)  # fmt: skip
_COMMAND_OF_SESSION: tuple[Action, ...] = (*OPEN_SESSION, ("command", 0, 0), ("request", 0, 0), ("deliver", 0, 0))
_SESSION_FOR = "server.sessions.session_for"
_RECONCILE = "server.machines.sandbox.reconcile"

RULES = (
    _rule("EPOCHSBX", "a sandbox's epoch is its init's incarnation", "journal", "callers", "more sandboxes"),
    _rule("EPOCHREQ", "an epoch with every id that a client made", "bare", "network", "wipe", "more sandboxes"),
    _rule("STOREDEPOCH", "an old id never under a fresh epoch", "callers", "wipe", "sandboxes", "more sandboxes"),
    _rule("INCARN", "another incarnation is another life", "sandbox", "crash", patches={_RECONCILE: _any_incarnation}),
    _rule("KEEP", "rows outlive their sandbox", "removal", "network"),
    _rule(
        "SEQSBX",
        "numbers count per sandbox",
        "journal",
        "callers",
        begin=(("make_sandbox", 1, 0), ("copy_journal", 0, 0), *_ONE_COMMAND),
    ),
    _rule("ORDER", "runs and skips in the order of their numbers", "link", "time"),
    _rule("REFUSE", "no number is taken twice", "confused"),
    _rule("ACKAFTER", "acknowledged after the commit", "crash", table={(State.DRAINING, execution_rules.OutputTaken): _ack_first}),
    _rule("ONELINK", "what is unread in an old link is void", "journal", "callers", begin=_COPIED_RUN_UNREAD),
    _rule("REHELLO", "reconciled at every hello", "link", table={(State.SENT, NotListed): _still_sent}),
    _rule("STRICT", "a journal that was set back is noticed", "journal", "network", patches={_RECONCILE: _lenient}),
    _rule(
        "CANCELJ (asked)",
        "what was never sent is skipped, not called cancelled by memory",
        "cancel",
        "crash",
        table={(State.WAITING, execution_rules.CancelRequested): _cancelled_at_once},
    ),
    _rule(
        "CANCELJ (flag)",
        "a cancel is committed before it is answered",
        "cancel",
        "crash",
        "link",
        patches={"server.machines.execution._flag": _flag_in_memory},
    ),
    _rule("FENCE", "an abandoned id goes through the init", "journal", "network", begin=_LATE_POST[:3]),
    _rule("ABCOND", "abandon overrides no row", "network", "crash", begin=_LATE_POST),
    _rule("CLAIM (busy)", "a refusal speaks of one copy", "busy", "network", patches={"remote_env.delivery.Delivery._busy_here": _claims}),
    _rule("CLAIM (404)", "unknown is not never", "network", patches={"remote_env.delivery.Delivery._fence": _claims}),
    _rule("APPEND", "the spool file only grows", "crash"),
    _rule("LENGTH", "its length is the only position", "crash"),
    _rule("ONEREADER", "a pipe has one reader", "link"),
    _rule("DRAINFIRST", "the pipe is drained before the final commit"),
    _rule("DRAINN", "what FIONREAD said once, not until it is empty"),
    _rule("KEEPEND", "the init keeps the read end until the ack", "crash"),
    _rule("AFTERLIFE", "then the runner reads and throws away"),
    _rule("FRESHLEASE", "a full term when the server starts", "crash", "time"),
    _rule("ORPHAN", "what the journal does not have is removed", "wipe"),
    _rule("UNREACH", "an init out of reach is given up", "wedge", patches={"server.machines.sandbox.silence": _patient}),
    _rule("Only the init enforces timeouts", "they hold while the server is away", "crash", "time", off=("INITCLOCK",)),
    _rule("Removal commits first", "it fences new work", "removal", "crash", off=("REMOVING",)),
    _rule("Tombstones of sandbox ids", "a late create makes nothing", "removal", "sandboxes", "network", off=("TOMBSTONES",)),
    _rule("Last words", "a dead container's link is read to its end", "removal", off=("LASTWORDS",)),
    _rule("Correlation", "an answer is about what was asked", "network", off=("CORRELATION",)),
    _rule("Checksum", "kept bytes are held against their sha256", "spool", off=("CHECKSUM",)),
    _rule(
        "ONEREADER (lent)",
        "a session's pipe is read by its command while there is one",
        "sessions",
        off=("READSON",),
        begin=OPEN_SESSION,
    ),
    _rule(
        "ONEREADER (after a restart)",
        "also when the server comes back",
        "sessions",
        "crash",
        off=("LENTAGAIN",),
        begin=OPEN_SESSION,
    ),
    _rule("ONEREADER (a new link)", "also when the init comes back", "sessions", "link", off=("STILLLENT",), begin=OPEN_SESSION),
    _rule(
        "Sessions before their commands", "they are taken up in this order", "sessions", "crash", off=("SESSIONFIRST",), begin=OPEN_SESSION
    ),
    _rule(
        "Taken when lent",
        "what was said between commands is the session's",
        "sessions",
        table={(State.RUNNING, execution_rules.Lent): _lent_untaken},
        begin=OPEN_SESSION,
    ),
    _rule(
        "Given back",
        "after a command's end the session reads its pipe again",
        "sessions",
        patches={"server.machines.execution._back": lambda _: ()},
        begin=OPEN_SESSION,
    ),
    _rule(
        "Given back (when its output is taken)",
        "not before that",
        "sessions",
        table={(State.RUNNING, execution_rules.EndingArrived): _given_back_at_once},
        begin=OPEN_SESSION,
    ),
    _rule(
        "Held",
        "a session's ending waits for its command's",
        "sessions",
        "ends of sessions",
        "crash",
        "link",
        table={
            (State.WAITING, execution_rules.ListedEnded): _never_held,
            (State.RUNNING, execution_rules.ListedEnded): _never_held,
            (State.RUNNING, execution_rules.EndingArrived): _never_held,
        },
        begin=_COMMAND_OF_SESSION,
    ),
    _rule(
        "The command is lost first",
        "what their pipe holds is its",
        "sessions",
        "sandbox",
        off=("LASTOFSESSION",),
        begin=_COMMAND_OF_SESSION,
    ),
    _rule(
        "session_busy",
        "one command of a session at a time, before anything is journaled",
        "sessions",
        patches={_SESSION_FOR: _busy_or_not},
        begin=OPEN_SESSION,
    ),
    _rule(
        "session_ended",
        "no command for a session that is being closed",
        "sessions",
        "ends of sessions",
        patches={_SESSION_FOR: _closing_or_not},
        begin=OPEN_SESSION,
    ),
    _rule(
        "CLAIM (session over)",
        "a refusal speaks of one copy, here too",
        "sessions",
        "journal",
        "network",
        patches={"remote_env.delivery.Delivery._refused": _session_ended_claims},
        begin=(("copy_journal", 0, 0), *OPEN_SESSION, ("command", 0, 0), ("request", 0, 0), ("duplicate", 0, 0)),
    ),
    _rule(
        "A shell that is gone runs nothing",
        "the init refuses, whatever the server knew",
        "sessions",
        "ends of sessions",
        off=("SHELLGONE",),
        begin=OPEN_SESSION,
    ),
    _rule(
        "The shell's end is its command's",
        "nothing waits for a shell that is gone",
        "sessions",
        "ends of sessions",
        off=("BOTHEND",),
        begin=_COMMAND_OF_SESSION,
    ),
)
