"""Callers: the real delivery on the simulated network, and what each was told in the end."""

from __future__ import annotations

from remote_env import delivery
from remote_env.backoff import Backoff
from remote_env.errors import NotRunError, OutcomeUnknownError, RemoteEnvError, SandboxGone
from remote_env.protocol import Execution, Outcome, Problem
from remote_env.timings import Timings
from server.outcomes import outcome_of
from tests.unit.simulation.disk import Disk
from tests.unit.simulation.init import TIMEOUT_S
from tests.unit.simulation.ledger import Command, Ledger, broken
from tests.unit.simulation.network import Message
from tests.unit.simulation.pipe import kept_places

TIMINGS = Timings(queue_s=5.0, reconnect_budget_s=300.0)
VERBS = {delivery.Post: "post", delivery.Get: "get", delivery.Abandon: "abandon"}


class Call:
    """One caller's command on its way to its end.

    Args:
        fresh: its id was made for it, so nobody has sent it before.
        mistaken: the caller does what callers must not do, so that it may get no result.
    """

    def __init__(
        self, id_: str, sandbox: str, epoch: str | None, body: str, now: float, *, fresh: bool = True, mistaken: bool = False
    ) -> None:  # fmt: skip
        self.mistaken = mistaken
        self.id, self.sandbox, self.epoch, self.body, self.began = id_, sandbox, epoch, body, now
        self.delivery = delivery.Delivery(
            id_, now=now, deadline=now + TIMINGS.call_s(TIMEOUT_S), timings=TIMINGS,
            backoff=Backoff(TIMINGS.retry_first_s, TIMINGS.retry_most_s, lambda: 0.5), fresh=fresh,
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
        self.waits_for = Message(self.id, verb, self.id, self.sandbox, self.epoch, self.body, caller=self)
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
        assert outcome is not None
        call.told = outcome.kind
        command = self.ledger.command(call.id)
        if outcome.kind == "lost":
            self._lost(call, command, outcome)
        elif outcome.kind == "cancelled" and not command.cancel_asked and not self.ledger.failures(call.sandbox):
            broken("P4", f"{call.id} is told to be cancelled ({outcome.reason}); nobody asked for it")
        elif outcome.ran is False:
            self.ledger.never_ran(call.id, "the caller")
        else:
            if command.starts != 1 or command.ending is None:
                broken("P2", f"{call.id} is told to have {outcome.kind}; the truth is {command.starts} starts, ending {command.ending}")
            truth = outcome_of(command.ending, cancelled_for=outcome.reason)
            if (outcome.kind, outcome.code, outcome.clock) != (truth.kind, truth.code, truth.clock):
                broken("P2", f"{call.id} is told to have {_words(outcome)}; the truth is {_words(truth)}")
        self._output(call, command, lost=outcome.kind == "lost")

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
        if fetched != right:
            broken("P2", f"{call.id}'s output is {fetched} of {final.total} bytes, it should be {right}")
        if not lost and final.total < command.own_bytes:
            broken("P2", f"{call.id}'s output is told to be {final.total} bytes, it wrote {command.own_bytes}")
        if final.total > command.written:
            broken("P2", f"{call.id}'s output is told to be {final.total} bytes, only {command.written} were ever written")

    def _failed(self, call: Call, error: RemoteEnvError, now: float) -> None:
        call.told = type(error).__name__
        if isinstance(error, NotRunError):
            self.ledger.never_ran(call.id, "the caller")
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
