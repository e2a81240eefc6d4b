"""Callers: the real delivery on the simulated network, and what each was told in the end."""

from __future__ import annotations

from remote_env import delivery
from remote_env.backoff import Backoff
from remote_env.errors import NotRunError, OutcomeUnknownError, RemoteEnvError, SandboxGone, SessionEnded
from remote_env.protocol import Execution, Outcome, Problem
from remote_env.timings import Timings
from server.outcomes import outcome_of
from tests.unit.simulation.bodies import SESSION
from tests.unit.simulation.disk import Disk, ExecutionRow
from tests.unit.simulation.init import TIMEOUT_S
from tests.unit.simulation.ledger import Command, Ledger, broken
from tests.unit.simulation.network import Message
from tests.unit.simulation.pipe import kept_places

TIMINGS = Timings(queue_s=5.0, reconnect_budget_s=300.0)
OPEN = "open"  # what the caller of a session was told that has begun
VERBS = {delivery.Post: "post", delivery.Get: "get", delivery.Abandon: "abandon"}


class Call:
    """One caller's command on its way to its end.

    Args:
        fresh: its id was made for it, so nobody has sent it before.
        mistaken: the caller does what callers must not do, so that it may get no result.
        session: the one that the command is to run in.
        known: the server has it; only its end is waited for.
    """

    def __init__(
        self, id_: str, sandbox: str, epoch: str | None, body: str, now: float, *, fresh: bool = True, mistaken: bool = False,
        session: str | None = None, known: bool = False,
    ) -> None:  # fmt: skip
        self.mistaken = mistaken
        self.session = session
        self.follows = known
        self.id, self.sandbox, self.epoch, self.body, self.began = id_, sandbox, epoch, body, now
        self.delivery = delivery.Delivery(
            id_, now=now, deadline=now + TIMINGS.call_s(TIMEOUT_S), timings=TIMINGS,
            backoff=Backoff(TIMINGS.retry_first_s, TIMINGS.retry_most_s, lambda: 0.5), fresh=fresh,
            accepted_suffices=body == SESSION and not known, known=known,
        )  # fmt: skip
        self.next: delivery.Request | None = self.delivery.begin(now)
        self.due = now
        self.waits_for: Message | None = None
        self.waited = not fresh  # another copy of its POST was refused for lack of room, or sent by another process
        self.told: str | None = None  # how it ended

    def message(self) -> Message:
        """The request that it has to make now."""
        assert self.next is not None
        verb = VERBS[type(self.next)]
        self.waits_for = Message(self.id, verb, self.id, self.sandbox, self.epoch, self.body, caller=self, session=self.session)
        self.next = None
        return self.waits_for


class Clients:
    """All callers, and what they hold the promises against."""

    def __init__(self, ledger: Ledger, disk: Disk, off: frozenset[str]) -> None:
        self.ledger, self.disk, self.off = ledger, disk, off
        self.calls: dict[str, Call] = {}  # the newest caller of each id
        self.epochs: dict[str, str | None] = {}  # of each sandbox, as learnt when it was made

    def answered(self, call: Call, execution: Execution, now: float) -> None:
        """Correlation: an answer counts only when it is about this id and epoch."""
        if "CORRELATION" not in self.off and (execution.id != call.id or call.epoch not in (None, execution.epoch)):
            self.happens(call, delivery.Broken(now, "the answer is about something else"))
        else:
            self.happens(call, delivery.Answered(now, execution))

    def refused(self, call: Call, problem: Problem, now: float) -> None:
        call.waited |= problem.retryable
        self.happens(call, delivery.RefusedBy(now, problem))

    def happens(self, call: Call, event: delivery.Event) -> None:
        call.waits_for = None
        step = call.delivery.handle(event)
        if isinstance(step, delivery.Finished):
            self._finished(call, step.execution)
        elif isinstance(step, delivery.Failed):
            self._failed(call, step.error, event.now)
        else:
            call.next, call.due = step, event.now + step.after_s

    # ---------------------------------------------------------------------------------------------- promises

    def _finished(self, call: Call, execution: Execution) -> None:
        outcome = execution.outcome
        if outcome is None:
            assert call.body == SESSION
            call.told = OPEN
            return
        call.told = outcome.kind
        command = self.ledger.command(call.id)
        if outcome.kind == "lost":
            self._lost(call, command, outcome)
        elif outcome.kind == "cancelled" and not self._cancel_asked(call) and not self.ledger.failures(call.sandbox):
            broken("P4", f"{call.id} is told to be cancelled ({outcome.reason}); nobody asked for it")
        elif outcome.kind == "cancelled" and self._closed(call) and outcome.reason != "session_closed":
            broken("P2", f"{call.id} is told to be cancelled ({outcome.reason}); it was since {call.session} was closed")
        elif outcome.kind == "failed_to_start" and self._session_lives(call):
            broken("P4", f"{call.id} is told to have failed to start ({outcome.reason}); its session lives")
        elif outcome.ran is False:
            self.ledger.never_ran(call.id, "the caller")
        else:
            if command.starts != 1 or command.ending is None:
                broken("P2", f"{call.id} is told to have {outcome.kind}; the truth is {command.starts} starts, ending {command.ending}")
            truth = outcome_of(command.ending, cancelled_for=outcome.reason)
            if (outcome.kind, outcome.code, outcome.clock) != (truth.kind, truth.code, truth.clock):
                broken("P2", f"{call.id} is told to have {_words(outcome)}; the truth is {_words(truth)}")
        self._output(call, command, lost=outcome.kind == "lost")

    def _cancel_asked(self, call: Call) -> bool:
        asked = self.ledger.command(call.id).cancel_asked
        return asked or (call.session is not None and self.ledger.command(call.session).cancel_asked)

    def _closed(self, call: Call) -> bool:
        """Whether it can have been cancelled for one reason alone: its session was to end."""
        return call.session is not None and not self.ledger.command(call.id).cancel_asked and not self.ledger.failures(call.sandbox)

    def _session_lives(self, call: Call) -> bool:
        """And nobody has asked for its end."""
        if call.session is None or self.ledger.failures(call.sandbox):
            return False
        session = self.ledger.command(call.session)
        return session.ending is None and not session.cancel_asked

    def _lost(self, call: Call, command: Command, outcome: Outcome) -> None:
        failures = self.ledger.failures(call.sandbox)
        if not failures:
            broken("P5", f"{call.id} is told to be lost ({outcome.reason}); nothing failed but server, client or network")
        if failures == {"removed"} and outcome.reason != "sandbox_removed":
            broken("P5", f"{call.id} is told to be lost ({outcome.reason}); its sandbox was removed on request")
        if command.said and command.ending is not None:
            broken("P5", f"{call.id} is told to be lost; its ending had been said before its container was gone")
        if outcome.ran is True and not command.starts:
            broken("P2", f"{call.id} is told to have run; it did not")

    def _output(self, call: Call, command: Command, lost: bool) -> None:
        """All its bytes: as many as it wrote until its end at least, and the kept ones are the right ones."""
        final = self.disk.journal.executions[call.id].final
        assert final is not None
        fetched = self.disk.file(call.id).kept(final.total)
        if fetched != final.kept and "CHECKSUM" not in self.off:
            if not command.spoilt:
                broken("P2", f"the kept output of {call.id} is {fetched}, its checksum is of {final.kept}")
            call.told = "its output is incomplete"
            return
        right = tuple(kept_places(final.total))
        if command.spoilt and fetched == final.kept:  # spoilt before its checksum was made, by a journal that was set back
            return
        row = self.disk.journal.executions[call.id]
        if row.opens or row.session is not None:
            self._heard_in_session(row, lost)
            return
        if fetched != right:
            broken("P2", f"{call.id}'s output is {fetched} of {final.total} bytes, it should be {right}")
        if not lost and final.total < command.own_bytes:
            broken("P2", f"{call.id}'s output is told to be {final.total} bytes, it wrote {command.own_bytes}")
        if final.total > command.written:
            broken("P2", f"{call.id}'s output is told to be {final.total} bytes, only {command.written} were ever written")

    def _heard_in_session(self, row: ExecutionRow, lost: bool) -> None:
        """In each output what belongs there; and when the session is over, every byte in one of them."""
        session = row.session or row.id
        talk = self.ledger.talk(session)
        unheard = {
            each.id for each in self.disk.journal.executions.values()
            if each.session == session and each.final is not None and each.final.outcome.ran == "unknown"
        }  # fmt: skip
        wrong = talk.wrong_with(
            row.id, self.disk.file(row.id).content, whole=not lost, unheard=unheard if row.opens else None,
            told_apart="journal" not in self.ledger.failures(row.sandbox),
        )  # fmt: skip
        if wrong is not None:
            broken("P2", f"{row.id}'s output {wrong}")
        rows = [each for each in self.disk.journal.executions.values() if session in (each.id, each.session)]
        finals = [each.final for each in rows if each.final is not None]
        if not row.opens or len(finals) < len(rows) or any(self.ledger.command(each.id).spoilt for each in rows):
            return
        if self.ledger.failures(row.sandbox) or any(final.outcome.kind == "lost" for final in finals):
            return
        wrong = talk.unheard_or_doubled({each.id: self.disk.file(each.id).content for each in rows})
        if wrong is not None:
            broken("P2", f"of what was said in {session}, {wrong}")

    def _failed(self, call: Call, error: RemoteEnvError, now: float) -> None:
        call.told = type(error).__name__
        if isinstance(error, NotRunError):
            self.ledger.never_ran(call.id, "the caller")
            if isinstance(error, SessionEnded) and self._session_lives(call):
                broken("P4", f"{call.id}'s caller was told that {call.session} is over; it lives, and nobody asked for its end")
            return
        if call.mistaken:
            return
        assert isinstance(error, OutcomeUnknownError | SandboxGone), error
        failures = self.ledger.failures(call.sandbox)
        slow = call.delivery.expired or now - call.began > TIMINGS.reconnect_budget_s
        if not failures and not slow:
            broken("P4", f"{call.id}'s call ended as {call.told} ({error}); nothing failed but server, client or network")
        if failures == {"removed"} and not slow and self.ledger.command(call.id).ending is not None:
            broken("P4", f"{call.id} ended before its sandbox was removed; its caller was told {call.told} ({error})")


def _words(outcome: Outcome) -> str:
    return " ".join(str(word) for word in (outcome.kind, outcome.code, outcome.clock) if word is not None)
