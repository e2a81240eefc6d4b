"""`on_output`: told of the output while the command runs; neither command nor result waits for it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from remote_env import Client, RemoteDockerEnvironment, Sandbox
from remote_env.errors import OutcomeUnknownError
from remote_env.events import OutputPiece
from remote_env.protocol import Outcome
from tests.unit.client.conftest import FAST
from tests.unit.client.faces import threads_only
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, TOKEN, Fault, pattern_bytes
from tests.unit.client.streamserver import StreamServer, Wire

BOTH_FACES = True

START = r"/v1/sandboxes/[^/]+/executions$"
DONE = Outcome(kind="exited", ran=True, code=0)
PATIENT = replace(FAST, listener_grace_s=20.0)  # a slow machine must not spend it


@pytest.fixture
def fake() -> Iterator[StreamServer]:
    with StreamServer() as server:
        yield server


@pytest.fixture
def client(fake: StreamServer) -> Iterator[Client]:
    with Client(fake.url, TOKEN, timings=PATIENT) as made:
        yield made


def the_one(fake: StreamServer) -> str:
    [execution_id] = [id for id, kept in fake.executions.items() if not kept.record.over]
    return execution_id


def test_execute_tells_of_the_output_while_the_command_runs(fake: StreamServer) -> None:
    heard: list[OutputPiece] = []

    def on_output(piece: OutputPiece) -> None:
        heard.append(piece)
        if piece.text == "one\n":  # so it was heard before the end
            fake.finish(the_one(fake), DONE, b"two\n")

    fake.script(lambda wire: (fake.write(the_one(fake), b"one\n"), wire.honest()))
    with RemoteDockerEnvironment("image", fake.url, TOKEN, timings=PATIENT) as env:
        answer = env.execute("hang", on_output=on_output)
    assert answer["output"] == "one\ntwo\n"
    assert [(piece.offset, piece.text) for piece in heard] == [(0, "one\n"), (4, "two\n")]


def test_all_output_is_told_of_before_the_result_comes(sandbox: Sandbox) -> None:
    heard: list[bytes] = []
    execution = sandbox.run("flood 3000000", on_output=lambda piece: heard.append(piece.data))
    assert b"".join(heard) == pattern_bytes(3_000_000) == execution.output()


@threads_only
def test_a_listener_runs_in_a_thread_of_its_own(sandbox: Sandbox) -> None:
    threads: list[threading.Thread] = []
    sandbox.run("echo hi", on_output=lambda piece: threads.append(threading.current_thread()))
    [thread] = threads
    assert thread is not threading.current_thread()
    thread.join()


@threads_only
def test_a_slow_listener_does_not_hold_up_the_result_and_hears_nothing_afterwards(
    fake: StreamServer, caplog: pytest.LogCaptureFixture
) -> None:
    leave = threading.Event()
    heard: list[str] = []

    def on_output(piece: OutputPiece) -> None:
        heard.append(piece.text)
        fake.finish(the_one(fake), DONE, pattern_bytes(3_000_000))
        leave.wait(20)

    fake.script(lambda wire: (fake.write(the_one(fake), b"begun\n"), wire.honest()))
    with Client(fake.url, TOKEN, timings=replace(FAST, listener_grace_s=0.02)) as client:
        execution = client.create_sandbox("image").run("hang", on_output=on_output)
        assert execution.output() == b"begun\n" + pattern_bytes(3_000_000)
        [listener] = [thread for thread in threading.enumerate() if thread.name == "remote-env-listener"]
        leave.set()
        listener.join()
    assert heard == ["begun\n"]
    assert "on_output is slow" in caplog.text


def test_a_listener_that_fails_is_logged_once_and_harms_nothing(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    def on_output(piece: OutputPiece) -> None:
        raise ValueError("no more of this")

    execution = sandbox.run("flood 3000000", on_output=on_output)
    assert execution.output() == pattern_bytes(3_000_000)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert execution.id in errors[0].getMessage()


def test_a_link_that_is_broken_at_the_end_costs_the_listener_nothing(fake: StreamServer, sandbox: Sandbox) -> None:
    """The stream waits to connect again when the result comes over another connection: what is missing comes from there."""
    heard: list[str] = []

    def cut(wire: Wire) -> None:
        fake.finish(the_one(fake), DONE, b"all of it\n")

    fake.script(cut)
    with Client(fake.url, TOKEN, timings=replace(PATIENT, stream_connect_waits_s=(600.0,))) as client:
        client.sandbox(sandbox.id).run("hang", on_output=lambda piece: heard.append(piece.text))
    assert "".join(heard) == "all of it\n"


def test_a_stream_that_says_nothing_costs_the_listener_nothing(fake: StreamServer, sandbox: Sandbox) -> None:
    heard: list[str] = []
    silent = threading.Event()

    def hold(wire: Wire) -> None:
        wire.accept()
        fake.finish(the_one(fake), DONE, b"all of it\n")
        silent.wait(20)

    fake.script(hold)
    sandbox.run("hang", on_output=lambda piece: heard.append(piece.text))
    silent.set()
    assert "".join(heard) == "all of it\n"


def test_the_command_is_sent_once_and_found_by_its_id(fake: StreamServer, sandbox: Sandbox) -> None:
    heard: list[str] = []
    fake.on("POST", START, CUT_AFTER)
    assert sandbox.run("echo once", on_output=lambda piece: heard.append(piece.text)).text == "once\n"
    assert (fake.started["echo once"], heard) == (1, ["once\n"])


def test_a_read_that_was_not_delivered_is_run_again_with_its_listener(fake: StreamServer, sandbox: Sandbox) -> None:
    heard: list[str] = []
    fake.on("POST", START, CUT_BEFORE)
    execution = sandbox.run("echo hi", idempotent=True, on_output=lambda piece: heard.append(piece.text))
    assert (execution.attempts, heard) == (2, ["hi\n"])


def test_a_deadline_that_passes_is_an_unknown_outcome_as_without_a_listener(fake: StreamServer) -> None:
    with Client(fake.url, TOKEN, timings=replace(FAST, minimum_call_s=0.1, call_margin_s=0.05)) as client:
        sandbox = client.create_sandbox("image")
        with pytest.raises(OutcomeUnknownError, match="deadline") as raised:
            sandbox.run("hang", timeout_s=0.01, on_output=lambda piece: None)
        assert raised.value.execution_id in fake.executions


def test_ctrl_c_cancels_the_command(fake: StreamServer, sandbox: Sandbox) -> None:
    fake.script(lambda wire: (os.kill(os.getpid(), signal.SIGINT), wire.honest()))
    with pytest.raises(KeyboardInterrupt):
        sandbox.run("hang", on_output=lambda piece: None)
    [kept] = fake.executions.values()
    assert kept.record.outcome == Outcome(kind="cancelled", ran=True)


def test_a_listener_that_gets_no_stream_is_told_of_the_output_all_the_same(fake: StreamServer, sandbox: Sandbox) -> None:
    heard: list[str] = []
    fake.on("GET", "/events$", *[Fault(answer=(502, {}, b"<html>"))] * 10)
    finisher = threading.Thread(target=lambda: (fake.wait_until(fake.asked), fake.finish(the_one(fake), DONE, b"there\n")))
    finisher.start()
    sandbox.run("hang", on_output=lambda piece: heard.append(piece.text))
    finisher.join()
    assert "".join(heard) == "there\n"
