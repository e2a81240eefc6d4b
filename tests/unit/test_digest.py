"""What was damaged on its way is noticed: a body by the digest in its head, an event of a stream by its checksum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from remote_env import Client
from remote_env.digest import DIGEST_HEADER, content_digest, is_damaged
from remote_env.events import Greeting, OutputPiece, WireEvent, decode
from remote_env.exchange import PROTOCOL_HEADER
from remote_env.protocol import Execution, Health, Outcome, new_id
from remote_env.sse import Garbled, Message, SseParser
from server.api import sse
from server.events import Accepted, Piece
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import TOKEN, FakeServer, Fault
from tests.unit.server.fakes import EPOCH, SANDBOX
from tests.unit.server.fakes import RUN as RUN_ID
from tests.unit.server.harness import RunningServer, assert_problem

BODY = b'{"hello": "world"}'
DIGEST = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"  # of BODY, in RFC 9530's own example
RUN = f"/v1/sandboxes/{SANDBOX}/executions"


# --------------------------------------------------------------------------------------------------------------- bodies


def test_the_digest_is_the_standards() -> None:
    assert content_digest(BODY) == DIGEST


@pytest.mark.parametrize("header", [DIGEST, f"{DIGEST}, unixsum=:AAA=:", f"sha-512=:AAAA:, {DIGEST}"])
def test_every_flipped_bit_of_a_body_is_noticed(header: str) -> None:
    assert not is_damaged(BODY, header)
    for bit in range(len(BODY) * 8):
        damaged = bytearray(BODY)
        damaged[bit // 8] ^= 1 << bit % 8
        assert is_damaged(bytes(damaged), header)


@pytest.mark.parametrize("header", [None, "", "sha-512=:AAAA:", "sha-256=short"])
def test_a_head_that_says_nothing_of_sha_256_proves_nothing(header: str | None) -> None:
    assert not is_damaged(BODY, header)


# --------------------------------------------------------------------------------------------------------------- server


@pytest.fixture
def server() -> Iterator[RunningServer]:
    made = RunningServer()
    yield made
    made.stop()


def test_a_damaged_request_is_refused_as_not_taken_and_the_true_one_is_taken_after_it(server: RunningServer) -> None:
    eid = new_id()
    body = f'{{"id": "{eid}", "command": "echo 1"}}'.encode()
    problem = assert_problem(server.post(RUN, body.replace(b"echo 1", b"echo 3"), **{DIGEST_HEADER: content_digest(body)}), "damaged")
    assert (problem["accepted"], problem["retryable"]) == (False, True)
    assert server.get(f"/v1/executions/{eid}").status == 404
    assert server.post(RUN, body, **{DIGEST_HEADER: content_digest(body)}, Prefer="wait=5").status == 201


def test_every_kind_of_answer_has_its_digest(server: RunningServer) -> None:
    eid = new_id()
    for reply in (
        server.post(RUN, {"id": eid, "command": "echo"}, Prefer="wait=5"),
        server.get(f"/v1/executions/{eid}"),
        server.get(f"/v1/executions/{eid}/output"),
        server.get(f"/v1/executions/{new_id()}"),
        server.get("/health"),
    ):
        assert reply.headers[DIGEST_HEADER] == content_digest(reply.body)


# --------------------------------------------------------------------------------------------------------------- client


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as made:
        yield made


def test_a_damaged_answer_is_none_and_the_truth_is_asked_for_by_id(fake: FakeServer) -> None:
    """Broken: one digit of the exit code, in JSON that is as good as before. Must hold: the true result, one POST."""
    with Client(fake.url, TOKEN, timings=FAST) as client:
        sandbox = client.create_sandbox("image")
        eid = new_id()
        outcome = Outcome(kind="exited", code=1, ran=True)
        told = Execution(id=eid, sandbox_id=sandbox.id, epoch=sandbox.epoch, run_id=client.run_id, state="ended", outcome=outcome)
        lie = told.model_copy(update={"outcome": outcome.model_copy(update={"code": 3})})
        fake.on("POST", "/executions$", _damaged(told.model_dump_json().encode(), lie.model_dump_json().encode()))
        execution = sandbox.run("exit 0", id=eid)
    assert execution.returncode == 0
    assert len(fake.seen("POST", "/executions$")) == 1


def test_requests_carry_the_digest_of_their_body(fake: FakeServer) -> None:
    with Client(fake.url, TOKEN, timings=FAST) as client:
        client.create_sandbox("image")
    (request,) = fake.seen("POST", "/sandboxes$")
    assert request.headers[DIGEST_HEADER.lower()] == content_digest(request.body)


def test_a_damaged_answer_to_a_read_is_asked_for_again(fake: FakeServer) -> None:
    fake.on("GET", "/health", _damaged(Health(version="1.0").model_dump_json().encode(), Health(version="3.0").model_dump_json().encode()))
    with Client(fake.url, TOKEN, timings=FAST) as client:
        assert client.health().version != "3.0"
    assert len(fake.seen("GET", "/health")) == 2


def _damaged(true: bytes, damaged: bytes) -> Fault:
    headers = {"Content-Type": "application/json", PROTOCOL_HEADER: "1", DIGEST_HEADER: content_digest(true)}
    return Fault(arrives=True, answer=(200, headers, damaged))


# --------------------------------------------------------------------------------------------------------------- events


def stream() -> bytes:
    """The first events of a stream as the server says them."""
    execution = Execution(id=new_id(), sandbox_id=SANDBOX, epoch=EPOCH, run_id=RUN_ID, state="running")
    events = (Accepted(execution, None), Piece("merged", 0, b"one\n", (4,)), Piece("merged", 4, b"\xff\n", (6,)))
    return b"".join(sse.encode(event) for event in events)


def heard(raw: bytes) -> list[WireEvent | None]:
    """What the client hears until it finds the stream damaged."""
    parser = SseParser()
    events: list[WireEvent | None] = []
    with suppress(Garbled):
        for line in raw.splitlines(keepends=True):
            events += [decode(message) for message in parser.feed(line)]
    return events


def test_no_flipped_bit_makes_another_event_be_heard() -> None:
    """Each bit of the stream in turn: what is heard is the truth, or a beginning of it."""
    raw = stream()
    true = heard(raw)
    assert [type(event) for event in true] == [Greeting, OutputPiece, OutputPiece]
    for bit in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        found = heard(bytes(damaged))
        assert found == true[: len(found)], f"bit {bit}: {found}"


def test_streams_without_checksums_are_read_as_they_are() -> None:
    assert SseParser().feed(b"event: a\ndata: 1\n\nevent: b\ndata: 2\n\n") == [Message("a", "1"), Message("b", "2")]


def test_an_event_without_its_checksum_is_refused_where_others_have_one() -> None:
    parser = SseParser()
    parser.feed(stream())
    with pytest.raises(Garbled):
        parser.feed(b"event: end\ndata: {}\n\n")
