"""Following a command on a connection that somebody means ill with, or that is of no use without saying so."""

from __future__ import annotations

import gc
import gzip
import json
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest

from remote_env import Client, Execution, Sandbox
from remote_env.errors import OutputIncomplete
from remote_env.events import Ended, Event, OutputPiece, Started
from remote_env.protocol import Outcome
from remote_env.sse import MESSAGE_LIMIT
from tests.unit.client.conftest import FAST
from tests.unit.client.faces import threads_only
from tests.unit.client.fakeserver import TOKEN
from tests.unit.client.streamserver import Script, StreamServer, Wire, encoded

BOTH_FACES = True

DONE = Outcome(kind="exited", ran=True, code=3)
SOON = replace(FAST, stream_connect_waits_s=(0.001, 0.001, 0.001))
NESTED = b"event: started\ndata: " + b"[" * 100_000 + b"\n\n"


@pytest.fixture
def fake() -> Iterator[StreamServer]:
    with StreamServer() as server:
        yield server


@pytest.fixture
def client(fake: StreamServer) -> Iterator[Client]:
    with Client(fake.url, TOKEN, timings=SOON) as made:
        yield made


@pytest.fixture
def hanging(sandbox: Sandbox) -> Execution:
    return sandbox.start("hang")


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, OutputPiece))


def for_ever(wire: Wire, data: bytes, times: int | None = None) -> None:
    """Until the client hangs up; then the write raises."""
    wire.accept()
    for _ in count() if times is None else range(times):
        wire.raw(data)


HOSTILE: dict[str, Script] = {
    "line without an end": lambda wire: for_ever(wire, b"data: " + b"x" * (1 << 20), 10 * (MESSAGE_LIMIT >> 20)),
    "event without an end": lambda wire: for_ever(wire, b"data: x\n" * (1 << 17), 10 * (MESSAGE_LIMIT >> 20)),
    "comment without an end": lambda wire: for_ever(wire, b":" + b"x" * (1 << 20), 10 * (MESSAGE_LIMIT >> 20)),
    "deeply nested": lambda wire: (wire.accept(), wire.raw(NESTED)),
    "lone surrogate": lambda wire: (wire.accept(), wire.say("output", stream="merged", offset=0, text="\ud800")),
    "enormous number": lambda wire: (wire.accept(), wire.raw(b'event: gap\ndata: {"from": 0, "to": ' + b"9" * 9000 + b"}\n\n")),
    "negative offset": lambda wire: (wire.accept(), wire.say("output", stream="merged", offset=-1, text="xx")),
    "unknown stream": lambda wire: (wire.accept(), wire.say("output", stream="stderr", offset=0, text="xx")),
    "forward": lambda wire: (wire.accept(), wire.say("gap", stream="merged", **{"from": 5, "to": 9})),
    "output before the greeting": lambda wire: wire.say("output", stream="merged", offset=0, text="wrong"),
    "compressed": lambda wire: (wire.begin(Content_Encoding="gzip"), wire.raw(gzip.compress(encoded("end")))),
    "wrong checksum": lambda wire: (
        wire.accept(),
        wire.raw(b'event: output\ndata: {"stream": "merged", "offset": 0, "text": "wrong"}\ncrc32: 00000000\n\n'),
    ),
    "redirect": lambda wire: wire.begin(302, Location="/elsewhere"),
    "early hints": lambda wire: wire.begin(103),
    "no body": lambda wire: wire.begin(204),
    "counted body": lambda wire: (wire.begin(Transfer_Encoding="", Content_Length="5"), wire.raw(b"event")),
}  # fmt: skip


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_stream_costs_a_connection_and_nothing_else(fake: StreamServer, hanging: Execution, script: Script) -> None:
    fake.finish(hanging.id, DONE, b"right\n")
    fake.script(script)
    events = list(hanging.stream())
    assert text_of(events) == "right\n"
    assert isinstance(events[-1], Ended)
    assert len(fake.asked()) == 2


def test_bytes_that_were_told_wrongly_are_told_of(fake: StreamServer, hanging: Execution) -> None:
    def lie(wire: Wire) -> None:
        wire.accept()
        wire.output(0, b"wrong\n")
        wire.output(0, b"right\n")
        fake.finish(hanging.id, DONE, b"right\n")
        wire.end()

    fake.script(lie)
    with pytest.raises(OutputIncomplete):
        list(hanging.stream())


@pytest.mark.parametrize("beat", [b": alive\n", b":\n\n", b"retry: 5\n\n"], ids=["comments", "with empty lines", "fields without data"])
def test_comments_do_not_keep_a_dead_stream_alive(fake: StreamServer, sandbox: Sandbox, beat: bytes) -> None:
    outlasted: list[Wire] = []
    fake.script(lambda wire: (for_ever(wire, beat, 1_000_000_000), outlasted.append(wire)))
    with Client(fake.url, TOKEN, timings=replace(SOON, stream_silence_s=0.05)) as client:
        hanging = client.execution(sandbox.start("hang").id)
        fake.finish(hanging.id, DONE, b"right\n")
        assert text_of(list(hanging.stream())) == "right\n"
    assert outlasted == []


def test_a_stream_that_is_dropped_half_read_is_gone_at_once(fake: StreamServer, hanging: Execution) -> None:
    gc.disable()
    try:
        stream = hanging.stream()
        assert isinstance([next(stream), next(stream)][-1], Started)
        watched = weakref.ref(stream)
        del stream
        assert watched() is None, "it waits for the cycle collector, and its connection with it"
    finally:
        gc.enable()


def in_a_child(act: Callable[[], object]) -> object:
    """What `act` returned in a forked child, by way of JSON."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return json.loads(said)


@threads_only
def test_a_forked_child_leaves_its_parents_stream_alone(fake: StreamServer, hanging: Execution) -> None:
    fake.write(hanging.id, b"one\n")
    stream = hanging.stream()
    events = [next(stream), next(stream), next(stream)]
    assert in_a_child(lambda: stream.close()) is None
    fake.finish(hanging.id, DONE, b"two\n")
    events += stream
    assert text_of(events) == "one\ntwo\n"
    assert len(fake.asked()) == 1, "the child has cut its parent's connection"


@threads_only
def test_a_forked_child_can_go_on_by_itself(fake: StreamServer, hanging: Execution) -> None:
    fake.write(hanging.id, b"one\n")
    stream = hanging.stream()
    events = [next(stream), next(stream), next(stream)]
    fake.finish(hanging.id, DONE, b"two\n")
    assert in_a_child(lambda: text_of(list(stream))) == "two\n"
    events += stream
    assert text_of(events) == "one\ntwo\n"
