"""The rules of following an execution, without I/O and without a clock; then any history that a bad network can make."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote_env.cursor import torn_bytes
from remote_env.errors import EpochChanged, InvalidSpec, LinkLost, OutcomeUnknownError, OutputIncomplete
from remote_env.events import (
    STREAMS,
    Accepted,
    End,
    Gap,
    Greeting,
    Heartbeat,
    OutputPiece,
    Started,
    Stopping,
    StreamName,
    WireEvent,
)
from remote_env.protocol import Execution, Outcome, Output, Problem
from remote_env.stream import Phase, Stream
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
    Instruction,
    Open,
    Passed,
    Read,
    RefusedBy,
    Step,
    Told,
)
from remote_env.timings import Timings

TIMINGS = Timings()
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
RUNNING = Execution(id="e" * 32, sandbox_id="s" * 32, epoch="epoch", run_id="r" * 32, state="running", started_at=AT)
HELLO = b"hello "
WORLD = "wörld\n".encode()
POLL_FROM_6 = Fetch("merged", 6, 6 + (1 << 20), TIMINGS.poll_slice_s)


def kept(output: bytes, limit: int = 1 << 20, *, inline: bool = True) -> Output:
    """What a server keeps of this output, as it says so at the end."""
    half = limit // 2
    data, gap = (output, None) if len(output) <= limit else (output[:half] + output[-half:], (half, len(output) - half))
    return Output(
        text=data.decode("latin-1") if inline and data.isascii() else None,
        total_bytes=len(output),
        kept_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        gap=gap,
        truncated="limit" if gap else None,
    )


def ended(written: bytes, **fields: Any) -> Execution:
    outcome = Outcome(kind="exited", ran=True, code=0)
    return RUNNING.model_copy(update={"state": "ended", "outcome": outcome, "output": kept(written, inline=False), **fields})


def greeting(position: str | None = None, record: Execution = RUNNING) -> Greeting:
    return Greeting(Accepted(record.id, record.sandbox_id, record.epoch, record.run_id, record.streams, record.accepted_at), position)


def piece(offset: int, data: bytes, stream: StreamName = "merged") -> OutputPiece:
    return OutputPiece(stream, offset, data)


def begun(record: Execution = RUNNING, start: Sequence[int] | None = (0,), timings: Timings = TIMINGS) -> Stream:
    stream = Stream(record, start=start, timings=timings, draw=lambda: 0.0)
    stream.begin(0.0)
    return stream


def streaming(*events: WireEvent) -> Stream:
    stream = begun()
    assert stream.handle(Heard(1.0, (greeting(), *events))).next == Read()
    return stream


def polling(now: float = 1.0, record: Execution = RUNNING, start: Sequence[int] | None = (0,)) -> Stream:
    stream = begun(record, start)
    stream.handle(Broke(now, "nothing came", silent=True))
    assert stream.phase is Phase.POLLING
    return stream


def refusal(code: str, retry_after_s: float | None = None) -> Problem:
    return Problem.of(code, "by a test's order", retry_after_s=retry_after_s)


def error_of(step: Step) -> Exception:
    assert isinstance(step.next, Fail)
    return step.next.error


# ------------------------------------------------------------------------------------------------------- by events


def test_it_begins_with_what_is_known_and_asks_for_the_events() -> None:
    stream = Stream(RUNNING, start=(0,), timings=TIMINGS)
    assert stream.begin(0.0) == Step((greeting().accepted, Started(AT)), Open("0"))


def test_output_is_passed_on_as_it_comes_and_the_end_ends_it() -> None:
    stream = begun()
    assert stream.handle(Heard(1.0, ())) == Step((), Read())
    events = (greeting(), Started(AT), piece(0, HELLO), Heartbeat(), piece(6, WORLD))
    assert stream.handle(Heard(2.0, events)) == Step((piece(0, HELLO), piece(6, WORLD)), Read())
    over = ended(HELLO + WORLD)
    assert stream.handle(Heard(3.0, (End(over),))) == Step((), Finish(over))


def test_a_broken_stream_goes_on_where_it_stood() -> None:
    stream = streaming(piece(0, HELLO))
    assert stream.handle(Broke(2.0, "cut")) == Step((), Open("6"))
    assert stream.handle(Heard(3.0, (greeting("6"), Started(AT), piece(6, WORLD)))).events == (piece(6, WORLD),)


def test_what_came_before_a_garbled_event_is_passed_on_and_the_rest_is_asked_for_again() -> None:
    stream = streaming()
    step = stream.handle(Heard(2.0, (piece(0, HELLO), piece(100, b"far away"), piece(6, WORLD))))
    assert step == Step((piece(0, HELLO),), Open("6"))


def test_bytes_that_come_twice_are_passed_on_once() -> None:
    stream = streaming(piece(0, HELLO))
    step = stream.handle(Heard(2.0, (piece(0, HELLO), piece(3, b"lo " + WORLD), piece(2, b"llo"))))
    assert step.events == (piece(6, WORLD),)


def test_a_gap_is_passed_on_and_a_gap_of_what_was_seen_is_not() -> None:
    stream = streaming(piece(0, HELLO))
    step = stream.handle(Heard(2.0, (Gap("merged", 2, 6), Gap("merged", 4, 90), piece(90, WORLD))))
    assert step.events == (Gap("merged", 6, 90), piece(90, WORLD))
    assert stream.position == "97"


def test_an_end_before_the_stream_has_said_whose_it_is_is_no_end() -> None:
    step = begun().handle(Heard(1.0, (End(ended(b"")),)))
    assert step == Step((), Open("0", 2.0))


def test_streams_of_another_kind_than_the_executions_are_not_taken() -> None:
    split = RUNNING.model_copy(update={"streams": "split"})
    assert begun().handle(Heard(1.0, (greeting(record=split),))).next == Open("0", 2.0)
    assert streaming().handle(Heard(1.0, (piece(0, HELLO, "stdout"),))).next == Open("0")


def test_output_that_the_events_left_out_is_fetched_at_the_end() -> None:
    stream = streaming(piece(0, HELLO))
    over = ended(HELLO + WORLD)
    assert stream.handle(Heard(2.0, (End(over),))) == Step((), Fetch("merged", 6, 13))
    assert stream.handle(Fetched(3.0, WORLD, "ended")) == Step((piece(6, WORLD),), Finish(over))


def test_another_sha256_than_the_servers_is_told() -> None:
    stream = streaming(piece(0, b"jello "), piece(6, WORLD))
    assert isinstance(error_of(stream.handle(Heard(2.0, (End(ended(HELLO + WORLD)),)))), OutputIncomplete)


def test_more_output_than_the_server_has_written_is_told() -> None:
    stream = streaming(piece(0, HELLO), piece(6, WORLD))
    assert isinstance(error_of(stream.handle(Heard(2.0, (End(ended(HELLO)),)))), OutputIncomplete)


def test_a_stopping_server_is_asked_again_and_that_is_no_failure() -> None:
    stream = streaming(piece(0, HELLO))
    for now in (2.0, 3.0, 4.0, 5.0):
        assert stream.handle(Heard(now, (Stopping(1.0),))).next == Open("6", 1.0)
        assert stream.handle(RefusedBy(now, refusal("stopping", 0.5))).next == Open("6", 0.5)
        assert stream.handle(Heard(now, (greeting("6"),))).next == Read()


def test_a_server_that_stops_for_long_is_polled() -> None:
    stream = begun()
    assert isinstance(stream.handle(RefusedBy(0.0, refusal("stopping", 1.0))).next, Open)
    assert isinstance(stream.handle(RefusedBy(29.0, refusal("stopping", 1.0))).next, Open)
    assert isinstance(stream.handle(RefusedBy(31.0, refusal("stopping", 1.0))).next, Fetch)


def test_from_now_begins_where_the_server_says_that_now_is() -> None:
    stream = begun(start=None)
    assert (stream.position, stream.origin) == (None, None)
    assert stream.handle(Heard(1.0, (greeting("500"), piece(500, HELLO)))).events == (piece(500, HELLO),)
    assert stream.handle(Broke(2.0, "cut")).next == Open("506")
    assert stream.origin == {"merged": 500}


def test_from_now_without_a_place_is_garbled() -> None:
    assert begun(start=None).handle(Heard(1.0, (greeting(None),))).next == Open(None, 2.0)


# ------------------------------------------------------------------------------------------- failures, and long-polling


def test_a_failed_connect_is_tried_three_times_after_2_4_and_6_seconds() -> None:
    stream = begun()
    assert [stream.handle(Broke(now, "refused")).next for now in (0.0, 2.0, 6.0)] == [Open("0", 2.0), Open("0", 4.0), Open("0", 6.0)]
    assert stream.handle(Broke(12.0, "refused")).next == Fetch("merged", 0, 1 << 20, TIMINGS.poll_slice_s)


def test_waits_before_a_connect_are_spread() -> None:
    stream = Stream(RUNNING, start=(0,), timings=TIMINGS, draw=lambda: 0.5)
    stream.begin(0.0)
    assert stream.handle(Broke(0.0, "refused")).next == Open("0", 2.0 * 1.125)


def test_the_count_of_failed_connects_begins_anew_with_a_stream() -> None:
    stream = begun()
    stream.handle(Broke(0.0, "refused"))
    stream.handle(Heard(1.0, (greeting(),)))
    assert stream.handle(Broke(100.0, "cut")).next == Open("0")
    assert stream.handle(Broke(100.0, "refused")).next == Open("0", 2.0)


def test_two_failures_within_30_seconds_are_polled_and_a_stream_is_tried_after_60() -> None:
    stream = streaming(piece(0, HELLO))
    assert stream.handle(Broke(10.0, "cut")).next == Open("6")
    stream.handle(Heard(11.0, (greeting("6"),)))
    assert stream.handle(Broke(39.0, "cut")).next == POLL_FROM_6
    assert isinstance(stream.handle(Fetched(98.0, WORLD, "running")).next, Fetch)
    assert stream.handle(Fetched(99.0, b"!", "running")) == Step((piece(13, b"!"),), Open("14"))
    assert stream.handle(Heard(100.0, (greeting("14"), piece(14, b"?")))) == Step((piece(14, b"?"),), Read())


def test_failures_further_apart_are_not_polled() -> None:
    stream = streaming()
    for now in (10.0, 41.0, 72.0):
        assert stream.handle(Broke(now, "cut")).next == Open("0")
        stream.handle(Heard(now + 1, (greeting(),)))


def test_a_path_that_holds_events_back_is_polled_at_once() -> None:
    stream = begun()
    stream.handle(Heard(0.0, ()))
    assert isinstance(stream.handle(Broke(45.0, "nothing came", silent=True)).next, Fetch)


def test_a_silent_stream_that_has_spoken_is_connected_again() -> None:
    assert streaming().handle(Broke(45.0, "nothing came", silent=True)).next == Open("0")


def test_a_stream_that_fails_after_long_polling_is_polled_again_at_once() -> None:
    stream = polling(now=0.0)
    assert stream.handle(Fetched(60.0, b"", "running")).next == Open("0")
    assert isinstance(stream.handle(Broke(60.0, "refused")).next, Fetch)


@pytest.mark.parametrize("code", ["not_found", "method_not_allowed"])
def test_a_server_without_events_is_polled(code: str) -> None:
    assert isinstance(begun().handle(RefusedBy(0.0, refusal(code))).next, Fetch)


def test_polls_bring_the_output_and_the_record_its_end() -> None:
    stream = polling()
    assert stream.handle(Fetched(2.0, HELLO, "running")) == Step((piece(0, HELLO),), POLL_FROM_6)
    assert stream.handle(Fetched(20.0, b"", "running")).events == ()
    # Kept bytes of an ended execution are those of the whole output only up to the gap: not taken before that is known.
    assert stream.handle(Fetched(21.0, WORLD, "ended")) == Step((), Ask())
    assert stream.handle(Told(22.0, ended(HELLO + WORLD))) == Step((), Fetch("merged", 6, 13))
    assert stream.handle(Fetched(23.0, WORLD, "ended")) == Step((piece(6, WORLD),), Finish(ended(HELLO + WORLD)))


def test_a_poll_tells_that_it_has_started() -> None:
    waiting = RUNNING.model_copy(update={"state": "accepted", "started_at": None})
    stream = polling(record=waiting)
    assert stream.handle(Fetched(2.0, b"", "accepted")).events == ()
    assert stream.handle(Fetched(3.0, HELLO, "running")).events == (Started(None), piece(0, HELLO))
    assert stream.handle(Fetched(4.0, WORLD, "running")).events == (piece(6, WORLD),)


def test_a_character_that_a_poll_tears_is_passed_on_whole() -> None:
    stream = polling()
    step = stream.handle(Fetched(2.0, "aä".encode()[:2], "running"))
    assert (step.events, stream.position) == ((piece(0, b"a"),), "1")
    assert isinstance(step.next, Fetch)
    assert step.next.start == 2
    assert stream.handle(Fetched(3.0, "aä".encode()[2:] + b"b", "running")).events == (piece(1, "äb".encode()),)


def test_a_torn_character_that_was_held_comes_again_by_events() -> None:
    stream = polling(now=0.0)
    assert stream.handle(Fetched(60.0, "aä".encode()[:2], "running")) == Step((piece(0, b"a"),), Open("1"))
    assert stream.handle(Heard(61.0, (greeting("1"), piece(1, "ä".encode())))).events == (piece(1, "ä".encode()),)


def test_a_character_that_stays_torn_is_passed_on_at_the_end() -> None:
    stream = polling()
    output = "aä".encode()[:2]
    stream.handle(Fetched(2.0, output, "running"))
    assert stream.handle(Told(3.0, ended(output))) == Step((piece(1, output[1:]),), Finish(ended(output)))


def test_the_gap_of_what_is_kept_is_mapped_to_the_whole_output() -> None:
    output = b"0123456789" * 10
    over = ended(output, output=kept(output, 20, inline=False))
    stream = polling()
    stream.handle(Fetched(2.0, output[:4], "running"))
    assert stream.handle(Told(3.0, over)) == Step((), Fetch("merged", 4, 10))
    assert stream.handle(Fetched(4.0, output[4:10], "ended")) == Step(
        (piece(4, output[4:10]), Gap("merged", 10, 90)), Fetch("merged", 10, 20)
    )
    assert stream.handle(Fetched(5.0, output[90:], "ended")) == Step((piece(90, output[90:]),), Finish(over))


@pytest.mark.parametrize(("start", "events", "fetch"), [(50, [Gap("merged", 50, 90)], (10, 20)), (93, [], (13, 20))])
def test_a_place_beyond_the_head_is_found_in_what_is_kept(start: int, events: list[Passed], fetch: tuple[int, int]) -> None:
    output = b"0123456789" * 10
    stream = polling(start=(start,))
    assert stream.handle(Told(3.0, ended(output, output=kept(output, 20, inline=False)))) == Step(tuple(events), Fetch("merged", *fetch))


def test_split_streams_are_polled_in_turn_and_not_waited_for_long() -> None:
    split = RUNNING.model_copy(update={"streams": "split"})
    stream = polling(record=split, start=(0, 0))
    wait_s, end = TIMINGS.stream_split_poll_s, 1 << 20
    assert stream.handle(Fetched(2.0, HELLO, "running")).next == Fetch("stderr", 0, end, wait_s)
    step = stream.handle(Fetched(3.0, WORLD, "running"))
    assert step == Step((piece(0, WORLD, "stderr"),), Fetch("stdout", 6, 6 + end, wait_s))
    assert stream.position == "6,7"
    over = split.model_copy(update={"state": "ended", "output": kept(HELLO + b"!"), "stderr": kept(WORLD)})
    assert stream.handle(Told(4.0, over)) == Step((piece(6, b"!", "stdout"),), Finish(over))


def test_polls_from_now_begin_where_the_output_stands() -> None:
    stream = polling(start=None)
    assert stream.handle(Failed(2.0, "cut")).next == Ask(0.05)
    step = stream.handle(Told(3.0, RUNNING.model_copy(update={"output": Output(total_bytes=70)})))
    assert isinstance(step.next, Fetch)
    assert (step.next.start, stream.position) == (70, "70")


def test_polls_that_answer_nothing_at_once_are_not_repeated_at_once() -> None:
    stream = polling(now=1.0)
    delays = []
    for _ in range(5):
        step = stream.handle(Fetched(1.0, b"", "running"))
        assert isinstance(step.next, Fetch)
        delays.append(step.next.after_s)
    assert delays == sorted(delays)
    assert delays[0] > 0


def test_a_server_that_stays_away_is_given_up_with_the_budget_and_the_id() -> None:
    stream = polling(now=0.0)
    assert isinstance(stream.handle(Failed(1.0, "refused")).next, Fetch)
    assert isinstance(stream.handle(Failed(290.0, "refused")).next, Fetch)
    error = error_of(stream.handle(Failed(300.0, "refused")))
    assert isinstance(error, LinkLost)
    assert error.execution_id == RUNNING.id
    with pytest.raises(RuntimeError, match="while done"):
        stream.handle(Failed(301.0, "refused"))


# ------------------------------------------------------------------------------------------------ refusals and ends


@pytest.mark.parametrize(
    ("code", "error"), [("epoch_mismatch", EpochChanged), ("invalid", InvalidSpec), ("forbidden", Exception)], ids=lambda code: str(code)
)
def test_a_refusal_for_good_ends_it(code: str, error: type[Exception]) -> None:
    assert isinstance(error_of(begun().handle(RefusedBy(0.0, refusal(code)))), error)


def test_an_unknown_execution_is_told_by_the_polls() -> None:
    assert isinstance(error_of(polling().handle(RefusedBy(2.0, refusal("not_found")))), EpochChanged)


def test_a_position_that_the_server_lost_is_no_mistake_of_the_caller() -> None:
    stream = streaming(piece(0, HELLO))
    stream.handle(Broke(2.0, "cut"))
    assert isinstance(error_of(stream.handle(RefusedBy(3.0, refusal("invalid")))), OutputIncomplete)


def test_a_position_beyond_the_end_is_the_callers_mistake() -> None:
    stream = Stream(ended(HELLO), start=(7,), timings=TIMINGS)
    assert isinstance(error_of(stream.begin(0.0)), InvalidSpec)


def test_a_token_that_is_being_changed_costs_no_output() -> None:
    stream = begun()
    assert stream.handle(RefusedBy(0.0, refusal("unauthorized", 0.0))).next == Open("0")
    assert stream.handle(Heard(1.0, (greeting(),))).next == Read()
    assert isinstance(polling().handle(RefusedBy(2.0, refusal("unauthorized"))).next, Fetch)


def test_a_server_that_fails_inside_is_a_failed_connect() -> None:
    assert begun().handle(RefusedBy(0.0, refusal("internal"))).next == Open("0", 2.0)


def test_output_that_was_purged_is_a_gap_and_the_end_still_comes() -> None:
    over = ended(HELLO + WORLD)
    stream = streaming(piece(0, HELLO))
    stream.handle(Heard(2.0, (End(over),)))
    assert stream.handle(RefusedBy(3.0, refusal("gone"))) == Step((Gap("merged", 6, 13),), Finish(over))
    purged = ended(b"", output=Output(total_bytes=13, kept_bytes=13, purged=True))
    stream = begun()
    assert stream.handle(RefusedBy(1.0, refusal("gone"))).next == Ask()
    assert stream.handle(Told(2.0, purged)) == Step((Gap("merged", 0, 13),), Finish(purged))


def test_a_result_beyond_retention_is_told() -> None:
    stream = begun()
    stream.handle(RefusedBy(1.0, refusal("gone")))
    assert isinstance(error_of(stream.handle(RefusedBy(2.0, refusal("gone")))), OutcomeUnknownError)


def test_an_execution_that_is_over_needs_no_request_where_its_output_came_with_it() -> None:
    over = ended(b"hello\n", output=kept(b"hello\n"))
    stream = Stream(over, start=(0,), timings=TIMINGS)
    assert stream.begin(0.0) == Step((greeting().accepted, Started(AT), piece(0, b"hello\n")), Finish(over))
    stream = Stream(over, start=None, timings=TIMINGS)
    assert stream.begin(0.0) == Step((greeting().accepted, Started(AT)), Finish(over))


def test_a_fetch_that_brings_nothing_of_what_there_is_is_repeated() -> None:
    stream = Stream(ended(HELLO), start=(0,), timings=TIMINGS, draw=lambda: 0.0)
    assert stream.begin(0.0).next == Fetch("merged", 0, 6)
    assert stream.handle(Fetched(1.0, b"", "ended")).next == Fetch("merged", 0, 6, after_s=0.05)


def test_who_has_to_wait_for_a_server_that_is_away_is_told_so() -> None:
    notes: list[tuple[str, bool]] = []
    stream = Stream(RUNNING, start=(0,), timings=TIMINGS, note=lambda sentence, trouble: notes.append((sentence, trouble)))
    stream.begin(0.0)
    stream.handle(Heard(1.0, (greeting(),)))
    stream.handle(Broke(2.0, "cut"))
    assert [trouble for _, trouble in notes] == [False], "a stream that is mended at once is nobody's business"
    stream.handle(Broke(2.0, "refused"))
    assert notes[-1][1]
    stream.handle(Broke(4.0, "nothing came", silent=True))
    stream.handle(Failed(5.0, "refused"))
    assert notes[-1][1]
    assert "refused" in notes[-1][0]


IN_EACH_PHASE = [begun(), streaming(), polling(), Stream(ended(HELLO), start=(0,), timings=TIMINGS)]
POSSIBLE = {
    Phase.CONNECTING: (Heard, Broke),
    Phase.STREAMING: (Heard, Broke),
    Phase.POLLING: (Fetched, Failed),
    Phase.FINISHING: (Fetched, Failed),
}
IN_EACH_PHASE[-1].begin(0.0)


@pytest.mark.parametrize("stream", IN_EACH_PHASE, ids=lambda stream: stream.phase.value)
def test_what_cannot_happen_is_refused_and_changes_nothing(stream: Stream) -> None:
    happenings: list[Happening] = [Heard(1.0, ()), Broke(1.0, "cut"), Fetched(1.0, b"x", "running"), Failed(1.0, "cut")]
    before = (stream.phase, stream.position)
    for happening in happenings:
        if not isinstance(happening, POSSIBLE[stream.phase]):
            with pytest.raises(RuntimeError, match="while"):
                stream.handle(happening)
            assert (stream.phase, stream.position) == before


# ------------------------------------------------------------------------------------------------ any history at all


@dataclass
class World:
    """A server with its output limit, and a network that breaks whatever it likes for a while."""

    rng: random.Random
    outputs: dict[StreamName, bytes]
    limit: int
    steps: int = 0
    now: float = 0.0
    written: dict[StreamName, int] = field(default_factory=dict)
    over: bool = False
    places: dict[StreamName, int] = field(default_factory=dict)  # of the connection that stands
    greeted: bool = False

    def __post_init__(self) -> None:
        self.written = dict.fromkeys(self.outputs, 0)
        self.record = RUNNING.model_copy(update={"streams": "split" if len(self.outputs) > 1 else "merged", "started_at": None})

    @property
    def kind(self) -> bool:
        """Nothing breaks any more."""
        return self.steps > 80

    def go_on(self) -> None:
        self.steps += 1
        self.now += self.rng.choice((0.0, 0.1, 1.0, 7.0, 25.0))
        for stream, output in self.outputs.items():
            self.written[stream] = min(len(output), self.written[stream] + self.rng.randrange(0, 40))
        done = all(self.written[stream] == len(output) for stream, output in self.outputs.items())
        self.over = self.over or (done and (self.kind or self.rng.random() < 0.2)) or self.steps > 200

    def dropped(self, stream: StreamName) -> tuple[int, int]:
        half = self.limit // 2
        return (half, self.written[stream] - half) if self.written[stream] > self.limit else (0, 0)

    def told(self) -> Execution:
        outputs = [
            kept(self.outputs[stream][: self.written[stream]], self.limit, inline=self.rng.random() < 0.5) for stream in self.outputs
        ]
        if not self.over:
            outputs = [Output(total_bytes=output.total_bytes) for output in outputs]
        state = "ended" if self.over else "running"
        return self.record.model_copy(update={"state": state, "output": outputs[0], "stderr": outputs[1] if len(outputs) > 1 else None})

    def perform(self, instruction: Instruction) -> Happening:
        self.go_on()
        trouble = 0.0 if self.kind else self.rng.random()
        if isinstance(instruction, Open):
            if trouble > 0.7:
                return Broke(self.now, "refused", silent=self.rng.random() < 0.2)
            if trouble > 0.6:
                return RefusedBy(self.now, refusal("stopping", 1.0))
            asked = [self.written[stream] for stream in self.outputs] if instruction.position is None else instruction.position.split(",")
            self.places = {stream: int(place) for stream, place in zip(self.outputs, asked, strict=True)}
            self.greeted = False
            return Heard(self.now, ())
        if isinstance(instruction, Read):
            return Broke(self.now, "cut", silent=self.rng.random() < 0.2) if trouble > 0.8 else Heard(self.now, list(self.say()))
        if trouble > 0.8:
            return Failed(self.now, "cut")
        if trouble > 0.75:
            return RefusedBy(self.now, refusal("capacity"))
        if isinstance(instruction, Ask):
            return Told(self.now, self.told())
        assert isinstance(instruction, Fetch)
        return self.fetch(instruction)

    def say(self) -> list[WireEvent]:
        events: list[WireEvent] = []
        if not self.greeted:
            self.greeted = True
            events.append(greeting(",".join(map(str, self.places.values())), self.record))
            events.append(Started(AT))
        for _ in range(self.rng.randrange(3)):
            stream = self.rng.choice(list(self.outputs))
            events += self.say_of(stream, self.rng.randrange(1, 30))
        if self.rng.random() < 0.05 and not self.kind:
            return [*events, Stopping(1.0)]
        if self.over and self.rng.random() < 0.5:
            for stream in self.outputs:
                while self.places[stream] < self.written[stream]:
                    events += self.say_of(stream, 30)
            events.append(End(self.told()))
        return events

    def say_of(self, stream: StreamName, most: int) -> list[WireEvent]:
        place, end = self.places[stream], self.written[stream]
        start, stop = self.dropped(stream)
        if start <= place < stop:
            self.places[stream] = stop
            return [Gap(stream, place, stop)]
        if place < start:
            end = start
        data = self.outputs[stream][place : min(end, place + most)]
        whole = len(data) - (torn_bytes(data) if len(data) > 4 else 0)
        self.places[stream] = place + whole
        return [piece(place, data[:whole], stream)] if whole else []

    def fetch(self, fetch: Fetch) -> Happening:
        output = self.outputs[fetch.stream][: self.written[fetch.stream]]
        if self.over:
            half = self.limit // 2
            there = output if len(output) <= self.limit else output[:half] + output[-half:]
        else:
            there = output[: self.limit // 2]  # what will stay in its place
        end = min(fetch.end, fetch.start + self.rng.randrange(1, 60))
        return Fetched(self.now, there[fetch.start : end], "ended" if self.over else "running")


OUTPUT = st.text(st.sampled_from("abc\näß日本\U0001f600"), max_size=120).map(str.encode) | st.binary(max_size=300)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.randoms(use_true_random=False), st.booleans())
def test_whatever_breaks_no_byte_comes_twice_and_none_is_missing(data: st.DataObject, rng: random.Random, split: bool) -> None:
    names = STREAMS["split" if split else "merged"]
    world = World(rng, {name: data.draw(OUTPUT) for name in names}, limit=data.draw(st.sampled_from([20, 100, 1000])))
    for _ in range(rng.randrange(4)):
        world.go_on()
    world.over = False
    start = data.draw(st.sampled_from(["start", "now", "position"]))
    begin = None if start == "now" else tuple(0 if start == "start" else world.written[name] // 2 for name in names)
    stream = Stream(world.told(), start=begin, timings=replace(TIMINGS, reconnect_budget_s=1e9), draw=rng.random)
    seen: list[Passed] = []
    step = stream.begin(world.now)
    for _ in range(2000):
        seen += step.events
        if isinstance(step.next, (Finish, Fail)):
            break
        step = stream.handle(world.perform(step.next))
    assert isinstance(step.next, Finish), f"it never ends: {step.next}"
    assert isinstance(seen[0], Accepted)
    assert [type(event) for event in seen].count(Accepted) == 1
    assert [type(event) for event in seen].count(Started) <= 1
    origin = stream.origin
    assert origin is not None
    for name, output in world.outputs.items():
        place = origin[name]
        assert start == "now" or begin is None or place == begin[names.index(name)]
        lost_from, lost_to = world.dropped(name)
        for event in seen:
            if isinstance(event, OutputPiece) and event.stream == name:
                assert event.offset == place, "a byte came twice, or is missing"
                assert event.data == output[place : event.end], "wrong bytes"
                place = event.end
            elif isinstance(event, Gap) and event.stream == name:
                assert event.start == place
                assert lost_from <= event.start < event.end <= lost_to, "told of a gap where nothing was dropped"
                place = event.end
        assert place == world.written[name], "the end is missing"
