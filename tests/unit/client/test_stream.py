"""The rules of following an execution, without I/O and without a clock."""

from __future__ import annotations

import pytest

from remote_env.errors import EpochChanged, InvalidSpec, OutcomeUnknownError, OutputIncomplete
from remote_env.events import (
    End,
    Gap,
    Heartbeat,
    Started,
    Stopping,
)
from remote_env.protocol import Output
from remote_env.stream import Phase, Stream
from remote_env.stream_steps import (
    Ask,
    Broke,
    Failed,
    Fetch,
    Fetched,
    Finish,
    Happening,
    Heard,
    Open,
    Read,
    RefusedBy,
    Step,
    Told,
)
from tests.unit.client.streamed import (
    AT,
    HELLO,
    RUNNING,
    TIMINGS,
    WORLD,
    begun,
    ended,
    error_of,
    greeting,
    kept,
    piece,
    polling,
    refusal,
    streaming,
)

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
