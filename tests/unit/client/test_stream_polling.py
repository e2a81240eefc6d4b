"""Following an execution where its stream fails: tried again, and asked for in turns."""

from __future__ import annotations

import pytest

from remote_env.errors import LinkLost
from remote_env.events import (
    Gap,
    Started,
)
from remote_env.protocol import Output
from remote_env.stream import Stream
from remote_env.stream_steps import (
    Ask,
    Broke,
    Failed,
    Fetch,
    Fetched,
    Finish,
    Heard,
    Open,
    Passed,
    Read,
    RefusedBy,
    Step,
    Told,
)
from tests.unit.client.streamed import (
    HELLO,
    POLL_FROM_6,
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
