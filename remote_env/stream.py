"""Following one execution's output: the rules, as a machine without I/O and without a clock.

    CONNECTING   the server's events are asked for, from where we stand
       │ its first event
    STREAMING    they are read, and passed on
       │ it broke twice in a while, or cannot be had
    POLLING      the output is long-polled instead; once that has worked for a while: CONNECTING again
       │ the execution is over (from any of the three)
    FINISHING    what is still missing is fetched, now that it is known what there is
       │
    DONE         all was seen and is what was kept; or the error that tells why that cannot be

Each happening is how one thing that was asked for went, with the time; each answer to it is a `Step`: the events for whoever
follows, and the one thing to do next. Rules: where we stand is told by what was passed on alone, so that no byte is
passed on twice and none is left out, whichever way it comes; only a record that is over ends it, never a stream's end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from enum import Enum

from remote_env.backoff import Backoff
from remote_env.cursor import Cursor, gap_of, output_of, parse_position
from remote_env.errors import EpochChanged, InvalidSpec, LinkLost, OutcomeUnknownError, OutputIncomplete, RemoteEnvError
from remote_env.events import STREAMS, Accepted, End, Gap, Greeting, OutputPiece, Started, Stopping, StreamName, WireEvent
from remote_env.exchange import Refused
from remote_env.protocol import Execution, Problem
from remote_env.sse import Garbled
from remote_env.stream_steps import (
    Ask,
    Broke,
    Fail,
    Failed,
    Fetch,
    Fetched,
    Finish,
    Happening,
    Heard,
    Open,
    Passed,
    Read,
    RefusedBy,
    Step,
    Told,
)  # fmt: skip
from remote_env.timings import Timings

FETCH_BYTES = 1 << 20  # of output asked for at once by Range
_JITTER = 0.25  # of a wait before a connect: a restarted server must not meet all who follow at one moment


class Phase(Enum):
    CONNECTING = "connecting"
    STREAMING = "streaming"
    POLLING = "polling"
    FINISHING = "finishing"
    DONE = "done"


class Stream:
    """One execution's output on its way to one who follows it.

    Args:
        record: what is known of the execution.
        start: offsets in each of its streams, as `parse_position` gives them; None: from its present end on.
        draw: a number from [0, 1), for the jitter.
        note: called with a sentence for everything worth a log line, and whether the one who follows has to wait because of it.
    """

    def __init__(
        self,
        record: Execution,
        *,
        start: Sequence[int] | None,
        timings: Timings,
        draw: Callable[[], float] = random.random,
        note: Callable[[str, bool], None] = lambda sentence, trouble: None,
    ) -> None:
        self.record = record
        self.phase = Phase.CONNECTING
        self._timings = timings
        self._draw = draw
        self._note = note
        self._backoff = Backoff(timings.retry_first_s, timings.retry_most_s, draw)
        names = STREAMS[record.streams]
        self._cursors = [
            Cursor(name, None if start is None else offset) for name, offset in zip(names, start or (0,) * len(names), strict=True)
        ]
        self._started = False
        self._connects_failed = 0  # in a row
        self._failures: list[float] = []  # when streams broke
        self._trying_again = False  # a stream, after long-polling; one failure and it is long-polling again
        self._stream_again_at = 0.0
        self._turn = 0  # which cursor's output is polled next
        self._fetching: tuple[Cursor, int] | None = None  # and the whole output's offset of what is being fetched
        self._asked_at = 0.0
        self._silent_since: float | None = None  # since when neither stream nor polls have brought anything

    @property
    def position(self) -> str | None:
        """Where to go on: what was passed on ends there. None while it is not known where it began."""
        if not all(cursor.placed for cursor in self._cursors):
            return None
        return ",".join(str(cursor.offset) for cursor in self._cursors)

    @property
    def origin(self) -> dict[str, int] | None:
        """Where it began, of each stream. None while that is not known."""
        return {cursor.stream: cursor.began_at for cursor in self._cursors} if self.position is not None else None

    def begin(self, now: float) -> Step:
        record = self.record
        accepted = Accepted(record.id, record.sandbox_id, record.epoch, record.run_id, record.streams, record.accepted_at)
        events: list[Passed] = [accepted]
        if record.started_at is not None:
            self._start(events, Started(record.started_at))
        return self._finish(now, record, events) if record.over else Step(tuple(events), Open(self.position))

    def handle(self, happening: Happening) -> Step:
        """Raises RuntimeError for what cannot happen in this phase."""
        if isinstance(happening, Told) and self.phase is not Phase.DONE:
            return self._told(happening)
        if isinstance(happening, Heard) and self.phase in (Phase.CONNECTING, Phase.STREAMING):
            return self._heard(happening)
        if isinstance(happening, Broke) and self.phase in (Phase.CONNECTING, Phase.STREAMING):
            return self._broke(happening.now, happening.reason, happening.silent)
        if isinstance(happening, Fetched) and self.phase in (Phase.POLLING, Phase.FINISHING):
            return self._fetched(happening)
        if isinstance(happening, Failed) and self.phase in (Phase.POLLING, Phase.FINISHING):
            return self._try_again(happening.now, happening.reason)
        if isinstance(happening, RefusedBy) and self.phase not in (Phase.STREAMING, Phase.DONE):
            return self._refused(happening.now, happening.problem)
        raise RuntimeError(f"{type(happening).__name__} while {self.phase.value}, of execution {self.record.id}")

    # -------------------------------------------------------------------------------------------------- by events

    def _heard(self, heard: Heard) -> Step:
        events: list[Passed] = []
        for event in heard.events:
            try:
                step = self._hear(heard.now, event, events)
            except Garbled as error:
                step = self._broke(heard.now, str(error), silent=False, events=events)
            if step is not None:
                return step
        return Step(tuple(events), Read())

    def _hear(self, now: float, event: WireEvent, events: list[Passed]) -> Step | None:
        """None: read on."""
        if isinstance(event, Greeting):
            self._greeted(event)
        elif self.phase is Phase.CONNECTING:
            raise Garbled(f"{type(event).__name__} before the stream has said whose it is")
        elif isinstance(event, Started):
            self._start(events, event)
        elif isinstance(event, OutputPiece):
            events += self._cursor(event.stream).take(event.offset, event.data)
        elif isinstance(event, Gap):
            events += self._cursor(event.stream).skip(event.start, event.end)
        elif isinstance(event, End):
            return self._finish(now, event.record, events)
        elif isinstance(event, Stopping):
            self._note(f"the server stops: following it again in {event.retry_after_s:.1f} s", False)
            self.phase = Phase.CONNECTING
            self._connects_failed = 0
            return Step(tuple(events), Open(self.position, self._spread(event.retry_after_s)))
        return None

    def _greeted(self, event: Greeting) -> None:
        accepted, record = event.accepted, self.record
        if accepted.streams != record.streams:
            raise Garbled(f"the streams of execution {record.id} are {record.streams}, not {accepted.streams}")
        if self.position is None:
            offsets = parse_position(event.position or "", record.streams)
            for cursor, offset in zip(self._cursors, offsets, strict=True):
                cursor.begin(offset)
        if self._trying_again:
            self._note("followed by events again", False)
        self.phase = Phase.STREAMING
        self._connects_failed = 0
        self._trying_again = False
        self._silent_since = None

    def _broke(self, now: float, reason: str, silent: bool, events: Sequence[Passed] = ()) -> Step:
        if self._silent_since is None:
            self._silent_since = now
        greeted, self.phase = self.phase is Phase.STREAMING, Phase.CONNECTING
        waits = self._timings.stream_connect_waits_s
        if greeted:
            window = self._timings.stream_failure_window_s
            self._failures = [*(at for at in self._failures if now - at < window), now]
            if len(self._failures) < self._timings.stream_failures:
                self._note(f"its stream broke ({reason}): connecting again", False)
                return Step(tuple(events), Open(self.position))
        # A path on which not even the greeting comes through holds events back: trying again would cost as much silence.
        elif not (silent or self._trying_again) and self._connects_failed < len(waits):
            delay = self._spread(waits[self._connects_failed])
            self._connects_failed += 1
            self._note(f"no stream ({reason}): connecting again in {delay:.1f} s", True)
            return Step(tuple(events), Open(self.position, delay))
        return self._poll_instead(now, reason, events)

    def _spread(self, seconds: float) -> float:
        return seconds * (1 + _JITTER * self._draw())

    # -------------------------------------------------------------------------------------------- by long-polling

    def _poll_instead(self, now: float, reason: str, events: Sequence[Passed] = ()) -> Step:
        again_s = self._timings.stream_retry_sse_s
        self._note(f"no stream ({reason}): long-polling; a stream is tried again in {again_s:.0f} s", False)
        self.phase = Phase.POLLING
        self._connects_failed = 0
        self._failures.clear()
        self._stream_again_at = now + again_s
        self._backoff.reset()
        return self._poll(now, events)

    def _poll(self, now: float, events: Sequence[Passed] = (), after_s: float = 0.0) -> Step:
        if self.position is None:
            return Step(tuple(events), Ask(after_s))
        cursor = self._cursors[self._turn % len(self._cursors)]
        wait_s = self._timings.poll_slice_s
        if len(self._cursors) > 1:
            wait_s = min(wait_s, self._timings.stream_split_poll_s)
        self._asked_at = now + after_s
        self._fetching = cursor, cursor.wanted
        return Step(tuple(events), Fetch(cursor.stream, cursor.wanted, cursor.wanted + FETCH_BYTES, wait_s, after_s))

    def _fetched(self, fetched: Fetched) -> Step:
        if self._fetching is None:
            raise RuntimeError(f"an answer to no Fetch, of execution {self.record.id}")
        cursor, offset = self._fetching
        now = fetched.now
        self._silent_since = None
        events: list[Passed] = []
        if self.phase is Phase.FINISHING:
            if not fetched.data:
                return self._try_again(now, "the output is shorter than the server says")
            self._backoff.reset()
            events += cursor.take(offset, fetched.data, torn=True)
            return self._rest(now, events)
        if fetched.state in ("ended", "abandoned"):
            # What came counts kept bytes, which are those of the whole output only up to the gap: first learn where that is.
            return Step((), Ask())
        if fetched.state == "running":
            self._start(events, Started(None))
        events += cursor.take(offset, fetched.data, torn=True)
        if now >= self._stream_again_at:
            return self._stream_again(events)
        self._turn += 1
        quick = not fetched.data and now - self._asked_at < 0.5 * self._timings.stream_split_poll_s
        if not quick:
            self._backoff.reset()
        # A server that answers at once with nothing, as one does that is about to stop, must not be asked in a busy loop.
        return self._poll(now, events, self._backoff.next_s() if quick else 0.0)

    def _stream_again(self, events: Sequence[Passed]) -> Step:
        self.phase = Phase.CONNECTING
        self._trying_again = True
        for cursor in self._cursors:
            cursor.forget_held()
        return Step(tuple(events), Open(self.position))

    def _told(self, told: Told) -> Step:
        record = told.record
        self._silent_since = None
        if record.over:
            return self._finish(told.now, record, [])
        for cursor in self._cursors:
            cursor.begin(output_of(record, cursor.stream).total_bytes)
        return self._poll(told.now, after_s=self._backoff.next_s())

    def _try_again(self, now: float, reason: str, delay: float | None = None) -> Step:
        """The same once more: a Fetch or an Ask that brought nothing."""
        if self._silent_since is None:
            self._silent_since = now
        if delay is None:
            delay = self._backoff.next_s()
        silent = now - self._silent_since
        if silent + delay > self._timings.reconnect_budget_s:
            return self._fail(
                LinkLost(
                    f"Execution {self.record.id} cannot be followed: the server gave no answer for {silent:.0f} s ({reason}). It is not "
                    "cancelled; ask for it by its id, do not send it again."
                )
            )
        self._note(f"{self.phase.value}: {reason}; trying again in {delay:.1f} s", True)
        return self._rest(now, [], delay) if self.phase is Phase.FINISHING else self._poll(now, after_s=delay)

    # ------------------------------------------------------------------------------------------------- refusals

    def _refused(self, now: float, problem: Problem) -> Step:
        reason = f"{problem.code}: {problem.detail}"
        if problem.accepted == "unknown":
            return self._broke(now, reason, False) if self.phase is Phase.CONNECTING else self._try_again(now, reason)
        if problem.retryable or problem.code == "unauthorized":
            # Not a failure of the link. A token that is being changed must not cost the output either.
            if self.phase is not Phase.CONNECTING:
                return self._try_again(now, reason, problem.retry_after_s)
            return self._come_again(now, problem)
        if self.phase is Phase.CONNECTING and problem.code in ("not_found", "method_not_allowed"):
            return self._poll_instead(now, reason)  # a server that has no events yet; of an unknown id the polls tell
        if problem.code == "gone" and self.phase is Phase.FINISHING:
            return self._purged(now)
        if problem.code == "gone" and (self.phase is Phase.CONNECTING or self._fetching is not None):
            self.phase, self._fetching = Phase.POLLING, None
            return Step((), Ask())  # its output is gone, or it is: this tells
        if problem.code == "invalid":
            if any(cursor.placed and cursor.offset != cursor.began_at for cursor in self._cursors):
                return self._fail(self._incomplete(f"the server does not know of all of it any more ({problem.detail})"))
            return self._fail(InvalidSpec(f"Execution {self.record.id} cannot be followed from {self.position}: {problem.detail}"))
        return self._fail(lookup_error(problem, self.record.id, self.record.sandbox_id))

    def _come_again(self, now: float, problem: Problem) -> Step:
        delay = problem.retry_after_s if problem.retry_after_s is not None else self._backoff.next_s()
        if self._silent_since is None:
            self._silent_since = now
        if now + delay - self._silent_since > self._timings.stream_failure_window_s:
            return self._poll_instead(now, f"{problem.code}: {problem.detail}")
        return Step((), Open(self.position, self._spread(delay)))

    # ---------------------------------------------------------------------------------------------------- the end

    def _finish(self, now: float, record: Execution, events: list[Passed]) -> Step:
        self.record = record
        self.phase = Phase.FINISHING
        self._backoff.reset()
        if record.started_at is not None:
            self._start(events, Started(record.started_at))
        return self._rest(now, events)

    def _rest(self, now: float, events: list[Passed], after_s: float = 0.0) -> Step:
        """Passes on what is here and asks for what is missing, of each stream up to its end."""
        for cursor in self._cursors:
            output = output_of(self.record, cursor.stream)
            cursor.begin(output.total_bytes)
            if cursor.began_at > output.total_bytes:
                there = f"{cursor.stream} ends after {output.total_bytes} bytes"
                return self._fail(InvalidSpec(f"Execution {self.record.id} cannot be followed from there: {there}."), events)
            while cursor.wanted < output.total_bytes:
                gap_start, gap_end = gap_of(output)
                if gap_start <= cursor.wanted < gap_end:
                    events += cursor.skip(cursor.wanted, gap_end)
                    continue
                before = cursor.wanted < gap_start
                start = cursor.wanted if before else cursor.wanted - (gap_end - gap_start)
                end = gap_start if before else output.kept_bytes
                inline = output.inline()
                if inline is None or len(inline) != output.kept_bytes:
                    self._fetching = cursor, cursor.wanted
                    return Step(tuple(events), Fetch(cursor.stream, start, min(end, start + FETCH_BYTES), after_s=after_s))
                events += cursor.take(cursor.wanted, inline[start:end])
            events += cursor.release()
            objection = cursor.objection(output)
            if objection is not None:
                return self._fail(self._incomplete(objection), events)
        self.phase = Phase.DONE
        return Step(tuple(events), Finish(self.record))

    def _purged(self, now: float) -> Step:
        """The output was removed after the record was written: all that is missing is a gap."""
        events: list[Passed] = []
        for cursor in self._cursors:
            events += cursor.skip(cursor.wanted, output_of(self.record, cursor.stream).total_bytes)
        return self._rest(now, events)

    def _start(self, events: list[Passed], event: Started) -> None:
        """Passed on once; it is said on every connection."""
        if not self._started:
            self._started = True
            events.append(event)

    def _cursor(self, stream: StreamName) -> Cursor:
        for cursor in self._cursors:
            if cursor.stream == stream:
                return cursor
        raise Garbled(f"output of {stream}, of an execution whose streams are {self.record.streams}")

    def _fail(self, error: RemoteEnvError, events: Sequence[Passed] = ()) -> Step:
        self.phase = Phase.DONE
        error.execution_id, error.sandbox_id = self.record.id, self.record.sandbox_id
        return Step(tuple(events), Fail(error))

    def _incomplete(self, why: str) -> OutputIncomplete:
        return OutputIncomplete(f"What went by is not the output of execution {self.record.id}: {why}. Its result is known; it ran.")


def lookup_error(problem: Problem, execution_id: str, sandbox_id: str) -> RemoteEnvError:
    """What a refused question about a known execution means to its caller."""
    about = {"execution_id": execution_id, "sandbox_id": sandbox_id}
    if problem.status in (404, 412) and not problem.no_such_route:
        return EpochChanged(f"The server knows nothing of execution {execution_id} any more ({problem.code}: {problem.detail}).", **about)
    if problem.status == 410:
        return OutcomeUnknownError(f"The result of execution {execution_id} is beyond retention ({problem.detail}).", **about)
    return Refused(problem).error(**about)
