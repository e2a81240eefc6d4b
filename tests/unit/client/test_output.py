"""Output comes whole or not at all."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from remote_env import Client, Sandbox
from remote_env.errors import OutcomeUnknownError, OutputIncomplete
from remote_env.output import PIECE_BYTES
from remote_env.protocol import INLINE_LIMIT, Outcome
from tests.unit.client.fakeserver import CUT_BEFORE, FakeServer, Fault, pattern_bytes, refusal

BOTH_FACES = True

OUTPUT = r"/output$"
START = r"/v1/sandboxes/[^/]+/executions$"
BIG = 2 * PIECE_BYTES + 123


def wrong_byte(body: bytes) -> bytes:
    return body[:-1] + b"\0"


def test_small_output_comes_with_the_result(fake: FakeServer, sandbox: Sandbox) -> None:
    assert sandbox.run(f"flood {INLINE_LIMIT}").output() == pattern_bytes(INLINE_LIMIT)
    assert not fake.seen("GET", OUTPUT)


def test_big_output_is_fetched_in_pieces(fake: FakeServer, sandbox: Sandbox) -> None:
    assert sandbox.run(f"flood {BIG}").output() == pattern_bytes(BIG)
    ranges = [request.headers["range"] for request in fake.seen("GET", OUTPUT)]
    assert ranges == [f"bytes={start}-{min(start + PIECE_BYTES, BIG) - 1}" for start in range(0, BIG, PIECE_BYTES)]


def test_a_piece_that_breaks_is_fetched_again_and_the_others_are_not(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("GET", OUTPUT, Fault(change=lambda body: body), CUT_BEFORE, Fault(answer=(502, {}, b"<html>")))
    assert sandbox.run(f"flood {BIG}").output() == pattern_bytes(BIG)
    assert len(fake.seen("GET", OUTPUT)) == 5


def test_a_part_that_was_not_asked_for_is_not_taken(fake: FakeServer, sandbox: Sandbox) -> None:
    elsewhere = {"X-Remote-Env-Protocol": "1", "Content-Range": f"bytes 5-9/{BIG}"}
    whole = {"X-Remote-Env-Protocol": "1"}
    fake.on("GET", OUTPUT, Fault(answer=(206, elsewhere, b"xxxxx")), Fault(change=lambda body: body), Fault(answer=(200, whole, b"all")))
    assert sandbox.run(f"flood {BIG}").output() == pattern_bytes(BIG)


def test_a_wrong_checksum_makes_it_fetched_again(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    fake.on("GET", OUTPUT, Fault(change=wrong_byte))
    assert sandbox.run(f"flood {BIG}").output() == pattern_bytes(BIG)
    assert client.stats()["corrupted"] == 1


def test_a_checksum_that_stays_wrong_is_output_incomplete_with_the_id(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("GET", OUTPUT, *[Fault(change=wrong_byte)] * 100)
    execution = sandbox.run(f"flood {BIG}")
    assert execution.returncode == 0
    with pytest.raises(OutputIncomplete) as raised:
        execution.output()
    assert raised.value.execution_id == execution.id
    fake._faults.clear()
    assert execution.output() == pattern_bytes(BIG), "a later call gets it"


def test_inline_output_with_a_wrong_checksum_is_fetched_raw(fake: FakeServer, sandbox: Sandbox) -> None:
    def garble(body: bytes) -> bytes:
        answer = json.loads(body)
        answer["output"]["text"] = "jello\n"
        return json.dumps(answer).encode()

    fake.on("POST", START, Fault(change=garble))
    assert sandbox.run("echo hello").output() == b"hello\n"
    assert len(fake.seen("GET", OUTPUT)) == 1


def test_purged_output_is_output_incomplete(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.run(f"flood {BIG}")
    fake.on("GET", OUTPUT, refusal("gone"))
    with pytest.raises(OutputIncomplete, match="purged"):
        execution.output()


def test_output_of_another_epoch_is_not_taken(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.run(f"flood {BIG}")
    kept = fake.executions[execution.id]
    kept.record = kept.record.model_copy(update={"epoch": "another"})
    with pytest.raises(OutcomeUnknownError):
        execution.output()


def test_follow_gives_the_output_as_it_comes_and_ends_with_the_command(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.start("hang")
    assert (execution.record.state, execution.returncode) == ("running", None)
    pieces = []
    fake.write(execution.id, b"one\n")
    with ThreadPoolExecutor(1) as threads:
        for piece in execution.follow():
            pieces.append(piece)
            if piece == b"one\n":
                fake.write(execution.id, b"two\n")
            elif piece == b"two\n":
                threads.submit(fake.finish, execution.id, Outcome(kind="exited", ran=True, code=7), b"end\n")
    assert pieces == [b"one\n", b"two\n", b"end\n"]
    assert execution.returncode == 7
    assert execution.output() == b"one\ntwo\nend\n"


def test_follow_goes_on_where_it_broke(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.start("hang")
    fake.write(execution.id, b"one\n")
    fake.on("GET", OUTPUT, CUT_BEFORE, Fault(arrives=True))
    follow = execution.follow()
    assert next(follow) == b"one\n"
    fake.on("GET", OUTPUT, CUT_BEFORE)
    fake.finish(execution.id, Outcome(kind="exited", ran=True, code=0), b"two\n")
    assert list(follow) == [b"two\n"]


def test_follow_of_a_command_without_output_ends(fake: FakeServer, sandbox: Sandbox) -> None:
    assert list(sandbox.start("true").follow()) == []


def test_follow_tells_when_what_went_by_was_not_what_is_kept(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("GET", OUTPUT, Fault(change=wrong_byte))
    with pytest.raises(OutputIncomplete):
        list(sandbox.start(f"flood {BIG}").follow())


def test_output_of_a_running_command_is_what_there_is(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.start("hang")
    assert execution.output() == b""
    fake.write(execution.id, b"so far")
    assert execution.output() == b"so far"
    assert execution.text == "so far"


def test_text_replaces_what_is_not_utf_8(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.start("hang")
    fake.write(execution.id, b"\xff\xfe ok")
    assert execution.text == "�� ok"


def test_threads_may_wait_for_one_execution(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.start("hang")
    begun = threading.Barrier(9)

    def wait() -> int | None:
        begun.wait()
        return execution.wait().returncode

    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(wait) for _ in range(8)]
        begun.wait()
        fake.finish(execution.id, Outcome(kind="exited", ran=True, code=5))
        assert [future.result() for future in waiting] == [5] * 8
