"""The link's messages: what is said arrives as it was said, and nothing but BadMessage ever comes of anything else."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import messages
from server.messages import (
    BadMessage,
    Cause,
    Ended,
    Ending,
    EndingFlag,
    EndingKind,
    Entry,
    FromInit,
    Hello,
    Pipes,
    Run,
    RunFlag,
    Stage,
    Stale,
    Started,
    Type,
)
from tests.unit.core.wire import body_of, string

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
IDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", max_size=64)
ENDINGS = st.builds(
    Ending, st.sampled_from(EndingKind), st.sampled_from(Cause), st.integers(0, 15).map(EndingFlag), st.sampled_from(Stage),
    st.integers(-(2**31), 2**31 - 1), U64, U64, U64, U64, U64, U32,
)  # fmt: skip


@st.composite
def entry(draw: st.DrawFn) -> Entry:
    ending = draw(st.none() | ENDINGS)
    return Entry(draw(IDS), draw(U64), draw(U64) if ending is None else ending.started_ns, ending)


@st.composite
def hello(draw: st.DrawFn) -> Hello:
    entries = draw(st.lists(entry(), max_size=4).map(tuple))
    blob = st.binary(min_size=16, max_size=16)
    return Hello(draw(U32), draw(blob), draw(blob), draw(U64), draw(st.integers(0, len(entries))), entries)


SAID = (
    st.builds(Started, IDS, U64, U64)
    | st.builds(Ended, IDS, U64, ENDINGS)
    | st.builds(Stale, IDS, U64)
    | st.builds(Pipes, st.lists(IDS, max_size=messages.PIPES_PER_PACKET).map(tuple))
    | hello()
)

CASES: tuple[FromInit, ...] = (
    Started("e0000001", 1, 5),
    Ended("e0000001", 1, Ending(EndingKind.EXITED, Cause.IDLE, EndingFlag.OUTPUT_OPEN, Stage.EXEC, -1, 1, 2, 3, 4, 5, 6)),
    Stale("e0000002", 2),
    Pipes(()),
    Pipes(("e0000001", "e0000002")),
    Hello(1, b"i" * 16, b"s" * 16, 0, 0, ()),
    Hello(
        1, b"i" * 16, b"s" * 16, 9, 1,
        (Entry("e0000008", 8, 77, None), Entry("e0000009", 9, 0, Ending(EndingKind.SKIPPED))),
    ),
)  # fmt: skip


def read(packet: bytes) -> FromInit:
    type_, _, _ = messages.header(packet)
    return messages.parse(type_, messages.packet_body(packet))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(SAID)
def test_every_message_of_an_init_arrives_as_it_was_said(message: FromInit) -> None:
    assert read(messages.packet(*body_of(message))) == message


@pytest.mark.parametrize("message", CASES, ids=lambda message: type(message).__name__)
def test_a_message_torn_at_any_byte_is_refused(message: FromInit) -> None:
    """Torn with an honest header (the body ends early) and with the header of the whole (the packet was cut)."""
    type_, body = body_of(message)
    whole = messages.packet(type_, body)
    assert read(whole) == message
    for cut in range(len(body)):
        with pytest.raises(BadMessage):
            messages.parse(type_, body[:cut])
    for cut in range(len(whole)):
        with pytest.raises(BadMessage):
            messages.header(whole[:cut])


@pytest.mark.parametrize("tail", [b"\0", b"\1tail", bytes(100)])
@pytest.mark.parametrize("message", CASES, ids=lambda message: type(message).__name__)
def test_a_message_with_a_tail_is_refused(message: FromInit, tail: bytes) -> None:
    type_, body = body_of(message)
    with pytest.raises(BadMessage):
        messages.parse(type_, body + tail)
    with pytest.raises(BadMessage):
        messages.header(messages.packet(type_, body) + tail)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.sampled_from(Type), st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_bad_message(type_: Type, body: bytes) -> None:
    for read_it in (lambda: messages.parse(type_, body), lambda: messages.header(body)):
        try:
            read_it()
        except BadMessage:
            continue


@settings(derandomize=True, max_examples=500, deadline=None)
@given(SAID, st.data())
def test_a_message_with_flipped_bytes_raises_nothing_but_bad_message(message: FromInit, data: st.DataObject) -> None:
    """Close to the truth is where parsers break."""
    type_, body = body_of(message)
    spoilt = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        if spoilt:
            spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = messages.parse(type_, bytes(spoilt))
    except BadMessage:
        return
    assert type(found) is type(message)


@pytest.mark.parametrize("type_", [type_ for type_ in Type if type_ < Type.HELLO], ids=lambda type_: type_.name)
def test_what_only_a_server_says_is_refused_from_an_init(type_: Type) -> None:
    with pytest.raises(BadMessage, match="not for an init to say"):
        messages.parse(type_, string("e0000001"))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (string("x" * 65) + bytes(16), "longer than 64"),
        (struct.pack("<I", 2) + b"\xc3\xa4" + bytes(16), "not ASCII"),
        (struct.pack("<I", 2**32 - 1) + bytes(16), "longer"),
    ],
)
def test_an_id_that_is_none_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        messages.parse(Type.STARTED, body)


def test_a_hello_that_announces_a_billion_entries_is_refused_at_once() -> None:
    body = body_of(CASES[5])[1][:-8] + struct.pack("<II", 0, 10**9)
    with pytest.raises(BadMessage, match="ends early"):
        messages.parse(Type.HELLO, body)


@pytest.mark.parametrize(("version", "most"), [(1, 1), (2, 2)])
def test_a_hello_cannot_announce_more_read_ends_than_its_executions_can_have(version: int, most: int) -> None:
    one = Hello(version, bytes(16), bytes(16), 1, most, (Entry("e0000001", 1, 1, None),))
    assert messages.parse(*body_of(one)) == one
    with pytest.raises(BadMessage, match="read ends"):
        messages.parse(*body_of(replace(one, pipes=most + 1)))


def test_more_read_ends_than_fit_one_packet_are_refused() -> None:
    too_many = Pipes(tuple(f"e{n:07}" for n in range(messages.PIPES_PER_PACKET + 1)))
    with pytest.raises(BadMessage, match="over the limit"):
        messages.parse(*body_of(too_many))


@pytest.mark.parametrize("state", [0, 3, 255])
def test_an_entry_in_no_known_state_is_refused(state: int) -> None:
    body = bytearray(body_of(Hello(1, bytes(16), bytes(16), 1, 0, (Entry("e0000001", 1, 1, None),)))[1])
    body[48 + 4 + 12 + 8] = state
    with pytest.raises(BadMessage):
        messages.parse(Type.HELLO, bytes(body))


def test_an_unknown_type_and_an_oversized_body_are_refused() -> None:
    with pytest.raises(BadMessage, match="no message type 9"):
        messages.header(struct.pack("<BBHI", 9, 0, 0, 0))
    with pytest.raises(BadMessage, match="over the limit"):
        messages.header(messages.large_packet(Type.HELLO, messages.BODY_LIMIT + 1))


# ------------------------------------------------------------------------------------------ what the server says


def strings(*items: str) -> bytes:
    return struct.pack("<I", len(items)) + b"".join(map(string, items))


def test_a_run_is_written_as_the_format_says() -> None:
    run = Run(7, "e0000007", ("sh", "-c", "échö"), ("A=1", "B="), "user", "/w", RunFlag.STDIN | RunFlag.SHELL, 1000, 50, 3)
    expected = (
        struct.pack("<Q", 7) + string("e0000007") + struct.pack("<IQQI", 3, 1000, 50, 3) + string("user") + string("/w")
        + strings("sh", "-c", "échö") + strings("A=1", "B=")
    )  # fmt: skip
    assert messages.run_body(run) == expected + string("") + struct.pack("<II", 0, 0) + string("")
    assert messages.run_body(run, 2) == messages.run_body(run, 1) == expected


def test_what_a_session_and_a_terminal_need_stands_behind_the_environment() -> None:
    run = Run(7, "e0000007", ("ls",), flags=RunFlag.TTY, session="s0000001", rows=50, cols=132, stdin_path="/in")
    assert messages.run_body(run).endswith(strings("ls") + strings() + string("s0000001") + struct.pack("<II", 50, 132) + string("/in"))
    with pytest.raises(BadMessage, match="link version 2"):
        messages.run_body(run, 2)


@pytest.mark.parametrize(
    ("packet", "type_", "body"),
    [
        (messages.skip(7, "e7"), Type.SKIP, struct.pack("<Q", 7) + string("e7")),
        (messages.kill("e7"), Type.KILL, string("e7")),
        (messages.ack("e7"), Type.ACK, string("e7")),
        (messages.signal("e7", 15), Type.SIGNAL, string("e7") + struct.pack("<I", 15)),
        (messages.activity("e7"), Type.ACTIVITY, string("e7")),
        (messages.welcome(5), Type.WELCOME, struct.pack("<Q", 5)),
    ],
    ids=lambda value: value.name if isinstance(value, Type) else "",
)
def test_a_request_is_written_as_the_format_says(packet: bytes, type_: Type, body: bytes) -> None:
    assert packet == struct.pack("<BBHI", type_, 0, 0, len(body)) + body
    assert messages.header(packet) == (type_, False, len(body))


def test_bytes_that_are_no_utf8_reach_the_command_as_they_are() -> None:
    """Arguments that came in as surrogate escapes go out as the bytes they stand for."""
    raw = b"\xff\xfe"
    body = messages.run_body(Run(1, "e0000001", (raw.decode("utf-8", "surrogateescape"),)))
    assert struct.pack("<I", 2) + raw in body


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_no_program_could_be_given_is_refused(text: str) -> None:
    with pytest.raises(BadMessage):
        messages.run_body(Run(1, "e0000001", (text,)))
