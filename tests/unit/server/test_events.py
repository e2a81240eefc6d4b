"""What a follower is told: every byte once and in order, or that it is gone, whatever the pace, the cuts and the position."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remote_env.protocol import Execution, Outcome
from server.api import sse
from server.events import PIECE, Piece, Position, cut_text, follow, starting_point
from server.spool import Stream
from tests.support.follower import Said, parse
from tests.unit.server.fakes import EPOCH, NOW, RUN, SANDBOX

FOREVER_S = 3600.0
EURO = "€".encode()
SMILE = "😀".encode()


@dataclass
class Output:
    """One scripted stream."""

    stream: Stream = "merged"
    written: bytes = b""
    gone: tuple[int, int] = (0, 0)
    purged: bool = False
    on_read: Callable[[], None] = lambda: None

    @property
    def total(self) -> int:
        return len(self.written)

    def available(self, offset: int) -> tuple[int, int]:
        if self.gone[0] <= offset < self.gone[1]:
            offset = self.gone[1]
        end = self.gone[0] if offset < self.gone[0] < self.gone[1] else self.total
        return offset, max(offset, end)

    async def read(self, start: int, end: int) -> bytes:
        if self.purged:
            raise FileNotFoundError
        self.on_read()
        found = bytearray(self.written[start:end])
        for at in range(max(start, self.gone[0]), min(end, self.gone[1])):
            found[at - start] = 0
        return bytes(found)


@dataclass
class Script:
    """A followed execution. Each time the follower waits, the next step happens; after the last one it is over."""

    outputs: tuple[Output, ...] = field(default_factory=lambda: (Output(),))
    steps: list[Callable[[], None]] = field(default_factory=list)
    started: bool = True
    over: bool = False
    stopping: bool = False

    def record(self) -> Execution:
        ended = {"state": "ended", "outcome": Outcome(kind="exited", code=0, ran=True)} if self.over else {"state": "running"}
        split = "split" if len(self.outputs) > 1 else "merged"
        return Execution(
            id="execution-one", sandbox_id=SANDBOX, epoch=EPOCH, run_id=RUN, accepted_at=NOW, started_at=NOW, streams=split, **ended
        )  # fmt: skip

    async def change(self, seconds: float) -> None:
        if self.steps:
            self.steps.pop(0)()
        else:
            self.over = True

    def write(self, *parts: bytes, to: int = 0) -> None:
        """Each part is a step of its own."""
        for part in parts:
            self.steps.append(lambda part=part: setattr(self.outputs[to], "written", self.outputs[to].written + part))  # type: ignore[misc]


def told(script: Script, start: Position = (0,), *, announce: bool = False, pace_s: float = 0.0) -> list[Said]:
    """Everything the follower is told, over the wire's format."""

    async def collect() -> list[Said]:
        events = follow(script, start, announce=announce, heartbeat_s=FOREVER_S, pace_s=pace_s)
        return [parse(sse.encode(event).removesuffix(b"\n\n")) async for event in events]

    return asyncio.run(collect())


def names(events: Iterable[Said]) -> list[str]:
    return [each.name for each in events]


def outputs(events: Iterable[Said]) -> list[tuple[int, bytes, str]]:
    return [(each.data["offset"], each.bytes, "text" if "text" in each.data else "base64") for each in events if each.name == "output"]


def assert_every_byte_told(events: list[Said], script: Script, start: Position) -> None:
    """From the position on, each byte of each stream is told once, in order and as it was written, or told to be gone; each
    event's id is where the next one begins."""
    assert names(events)[:2] == ["accepted", "started"]
    assert names(events)[-1] == "end"
    at = {output.stream: offset for output, offset in zip(script.outputs, start, strict=True)}
    written = {output.stream: output.written for output in script.outputs}
    for said in events:
        if said.name == "output":
            stream, content = said.data["stream"], said.bytes
            assert said.data["offset"] == at[stream]
            assert 0 < len(content) <= PIECE
            assert written[stream][at[stream] : at[stream] + len(content)] == content
            at[stream] += len(content)
        elif said.name == "gap":
            stream = said.data["stream"]
            assert at[stream] == said.data["from"] < said.data["to"]
            at[stream] = said.data["to"]
        else:
            continue
        assert said.id == sse.show_position(tuple(at.values()))
    assert at == {stream: len(content) for stream, content in written.items()}


texts = st.text(st.characters(codec="utf-8"), max_size=30).map(str.encode)
chosen = st.sampled_from([EURO, SMILE, SMILE[:2], b"\xff" * 5, b"\n\r\0"])
contents = st.one_of(texts, st.binary(max_size=40), chosen)


@settings(deadline=None)
@given(parts=st.lists(contents, max_size=8), data=st.data())
@example(parts=[EURO[:1], EURO[1:2], EURO[2:]], data=None)
@example(parts=[b"x", SMILE * PIECE, EURO * (PIECE // 3 + 5), b"\xff" * (PIECE + 1)], data=None)
def test_any_cuts_and_any_position_give_the_same_bytes(parts: list[bytes], data: st.DataObject | None) -> None:
    """Output comes in pieces torn anywhere, some of it before the follower does, some later, and it resumes anywhere."""
    early = data.draw(st.integers(0, len(parts)), label="parts that are there before it comes") if data else 0
    script = Script()
    script.outputs[0].written = b"".join(parts[:early])
    script.write(*parts[early:])
    start = (data.draw(st.integers(0, script.outputs[0].total), label="position") if data else 0,)
    events = told(script, start)
    assert_every_byte_told(events, script, start)
    assert "gap" not in names(events)


@settings(deadline=None)
@given(content=texts, cuts=st.lists(st.integers(0, 120), max_size=6))
def test_text_is_told_as_text_however_its_characters_are_torn(content: bytes, cuts: list[int]) -> None:
    script = Script()
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    script.write(*(content[begin:end] for begin, end in itertools.pairwise(places)))
    assert {kind for _, _, kind in outputs(told(script))} <= {"text"}


@settings(deadline=None)
@given(content=texts.filter(bool), data=st.data())
def test_a_follower_that_comes_in_the_middle_of_a_character_gets_its_rest_alone_as_base64(content: bytes, data: st.DataObject) -> None:
    start = (data.draw(st.integers(0, len(content))),)
    script = Script((Output(written=content),), over=True)
    events = told(script, start)
    assert_every_byte_told(events, script, start)
    kinds = [kind for _, _, kind in outputs(events)]
    assert kinds in (["base64", "text"], ["base64"], ["text"], [])
    assert all(len(piece) <= 3 for _, piece, kind in outputs(events) if kind == "base64")


@settings(deadline=None)
@given(parts=st.lists(st.tuples(st.integers(0, 1), contents), max_size=8), data=st.data())
def test_two_streams_are_told_each_by_its_own_offsets(parts: list[tuple[int, bytes]], data: st.DataObject) -> None:
    script = Script((Output("stdout"), Output("stderr")))
    for to, part in parts:
        script.write(part, to=to)
    events = told(script, (0, 0))
    assert_every_byte_told(events, script, (0, 0))
    # And again from every position that it was told on the way.
    for said in events:
        if said.id is not None:
            position = sse.parse_position(said.id)
            assert position is not None and starting_point(script, position) == position
            assert_every_byte_told(told(script, position), script, position)


@settings(deadline=None)
@given(content=st.binary(min_size=1, max_size=60), while_read=st.booleans(), over=st.booleans(), data=st.data())
def test_what_is_gone_is_told_exactly_and_never_shown(content: bytes, while_read: bool, over: bool, data: st.DataObject) -> None:
    """Bytes are dropped before the follower comes, or between its look and its read, which then finds zeros."""
    begin = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(begin + 1, len(content)))
    start = (data.draw(st.integers(0, len(content))),)
    output = Output(written=content)

    def drop() -> None:
        output.gone = (begin, end)

    if while_read:
        output.on_read = drop
    else:
        drop()
    script = Script((output,), over=over)
    events = told(script, start)
    assert_every_byte_told(events, script, start)
    gaps = [(each.data["from"], each.data["to"]) for each in events if each.name == "gap"]
    assert gaps == ([(max(begin, start[0]), end)] if start[0] < end else [])


def test_purged_output_is_a_gap_and_the_end_is_told() -> None:
    script = Script((Output(written=b"x" * 100, purged=True),), over=True)
    events = told(script, (40,))
    assert names(events) == ["accepted", "started", "gap", "end"]
    assert events[2].data == {"stream": "merged", "from": 40, "to": 100}


def test_a_torn_character_before_a_gap_is_told_since_its_rest_never_comes() -> None:
    """The output limit cuts a character in two."""
    output = Output(written=b"ab" + EURO[:2])
    script = Script((output,))

    def flood() -> None:
        output.written, output.gone = b"ab" + EURO + b"cd", (4, 6)

    script.steps = [lambda: None, flood, lambda: setattr(script, "stopping", True)]
    assert [(offset, piece) for offset, piece, _ in outputs(told(script))] == [(0, b"ab"), (2, EURO[:2]), (6, b"d")]


def test_a_torn_character_at_the_end_of_the_execution_is_told() -> None:
    script = Script((Output(written=b"ab" + SMILE[:3]),))
    assert outputs(told(script)) == [(0, b"ab", "text"), (2, SMILE[:3], "base64")]


def test_pieces_are_at_most_64_kib_and_cut_between_characters() -> None:
    script = Script((Output(written=EURO * PIECE),), over=True)
    sizes = [len(piece) for _, piece, kind in outputs(told(script)) if kind == "text"]
    assert sum(sizes) == 3 * PIECE
    assert set(sizes[:-1]) == {PIECE - 1}


def test_a_chatty_command_is_told_in_few_pieces_and_its_end_at_once() -> None:
    """What comes while the pace holds is gathered, up to a full piece; a pace of an hour shows what does not wait for it."""
    script = Script()
    script.write(*([b"x"] * 100), b"y" * PIECE, *([b"z"] * 100))
    told_now = outputs(told(script, pace_s=3600.0))
    assert [len(piece) for _, piece, _ in told_now] == [1, PIECE, 99 + 100]


def test_a_position_is_announced_only_where_it_is_not_the_beginning() -> None:
    script = Script((Output("stdout", b"abc"), Output("stderr", b"de")), over=True)
    assert told(script, (0, 0))[0].id is None
    assert told(script, (3, 2), announce=True)[0].id == "3,2"


def test_a_command_that_never_started_is_not_told_to_have_started() -> None:
    assert names(told(Script(started=False, over=True))) == ["accepted", "end"]


def test_started_is_told_when_it_starts_and_before_what_it_says() -> None:
    script = Script(started=False)
    script.steps = [lambda: setattr(script, "started", True)]
    script.write(b"x")
    assert names(told(script)) == ["accepted", "started", "output", "end"]


def test_a_stopping_server_ends_the_stream_whatever_is_left_to_say() -> None:
    script = Script((Output(written=b"x" * 10 * PIECE),))
    script.outputs[0].on_read = lambda: setattr(script, "stopping", True)
    events = told(script)
    assert names(events) == ["accepted", "started", "output", "stopping"]
    assert events[-1].data == {"retry_after_s": 1.0}


def test_silence_is_broken_by_heartbeats_that_tell_the_state() -> None:
    async def listen() -> list[Said]:
        script = Script()
        script.steps = [lambda: None] * 10_000
        events = follow(script, (0,), announce=False, heartbeat_s=0.0)
        return [parse(sse.encode(await anext(events)).removesuffix(b"\n\n")) for _ in range(4)]

    heard = asyncio.run(listen())
    assert [(each.name, each.id, each.data) for each in heard[2:]] == [("heartbeat", None, {"state": "running"})] * 2


@pytest.mark.parametrize(
    ("asked", "begins"),
    [((), (0, 0)), (None, (3, 2)), ((3, 2), (3, 2)), ((0, 1), (0, 1)), ((4, 0), None), ((0, 3), None), ((1,), None), ((1, 1, 1), None)],
)  # fmt: skip
def test_only_positions_within_the_output_are_positions(asked: Position | None, begins: Position | None) -> None:
    script = Script((Output("stdout", b"abc"), Output("stderr", b"de")))
    assert starting_point(script, asked) == begins


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("0", (0,)), ("17,4", (17, 4)), ("", None), ("-1", None), ("1,", None), ("1,2,3", None), ("1 ", None), ("٣", None), ("0x1", None),
        ("9" * 19, None),
    ],
)  # fmt: skip
def test_positions_are_plain_numbers(text: str, position: Position | None) -> None:
    assert sse.parse_position(text) == position


@pytest.mark.parametrize(
    ("data", "rest_comes", "parts"),
    [
        (b"abc", True, [b"abc"]), (b"ab" + EURO[:1], True, [b"ab"]), (b"ab" + EURO[:2], False, [b"ab", EURO[:2]]), (EURO[:2], True, []),
        (EURO[1:] + b"x", True, [EURO[1:], b"x"]), (SMILE[1:], True, [SMILE[1:]]), (b"\x80" * 4, True, [b"\x80" * 4]),
        (b"\xff", True, [b"\xff"]), (b"\xc0", True, [b"\xc0"]), (b"", False, []),
    ],
)  # fmt: skip
def test_only_what_can_still_become_a_character_is_held_back(data: bytes, rest_comes: bool, parts: list[bytes]) -> None:
    assert cut_text(data, rest_comes) == parts


def test_an_event_is_lines_of_plain_fields_whatever_the_output_has_in_it() -> None:
    hostile = b"\n\nevent: end\ndata: {}\r\n\xe2\x80\xa8\xe2\x80\xa9\x85\0"
    encoded = sse.encode(Piece("merged", 7, hostile, (7 + len(hostile),)))
    assert encoded.count(b"\n") == 5 and b"\r" not in encoded
    assert parse(encoded.removesuffix(b"\n\n")).bytes == hostile
    text = sse.encode(Piece("merged", 0, hostile[:-2], (5,)))
    assert text.count(b"\n") == 5 and b"\r" not in text and parse(text.removesuffix(b"\n\n")).bytes == hostile[:-2]
