"""The bytes of a stream of events: read the same however they are cut, and refused when they are not what they should be."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env import protocol
from remote_env.events import Accepted, End, Gap, Greeting, Heartbeat, OutputPiece, Started, Stopping, decode
from remote_env.sse import Garbled, Message, SseParser

CASES: dict[str, tuple[bytes, list[Message]]] = {
    "one event": (b"event: a\ndata: 1\n\n", [Message("a", "1")]),
    "two events": (b"event: a\ndata: 1\n\nevent: b\ndata: 2\n\n", [Message("a", "1"), Message("b", "2")]),
    "id stays": (b"id: 7\ndata: 1\n\ndata: 2\n\n", [Message("message", "1", "7"), Message("message", "2", "7")]),
    "id is emptied": (b"id: 7\ndata: 1\n\nid\ndata: 2\n\n", [Message("message", "1", "7"), Message("message", "2", "")]),
    "id with NUL is none": (b"id: 7\nid: 8\0\ndata: 1\n\n", [Message("message", "1", "7")]),
    "CRLF": (b"event: a\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n", [Message("a", "1"), Message("message", "2")]),
    "CR": (b"event: a\rdata: 1\r\rdata: 2\r\r", [Message("a", "1"), Message("message", "2")]),
    "mixed line ends": (b"event: a\r\ndata: 1\rdata: 2\n\r\n", [Message("a", "1\n2")]),
    "CR CR LF ends two lines": (b"data: 1\r\r\ndata: 2\n\n", [Message("message", "1"), Message("message", "2")]),
    "BOM": (b"\xef\xbb\xbfdata: 1\n\n", [Message("message", "1")]),
    "BOM later is no BOM": (b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n", [Message("message", "1")]),
    "comments": (b": ping\n\n:\ndata: 1\n: \xff\xfe\ndata: 2\n\n", [Message("message", "1\n2")]),
    "lines joined": (b"data: a\ndata:\ndata: b\n\n", [Message("message", "a\n\nb")]),
    "one space goes": (b"data:  a \ndata:b\n\n", [Message("message", " a \nb")]),
    "no data, no event": (b"event: a\nid: 1\n\ndata: x\n\n", [Message("message", "x", "1")]),
    "empty data": (b"data\n\ndata:\n\n", [Message("message", ""), Message("message", "")]),
    "unknown fields": (b"retry: 10\ncolour: red\nevent: a\ndata: 1\n\n", [Message("a", "1")]),
    "colons in the value": (b"data: a: b:c\n\n", [Message("message", "a: b:c")]),
    "characters of several bytes": ("event: é\ndata: 日本\U0001f600\n\n".encode(), [Message("é", "日本\U0001f600")]),
    "other line separators are none": ("data: a\u2028b\u0085c\x0bd\x0ce\n\n".encode(), [Message("message", "a\u2028b\u0085c\x0bd\x0ce")]),
    "cut off": (b"data: 1\n\ndata: 2\n", [Message("message", "1")]),
    "nothing": (b"", []),
    "empty lines": (b"\n\r\n\r\n\n", []),
}


def read(chunks: Iterable[bytes]) -> list[Message]:
    parser = SseParser()
    return [message for chunk in chunks for message in parser.feed(chunk)]


def cuts(stream: bytes) -> Iterator[list[bytes]]:
    """Whole; byte by byte; torn at each byte, also with nothing in between."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    for at in range(len(stream) + 1):
        yield [stream[:at], stream[at:]]
        yield [stream[:at], b"", stream[at:]]


@pytest.mark.parametrize("case", CASES)
def test_a_stream_reads_the_same_however_it_is_cut(case: str) -> None:
    stream, expected = CASES[case]
    for chunks in cuts(stream):
        assert read(chunks) == expected, chunks


@pytest.mark.parametrize("case", [case for case in CASES if case != "cut off"])
def test_what_comes_behind_an_event_changes_nothing_of_it(case: str) -> None:
    stream, expected = CASES[case]
    for tail in (b"data: tail", b"event: tail\ndata: ta", b":", b"\xef\xbb\xbf"):
        for chunks in cuts(stream + tail):
            assert read(chunks) == expected, chunks


@given(st.lists(st.sampled_from([b"a", b":", b" ", b"\n", b"\r", b"data", b"data: x", b"event: y", b"id: z", "é".encode()])), st.data())
def test_any_stream_reads_the_same_cut_anywhere(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    chunks = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    assert read(chunks) == read([stream])


def test_an_event_that_is_too_long_is_refused_and_not_collected() -> None:
    parser = SseParser(limit=1000)
    assert parser.feed(b"data: " + b"x" * 980 + b"\n\n") != []
    for _ in range(10):
        parser.feed(b"x" * 100)
    with pytest.raises(Garbled, match="more than 1000 bytes"):
        parser.feed(b"x")


def test_many_short_lines_of_one_event_are_too_long_too() -> None:
    parser = SseParser(limit=1000)
    parser.feed(b"data: 1\n" * 125)
    with pytest.raises(Garbled):
        parser.feed(b"\n")


def test_many_events_are_not_too_long() -> None:
    parser = SseParser(limit=100)
    assert sum(len(parser.feed(b"data: 12345678\n\n")) for _ in range(1000)) == 1000


@pytest.mark.parametrize("line", [b"data: \xff", b"event: \xc3", b"id: \xed\xa0\x80"])
def test_what_is_not_utf_8_is_refused(line: bytes) -> None:
    with pytest.raises(Garbled):
        read([line + b"\n\n"])


# ---------------------------------------------------------------------------------------------- what the events say


def said(event_: str, id_: str | None = None, /, **data: object) -> Message:
    return Message(event_, json.dumps(data), id_)


AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
RECORD = protocol.Execution(id="e" * 32, sandbox_id="s" * 32, epoch="epoch", run_id="r" * 32, state="ended")
GREETED = {"id": "e" * 32, "sandbox_id": "s" * 32, "epoch": "epoch", "run_id": "r" * 32, "streams": "split"}
BINARY = base64.b64encode(b"\xff\0").decode()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            said("accepted", "3,4", **GREETED, accepted_at="2026-01-02T03:04:05Z"),
            Greeting(Accepted("e" * 32, "s" * 32, "epoch", "r" * 32, "split", AT), "3,4"),
        ),
        (said("started", started_at="2026-01-02T04:04:05+01:00"), Started(AT)),
        (said("started", started_at=None), Started(None)),
        (said("output", "9", stream="merged", offset=3, text="héllo"), OutputPiece("merged", 3, "héllo".encode())),
        (said("output", stream="stderr", offset=0, base64=BINARY), OutputPiece("stderr", 0, b"\xff\0")),
        (said("output", stream="stdout", offset=0, text="", colour="red"), OutputPiece("stdout", 0, b"")),
        (said("gap", stream="merged", **{"from": 3, "to": 9}), Gap("merged", 3, 9)),
        (said("heartbeat", state="running"), Heartbeat()),
        (said("stopping", retry_after_s=1), Stopping(1.0)),
        (said("stopping"), Stopping(0.0)),
        (said("stopping", retry_after_s=1e9), Stopping(60.0)),
        (Message("end", RECORD.model_dump_json()), End(RECORD)),
        (said("colour", of="red"), None),
    ],
    ids=lambda value: getattr(value, "event", None),
)
def test_events_are_read_as_what_they_say(message: Message, expected: object) -> None:
    assert decode(message) == expected


@pytest.mark.parametrize(
    "message",
    [
        Message("output", "{"),
        Message("output", "[]"),
        Message("output", "null"),
        said("output", stream="merged", offset=0),
        said("output", stream="merged", offset=-1, text="x"),
        said("output", stream="merged", offset="0", text="x"),
        said("output", stream="stdin", offset=0, text="x"),
        said("output", stream="merged", offset=0, base64="?"),
        said("output", stream="merged", offset=0, text="\ud800"),
        said("gap", stream="merged", **{"from": 3}),
        said("accepted", id="e"),
        said("started", started_at="yesterday"),
        said("stopping", retry_after_s="soon"),
        said("end", id="e"),
    ],
    ids=lambda message: f"{message.event} {message.data}",
)
def test_events_that_do_not_say_what_they_should_are_refused(message: Message) -> None:
    with pytest.raises(Garbled):
        decode(message)


def test_text_of_a_piece_replaces_what_is_not_utf_8() -> None:
    assert (OutputPiece("merged", 5, b"a\xff").text, OutputPiece("merged", 5, b"ab").end) == ("a\ufffd", 7)
