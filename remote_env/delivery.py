"""From "send this command" to "this is what became of it": the rules, as a machine without I/O and without a clock.

    POSTING   copies of the POST are sent; each so far was answered "not taken", or never left
       │ broken: a byte may have left and nobody of ours answered
    ASKING    the id's fate is unknown: GET it. The POST is never sent again
       │ 404: unknown at the server, but a copy may still be under way
    FENCING   abandon the id: a tombstone through the sandbox's own init, after which no copy can start any more
       │ the id turns out to be known (from any of the three)
    WAITING   long-poll it to its end
       │
    DONE      with the execution, or with the error that tells its fate

Each event is how one request ended, with the time; each answer to it is the one thing to do next. Rules (see the
protocol's ABCOND, CLAIM, FENCE, STOREDEPOCH): only an execution that the server shows as ended or abandoned ends the
call as known; "did not run and never will" is said only of an id that was fenced, or of which no copy was ever sent or
every copy was refused for a reason that holds for all of them; everything else is "unknown".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from remote_env.backoff import Backoff
from remote_env.errors import (
    AnswerMismatch,
    CommandNotDelivered,
    EpochChanged,
    LinkLost,
    OutcomeUnknownError,
    RemoteEnvError,
    ServerBusy,
)
from remote_env.exchange import Refused, unreachable
from remote_env.protocol import Execution, Problem
from remote_env.timings import Timings


class Phase(Enum):
    POSTING = "posting"
    ASKING = "asking"
    FENCING = "fencing"
    WAITING = "waiting"
    DONE = "done"


# ---------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True)
class Answered:
    """An envelope of ours about this id and epoch."""

    now: float
    execution: Execution


@dataclass(frozen=True)
class RefusedBy:
    """A Problem of ours."""

    now: float
    problem: Problem


@dataclass(frozen=True)
class NothingSent:
    """No connection was made."""

    now: float
    reason: str


@dataclass(frozen=True)
class Broken:
    """A byte may have left, and no answer of ours to this request came. `mismatched`: one to another request came.
    `hopeless`: and none will come, however often it is tried."""

    now: float
    reason: str
    hopeless: bool = False
    mismatched: bool = False


@dataclass(frozen=True)
class AnotherServer:
    """An answer of ours, from another server than the one that the epoch is of."""

    now: float
    reason: str


Event = Answered | RefusedBy | NothingSent | Broken | AnotherServer


# ---------------------------------------------------------------------------------------------------- instructions


@dataclass(frozen=True)
class Post:
    after_s: float = 0.0
    wait_s: float = 0.0


@dataclass(frozen=True)
class Get:
    after_s: float = 0.0
    wait_s: float = 0.0


@dataclass(frozen=True)
class Abandon:
    after_s: float = 0.0
    wait_s: float = 0.0


@dataclass(frozen=True)
class Finished:
    execution: Execution


@dataclass(frozen=True)
class Failed:
    error: RemoteEnvError


Request = Post | Get | Abandon
Step = Request | Finished | Failed


class Delivery:
    """One execution id on its way. Feed it what happened, do what it says, until it says Finished or Failed.

    Args:
        now: the monotonic time of the beginning, in seconds.
        deadline: when the call as a whole ends, on the same clock.
        reached: whether this server was ever reached before; if not, a refused connection is told soon.
        accepted_suffices: end as soon as the execution is known to the server (for `start`).
        accepted_wait_s: how long the server may hold that back, in seconds, until there is more to say.
        known: the id is known to the server; only its end is waited for.
        fresh: the id was made for this call. If not, an earlier process may have sent it: nothing that happens to the copies
            of this call alone lets it say "did not run and never will".
        note: called with a sentence for everything worth a log line, and the counter it belongs to; without a sentence where the
            line before says it already.
    """

    def __init__(
        self,
        execution_id: str,
        *,
        now: float,
        deadline: float,
        timings: Timings,
        backoff: Backoff,
        url: str = "the server",
        reached: bool = True,
        accepted_suffices: bool = False,
        accepted_wait_s: float = 0.0,
        known: bool = False,
        fresh: bool = True,
        note: Callable[[str | None, str | None], None] = lambda sentence, counter: None,
    ) -> None:
        self.execution_id = execution_id
        self.phase = Phase.WAITING if known else Phase.POSTING
        self.sent = known or not fresh  # whether a byte of any copy of the POST may have left
        self._earlier = not fresh  # whether there is a copy of the POST besides those that were just answered
        self._deadline = deadline
        self._queue_deadline = min(deadline, now + timings.queue_s)
        self._began = now
        self._timings = timings
        self._backoff = backoff
        self._url = url
        self._reached = reached
        self._accepted_suffices = accepted_suffices
        self._accepted_wait_s = accepted_wait_s
        self._note = note
        self._silent_since: float | None = None  # since when no request has brought us nearer
        self.known = known
        self._fenced = False  # whether an abandon of it was ever asked for
        self._turned_away: Problem | None = None  # why it was fenced, when not because it got lost
        self._waits_for_session = False
        self._asked_at = now
        self.expired = False
        self._mismatched = False  # whether the latest answer was another request's

    def begin(self, now: float) -> Request:
        return self._request(now)

    def handle(self, event: Event) -> Step:
        """Raises RuntimeError for an event after the end."""
        if self.phase is Phase.DONE:
            raise RuntimeError(f"{type(event).__name__} after the end of {self.execution_id}")
        if self.phase is Phase.POSTING and not isinstance(event, NothingSent):
            self.sent = True
        if isinstance(event, Answered):
            return self._answered(event)
        if isinstance(event, RefusedBy):
            self._reached = True
            if event.problem.accepted == "unknown":
                return self._broken(event.now, f"{event.problem.code}: {event.problem.detail}")
            return self._refused(event)
        if isinstance(event, AnotherServer):
            return self._fail(EpochChanged(event.reason))
        self._mismatched = isinstance(event, Broken) and event.mismatched
        if isinstance(event, NothingSent):
            return self._nothing_sent(event)
        if event.hopeless:
            return self._fail(OutcomeUnknownError(f"Whether {self._name()} ran cannot be known: {event.reason}"))
        return self._broken(event.now, event.reason)

    def give_up(self, now: float, reason: str) -> Failed:
        """The caller cannot go on (the client was closed): what can be said of the command then."""
        if not self.sent:
            return self._fail(unreachable(self._url, reason, now - self._began))
        kind = AnswerMismatch if self._mismatched else LinkLost
        return self._fail(kind(f"{self._name()}: {reason}. It may be running; ask for it by its id, do not send it again."))

    # ------------------------------------------------------------------------------------------------- transitions

    def _answered(self, event: Answered) -> Step:
        execution, now = event.execution, event.now
        self._reached = True
        if self.phase is Phase.ASKING:
            self._note("found again at the server after its request broke", "reattached")
        elif self.phase is Phase.FENCING and execution.state not in ("abandoned", "accepted"):
            self._note("known at the server after all", "reattached")
        elif self.phase is Phase.WAITING and self._silent_since is not None:
            self._note("found again at the server after the link broke", "reattached")
        self._silent_since = None
        self.phase = Phase.WAITING
        # A fence on its way is shown as accepted, like a command that waits for its start: only what follows tells.
        if execution.over or (self._accepted_suffices and not (self._fenced and execution.state == "accepted")):
            return self._end(execution)
        if now >= self._deadline:
            return self._expired()
        # A server that answers at once, as one does that is about to stop, must not be asked in a busy loop.
        quick = now - self._asked_at < 0.5 * self._slice(self._asked_at)
        delay = self._backoff.next_s() if quick else 0.0
        if not quick:
            self._backoff.reset()
        return self._request(now, delay)

    def _end(self, execution: Execution) -> Step:
        self.phase = Phase.DONE
        not_run = execution.state == "abandoned" or (execution.outcome is not None and execution.outcome.kind == "not_run")
        if self.known or not not_run:
            return Finished(execution)
        if self._turned_away is not None:
            return Failed(self._turned_away_error(self._turned_away))
        self._note("fenced: it did not run and never will", "not_delivered")
        return Failed(
            CommandNotDelivered(
                f"{self._name()} was not delivered: its request got lost and its id is fenced now. It did not run and never will; "
                "it is safe to send it again.",
                execution_id=self.execution_id,
            )
        )

    def _refused(self, event: RefusedBy) -> Step:
        problem, now = event.problem, event.now
        if problem.retryable:
            if self.phase is Phase.POSTING:
                return self._busy_here(problem, now)
            return self._try_again(now, f"{problem.code}: {problem.detail}", problem.retry_after_s)
        if problem.code == "unauthorized" and (self.phase is not Phase.POSTING or self._earlier):
            # The command may be running: a token that is being changed must not cost its result, nor can it be said now that
            # an earlier copy was not taken.
            return self._try_again(now, f"{problem.code}: {problem.detail}", problem.retry_after_s)
        if self.phase is Phase.POSTING and problem.code == "session_ended":
            # It speaks of this copy (CLAIM): where the journal was set back to before the session, another may have run in it. Its
            # sandbox is there, so that all of them can be ruled out.
            self._note("the session is over: abandoning it", None)
            self._turned_away = problem
            return self._fence(now)
        if self.phase is Phase.POSTING and not (self._earlier and problem.status in (404, 409, 410)):
            # Every copy so far was answered by us with "not taken", and for this reason all of them would be; but an earlier copy
            # may have come to a sandbox that was still there.
            return self._fail(Refused(problem).error(execution_id=self.execution_id))
        if self.phase is Phase.ASKING and problem.status == 404:
            self._note("unknown at the server: abandoning it", None)
            return self._fence(now)
        error = EpochChanged if problem.status in (404, 412) else OutcomeUnknownError
        where = "the fence was refused" if self.phase is Phase.FENCING else "the server cannot tell"
        return self._fail(
            error(
                f"Whether {self._name()} ran cannot be known: {where} ({problem.code}: {problem.detail}). Do not send it again blindly: "
                "look at what it would have changed.",
                execution_id=self.execution_id,
            )
        )

    def _busy_here(self, problem: Problem, now: float) -> Step:
        delay = problem.retry_after_s if problem.retry_after_s is not None else self._backoff.next_s()
        self._silent_since = None
        self._earlier = True  # a proxy may have made another copy of this one
        if now + delay < self._queue_deadline:
            self._note(self._busy_line(problem, delay), "retries")
            return self._request(now, delay)
        self._note(f"not taken ({problem.code}) within the queue timeout: abandoning it", None)
        self._turned_away = problem
        return self._fence(now)

    def _busy_line(self, problem: Problem, delay: float) -> str | None:
        """One for all of the wait for another command of the session, which is asked about many times a second."""
        waits, self._waits_for_session = self._waits_for_session, problem.code == "session_busy"
        if not self._waits_for_session:
            return f"not taken ({problem.code}): sending it again in {delay:.1f} s"
        return None if waits else "not taken yet (session_busy): sending it again until the session's other command has ended"

    def _fence(self, now: float) -> Step:
        self.phase = Phase.FENCING
        self._fenced = True
        self._backoff.reset()
        return self._request(now)

    def _nothing_sent(self, event: NothingSent) -> Step:
        waited = event.now - self._began
        if not self.sent and not self._reached and waited >= self._timings.first_contact_s:
            return self._fail(unreachable(self._url, event.reason, waited))
        return self._try_again(event.now, event.reason)

    def _broken(self, now: float, reason: str) -> Step:
        if self.phase is Phase.POSTING:
            self.phase = Phase.ASKING
            self._note(f"its request broke ({reason}): asking for it by its id", None)
            self._silent_since = now
            return self._request(now)
        return self._try_again(now, reason)

    def _try_again(self, now: float, reason: str, delay: float | None = None) -> Step:
        if self._silent_since is None:
            self._silent_since = now
        if now >= self._deadline:
            return self._expired() if self.sent else self.give_up(now, reason)
        if delay is None:
            delay = self._backoff.next_s()
        silent = now - self._silent_since
        if silent + delay > self._timings.reconnect_budget_s:
            return self.give_up(now, f"the server gave no answer for {silent:.0f} s ({reason})")
        self._note(f"{self.phase.value}: {reason}; trying again in {delay:.1f} s", "retries")
        return self._request(now, delay)

    def _expired(self) -> Failed:
        self.expired = True
        if not self.known:
            self._note("the call's deadline is over; the command is not cancelled", "timed_out")
        return self._fail(
            OutcomeUnknownError(
                f"{self._name()} has not ended within the call's deadline. It is not cancelled: ask for it by its id, do not send it "
                "again.",
                execution_id=self.execution_id,
            )
        )

    # ----------------------------------------------------------------------------------------------------- helpers

    def _request(self, now: float, after_s: float = 0.0) -> Request:
        self._asked_at = now + after_s
        kind: type[Request] = Get
        if self.phase is Phase.POSTING:
            kind = Post
        elif self.phase is Phase.FENCING:
            kind = Abandon
        return kind(after_s=after_s, wait_s=self._slice(self._asked_at))

    def _slice(self, at: float) -> float:
        if self._accepted_suffices and not self._fenced:
            return self._accepted_wait_s
        return max(0.0, min(self._timings.poll_slice_s, self._deadline - at))

    def _fail(self, error: RemoteEnvError) -> Failed:
        self.phase = Phase.DONE
        error.execution_id = self.execution_id
        return Failed(error)

    def _turned_away_error(self, problem: Problem) -> RemoteEnvError:
        if not problem.retryable:
            return Refused(problem).error(execution_id=self.execution_id)
        return ServerBusy(
            f"The server had no room for {self._name()} within {self._timings.queue_s:.0f} s ({problem.code}: {problem.detail}). "
            "It did not run and never will.",
            execution_id=self.execution_id,
        )

    def _name(self) -> str:
        return f"execution {self.execution_id}"
