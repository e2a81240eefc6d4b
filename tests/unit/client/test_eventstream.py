"""Following a command over real sockets that break."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from remote_env import Client, Execution, Sandbox
from remote_env.errors import CommandNotDelivered, EpochChanged, InvalidSpec, LinkLost, OutputIncomplete
from remote_env.events import Accepted, Ended, Event, OutputPiece, Started
from remote_env.protocol import Outcome
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import CUT_BEFORE, TOKEN, Fault, pattern_bytes, refusal
from tests.unit.client.streamserver import Script, StreamServer, Wire, encoded

BOTH_FACES = True

START = r"/v1/sandboxes/[^/]+/executions$"
EVENTS = "/events$"
DONE = Outcome(kind="exited", ran=True, code=3)
LIAR = "another-execution"
SOON = replace(FAST, stream_connect_waits_s=(0.001, 0.001, 0.001))


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


def offsets_of(events: list[Event]) -> list[int]:
    return [event.offset for event in events if isinstance(event, OutputPiece)]


def record_of_another(wire: Wire) -> bytes:
    return wire.server.executions[LIAR].record.model_dump_json().encode()


def test_a_command_is_followed_from_its_acceptance_to_its_end(fake: StreamServer, sandbox: Sandbox) -> None:
    stream = sandbox.stream("hang", workdir="/srv")
    assert fake.seen("POST", START)[0].json()["workdir"] == "/srv"
    assert isinstance(next(stream), Accepted)
    assert next(stream) == Started(None)
    fake.write(stream.execution.id, b"one\n")
    assert next(stream) == OutputPiece("merged", 0, b"one\n")
    assert stream.position == "4"
    fake.finish(stream.execution.id, DONE, b"two\n")
    assert next(stream) == OutputPiece("merged", 4, b"two\n")
    [end] = stream
    assert isinstance(end, Ended)
    assert end.result is stream.execution
    assert (end.result.returncode, end.result.text) == (3, "one\ntwo\n")
    assert list(stream) == []
    assert fake.started["hang"] == 1


def test_a_command_that_could_not_be_delivered_is_told_by_the_call(fake: StreamServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_BEFORE)
    with pytest.raises(CommandNotDelivered):
        sandbox.stream("hang")
    fake.on("POST", START, CUT_BEFORE)
    assert text_of(list(sandbox.stream("echo hi", on_undelivered="redeliver"))) == "hi\n"
    fake.on("POST", START, CUT_BEFORE)
    assert text_of(list(sandbox.stream("echo hi", idempotent=True))) == "hi\n"


def test_the_statistics_count_a_command_that_was_followed_once(client: Client, sandbox: Sandbox) -> None:
    stream = sandbox.stream("echo hi")
    list(stream)
    list(stream.execution.stream())
    assert (client.stats()["sent"], client.stats()["completed"]) == (1, 1)


def test_leaving_the_loop_does_not_cancel_and_cancel_does(fake: StreamServer, sandbox: Sandbox) -> None:
    for event in sandbox.stream("hang"):
        if isinstance(event, Started):
            break
    assert not fake.seen("POST", "/cancel$")
    with sandbox.stream("hang on") as stream:
        next(stream)
        stream.cancel()
        *_, end = stream
    assert isinstance(end, Ended)
    assert end.result.outcome == Outcome(kind="cancelled", ran=True)


def test_a_cut_stream_goes_on_at_the_byte_where_it_broke(fake: StreamServer, hanging: Execution) -> None:
    output = pattern_bytes(5000)

    def torn(wire: Wire) -> None:
        wire.accept()
        wire.output(0, output[:1000])
        whole = encoded("output", "2000", stream="merged", offset=1000, text=output[1000:2000].decode())
        wire.raw(whole[:500])

    def swallowed(wire: Wire) -> None:
        """The proxy ends it in order, and behind a whole event."""
        wire.accept(1000)
        wire.output(1000, output[1000:2000])
        wire.end_chunks()

    fake.script(torn, swallowed)
    fake.finish(hanging.id, DONE, output)
    events = list(hanging.stream())
    assert text_of(events).encode() == output
    assert offsets_of(events)[:2] == [0, 1000]
    assert fake.asked() == [(None, None), ("1000", None)], "and then it is long-polled"


@pytest.mark.parametrize("at", range(0, 160, 7))
def test_a_stream_may_be_cut_anywhere(fake: StreamServer, hanging: Execution, at: int) -> None:
    fake.write(hanging.id, b"one\n")
    first = encoded("accepted", None, id=hanging.id, sandbox_id=hanging.sandbox_id, epoch=hanging.epoch, run_id="run")
    said = first + encoded("started", started_at=None) + encoded("output", "4", stream="merged", offset=0, text="one\n")

    def cut(wire: Wire) -> None:
        wire.raw(said[: len(said) * at // 160])
        fake.finish(hanging.id, DONE, b"two\n")

    fake.script(cut)
    assert text_of(list(hanging.stream())) == "one\ntwo\n"


@pytest.mark.parametrize(
    "lie",
    [
        lambda wire: (wire.begin(X_Remote_Env_Execution="another"), wire.accept()),
        lambda wire: (wire.begin(X_Remote_Env_Epoch=""), wire.accept()),
        lambda wire: (wire.begin(Content_Type="text/html"), wire.accept()),
        lambda wire: (wire.begin(X_Remote_Env_Protocol=""), wire.accept()),
        lambda wire: wire.accept(epoch="another"),
        lambda wire: wire.accept(id="another"),
        lambda wire: (wire.accept(), wire.say("output", stream="merged", offset=999, text="x")),
        lambda wire: (wire.accept(), wire.raw(b"event: output\ndata: {\n\n")),
        lambda wire: (wire.accept(), wire.raw(b"data: \xff\n\n")),
        lambda wire: (wire.accept(), wire.raw(b"event: end\ndata: %s\n\n" % record_of_another(wire))),
    ],
    ids=["id", "no epoch", "HTML", "not ours", "greeted epoch", "greeted id", "bytes left out", "not JSON", "not UTF-8", "another's end"],
)  # fmt: skip
def test_what_a_stream_must_not_say_is_not_taken(fake: StreamServer, sandbox: Sandbox, hanging: Execution, lie: Script) -> None:
    other = sandbox.run("echo another", id=LIAR)
    assert other.text == "another\n"
    fake.finish(hanging.id, DONE, b"right\n")
    fake.script(lie)
    events = list(hanging.stream())
    assert text_of(events) == "right\n"
    assert isinstance(events[-1], Ended)
    assert events[-1].result.returncode == 3


def test_headers_that_were_cut_off_are_nobody_elses(fake: StreamServer, client: Client, hanging: Execution) -> None:
    """The library takes them for whole; an id that was cut off is another one."""
    fake.script(lambda wire: wire.begin(X_Remote_Env_Instance=fake.instance_id[:3]), lambda wire: wire.begin(X_Remote_Env_Execution="e"))
    fake.finish(hanging.id, DONE, b"right\n")
    assert text_of(list(hanging.stream())) == "right\n"
    assert client.stats()["mismatched"] == 0


def test_an_answer_about_another_execution_is_counted(fake: StreamServer, client: Client, hanging: Execution) -> None:
    fake.finish(hanging.id, DONE, b"right\n")
    fake.script(lambda wire: wire.accept(id="another-execution"), lambda wire: (wire.begin(X_Remote_Env_Sandbox="another"), wire.accept()))
    assert text_of(list(hanging.stream())) == "right\n"
    assert client.stats()["mismatched"] == 2


def test_without_events_it_is_long_polled_and_nobody_notices(fake: StreamServer, hanging: Execution) -> None:
    fake.on("GET", EVENTS, refusal("not_found"))
    stream = hanging.stream()
    events = [next(stream), next(stream)]
    for text in (b"one\n", b"tw\xc3", b"\xb6\n"):
        fake.write(hanging.id, text)
        if text != b"tw\xc3":
            events.append(next(stream))
    fake.finish(hanging.id, DONE, b"three\n")
    events += stream
    assert [type(event) for event in events[:2]] == [Accepted, Started]
    assert text_of(events) == "one\ntwö\nthree\n"
    assert isinstance(events[-1], Ended)
    assert fake.asked() == [(None, None)]


def test_a_stream_that_cannot_be_had_is_long_polled_and_tried_again(fake: StreamServer, sandbox: Sandbox) -> None:
    with Client(fake.url, TOKEN, timings=replace(SOON, stream_retry_sse_s=0.0)) as client:
        hanging = client.execution(sandbox.start("hang").id)
        fake.on("GET", EVENTS, *[Fault(answer=(502, {}, b"<html>"))] * 4)
        fake.write(hanging.id, b"polled\n")
        stream = hanging.stream()
        events = [next(stream), next(stream), next(stream)]
        fake.write(hanging.id, b"streamed\n")
        events.append(next(stream))
        fake.finish(hanging.id, DONE)
        events += stream
    assert text_of(events) == "polled\nstreamed\n"
    assert fake.asked() == [(None, None)] * 4 + [("7", None)]


def test_a_path_that_holds_events_back_is_long_polled(fake: StreamServer, sandbox: Sandbox) -> None:
    left = threading.Event()

    def hold(wire: Wire) -> None:
        wire.begin()
        left.wait(20)

    fake.script(hold)
    with Client(fake.url, TOKEN, timings=replace(SOON, stream_silence_s=0.05)) as client:
        hanging = client.execution(sandbox.start("hang").id)
        fake.finish(hanging.id, DONE, b"polled\n")
        assert text_of(list(hanging.stream())) == "polled\n"
    left.set()
    assert len(fake.asked()) == 1


def test_a_slow_answer_of_many_small_chunks_is_no_silence(fake: StreamServer, hanging: Execution) -> None:
    output = "héllo wörld\n"

    def slowly(wire: Wire) -> None:
        at = len(output.encode())
        said = b": so slow\n\n" + encoded("output", str(at), stream="merged", offset=0, text=output) + encoded("colour", of="red")
        wire.accept()
        for byte in said:
            wire.raw(bytes([byte]))
        fake.finish(hanging.id, DONE, output.encode())
        wire.end()

    fake.script(slowly)
    assert text_of(list(hanging.stream())) == output
    assert len(fake.asked()) == 1


def test_a_stopping_server_is_come_back_to(fake: StreamServer, hanging: Execution) -> None:
    def stop(wire: Wire) -> None:
        wire.accept()
        wire.output(0, b"one\n")
        wire.say("stopping", retry_after_s=0.001)
        wire.end_chunks()

    fake.script(
        stop, lambda wire: (wire.accept(4), wire.say("stopping", retry_after_s=0.001)), lambda wire: fake.finish(hanging.id, DONE, b"two\n")
    )
    fake.write(hanging.id, b"one\n")
    assert text_of(list(hanging.stream())) == "one\ntwo\n"
    assert fake.asked()[:3] == [(None, None), ("4", None), ("4", None)]


def test_it_may_begin_now_or_at_a_place(fake: StreamServer, hanging: Execution) -> None:
    fake.write(hanging.id, b"old\n")
    stream = hanging.stream("now")
    assert isinstance(next(stream), Accepted)
    assert stream.position is None
    assert isinstance(next(stream), Started)
    assert stream.position == "4"
    fake.write(hanging.id, b"new\n")
    assert next(stream) == OutputPiece("merged", 4, b"new\n")
    position = stream.position
    assert position == "8"
    stream.close()
    fake.finish(hanging.id, DONE, b"last\n")
    for place in (position, 8):
        assert text_of(list(hanging.stream(place))) == "last\n"
    assert text_of(list(hanging.stream(6))) == "w\nlast\n"
    for wrong in ("yesterday", "1,2", "-1", ""):
        with pytest.raises(InvalidSpec):
            hanging.stream(wrong)


def test_the_position_is_of_what_was_had_not_of_what_has_come(fake: StreamServer, hanging: Execution) -> None:
    def at_once(wire: Wire) -> None:
        said = encoded("accepted", None, id=hanging.id, sandbox_id=hanging.sandbox_id, epoch=hanging.epoch, run_id="run")
        for number in range(3):
            said += encoded("output", None, stream="merged", offset=number, text=str(number))
        wire.raw(said)
        wire.server.wait_for(lambda: False, 20)

    fake.script(at_once)
    fake.write(hanging.id, b"012")
    stream = hanging.stream()
    positions = []
    for event in stream:
        positions.append(stream.position)
        if isinstance(event, OutputPiece) and event.end == 3:
            break
    assert positions == ["0", "1", "2", "3"]


def test_a_wrong_checksum_is_told_with_the_result_known(fake: StreamServer, hanging: Execution) -> None:
    fake.finish(hanging.id, DONE, b"right\n")
    fake.script(lambda wire: (wire.accept(), wire.output(0, b"wrong\n"), wire.end()))
    seen = []
    with pytest.raises(OutputIncomplete) as raised:
        seen.extend(hanging.stream())
    assert raised.value.execution_id == hanging.id


def test_an_execution_of_another_epoch_is_told(fake: StreamServer, hanging: Execution) -> None:
    fake.on("GET", EVENTS, refusal("epoch_mismatch"))
    with pytest.raises(EpochChanged):
        list(hanging.stream())


def test_a_server_that_stays_away_is_told_once_the_budget_is_spent(fake: StreamServer, sandbox: Sandbox) -> None:
    with Client(fake.url, TOKEN, timings=replace(SOON, reconnect_budget_s=0.05)) as client:
        hanging = client.execution(sandbox.start("hang").id)
        fake.on("GET", EVENTS, *[CUT_BEFORE] * 100)
        fake.on("GET", "/output$", *[CUT_BEFORE] * 1000)
        with pytest.raises(LinkLost, match="not cancelled"):
            list(hanging.stream())


def test_closing_a_stream_wakes_its_reader_and_leaves_the_command_alone(fake: StreamServer, hanging: Execution) -> None:
    stream = hanging.stream()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(list, stream)
        fake.wait_until(fake.asked)
        stream.close()
        assert [type(event) for event in reading.result()] in ([Accepted], [Accepted, Started])
    stream.close()
    assert not fake.executions[hanging.id].record.over


def test_a_stream_over_tls_can_be_closed_while_it_is_read(tmp_path: Path) -> None:
    key, cert = tmp_path / "key", tmp_path / "cert"
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=x",
    ]
    subprocess.run([*make, "-keyout", key, "-out", cert, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with StreamServer(tls=context) as fake, Client(fake.url, TOKEN, ca_file=cert, timings=SOON) as client:
        stream = client.create_sandbox("image").stream("hang")
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(list, stream)
            fake.wait_until(fake.asked)
            stream.close()
            assert isinstance(reading.result()[0], Accepted)


def test_closing_the_client_ends_a_stream_of_another_thread(fake: StreamServer) -> None:
    with Client(fake.url, TOKEN, timings=SOON) as client:
        stream = client.create_sandbox("image").stream("hang")
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(list, stream)
            fake.wait_until(fake.asked)
            client.close()
            with pytest.raises(LinkLost, match="closed"):
                reading.result()


def test_a_stream_gives_no_half_read_connection_back(fake: StreamServer, client: Client, sandbox: Sandbox) -> None:
    for _ in range(5):
        stream = sandbox.stream("hang")
        while not isinstance(next(stream), Started):
            pass
        stream.close()
        assert sandbox.run("echo after").text == "after\n"
    assert client.stats()["mismatched"] == client.stats()["not_ours"] == 0


def test_big_output_of_a_command_that_is_over_is_followed_in_pieces(fake: StreamServer, sandbox: Sandbox) -> None:
    output = pattern_bytes(3_000_000)
    execution = sandbox.run("flood 3000000")
    events = list(execution.stream())
    assert text_of(events).encode() == output
    assert len(offsets_of(events)) > 1
    assert b"".join(execution.follow()) == output
