"""`run`, `exec` and `logs -f` while a command writes: what comes where, and when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from remote_env import Client
from remote_env.protocol import Outcome, Output
from tests.unit.cli.conftest import ROOT, Cli, Spawn
from tests.unit.client.fakeserver import TOKEN, Fault, describe, refusal
from tests.unit.client.streamserver import StreamServer, Wire

POSTED = r"/executions$"
DONE = Outcome(kind="exited", ran=True, code=7)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamServer]:
    with StreamServer() as server:
        monkeypatch.setenv("REMOTE_ENV_URL", server.url)
        monkeypatch.setenv("REMOTE_ENV_TOKEN", TOKEN)
        yield server


def asked_streams(fake: StreamServer) -> list[str]:
    return [request.json()["streams"] for request in fake.seen("POST", POSTED)]


def the_one(fake: StreamServer) -> str:
    [execution_id] = fake.executions
    return execution_id


def splitting(body: bytes) -> bytes:
    """As the answer of a server that keeps the streams apart."""
    return json.dumps({**json.loads(body), "streams": "split", "stderr": {}}).encode()


def say_both(wire: Wire) -> None:
    wire.accept(streams="split")
    wire.say("started", started_at=None)
    for stream, offset, text in (("stdout", 0, "out\n"), ("stderr", 0, "err\n"), ("stdout", 4, "more\n")):
        wire.say("output", None, stream=stream, offset=offset, text=text)
    err: dict[str, Any] = {"streams": "split", "stderr": describe(b"err\n")}
    wire.kept.record = wire.kept.record.model_copy(update={"state": "ended", "outcome": DONE, "output": describe(b"out\nmore\n"), **err})
    wire.end()


def test_stdout_and_stderr_of_the_command_are_those_of_run(fake: StreamServer, cli: Cli) -> None:
    fake.on("POST", POSTED, Fault(change=splitting))
    fake.script(say_both)
    done = cli("run", "image", "hang")
    assert (done.code, done.out, done.err) == (7, b"out\nmore\n", "err\n")


def test_logs_show_both_where_they_belong(fake: StreamServer, cli: Cli) -> None:
    fake.on("POST", POSTED, Fault(change=splitting))
    fake.script(say_both)
    cli("run", "--keep", "image", "hang")
    for words in (["logs"], ["logs", "-f"]):
        done = cli(*words, the_one(fake))
        assert (done.out, done.err) == (b"out\nmore\n", "err\n")
    [document] = [json.loads(line) for line in cli("logs", "--json", the_one(fake)).out.splitlines()]
    assert (document["output"]["text"], document["stderr"]["text"]) == ("out\nmore\n", "err\n")


def test_streams_are_kept_apart_unless_it_is_asked_otherwise(fake: StreamServer, cli: Cli) -> None:
    for words in ([], ["--split"], ["--merged"], ["--json"], ["--json", "--split"]):
        assert cli("run", *words, "image", "true").code == 0
    assert asked_streams(fake) == ["split", "split", "merged", "merged", "split"]
    [sandbox, *_] = fake.sandboxes
    fake.sandboxes[sandbox] = fake.sandboxes[sandbox].model_copy(update={"state": "running"})
    assert cli("exec", sandbox, "true").code == 0
    assert cli("exec", "--merged", sandbox, "true").code == 0
    assert asked_streams(fake)[-2:] == ["split", "merged"]


def test_one_pipe_for_both_gets_them_merged_in_the_order_written(fake: StreamServer) -> None:
    words = [sys.executable, "-m", "remote_env.cli.main", "run", "image", "echo hi"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT, check=True)
    assert (done.stdout, asked_streams(fake)) == (b"hi\n", ["merged"])
    terminal, child = os.openpty()
    subprocess.run(words, stdout=child, stderr=child, stdin=subprocess.DEVNULL, cwd=ROOT, check=True)
    os.close(child)
    os.close(terminal)
    assert asked_streams(fake) == ["merged", "merged"]


def test_a_sandbox_that_keeps_no_streams_apart_runs_it_merged(fake: StreamServer, cli: Cli) -> None:
    fake.on("POST", POSTED, refusal("invalid"))
    done = cli("run", "image", "echo hi")
    assert (done.code, done.out, asked_streams(fake)) == (0, b"hi\n", ["split", "merged"])
    fake.on("POST", POSTED, refusal("invalid"))
    assert cli("run", "--split", "image", "echo hi").code == 2, "what was asked for outright is not changed"


def test_output_comes_while_the_command_runs(fake: StreamServer, spawn: Spawn) -> None:
    process = spawn("run", "image", "hang")
    fake.wait_until(lambda: fake.executions)
    fake.write(the_one(fake), b"begun\n")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    fake.finish(the_one(fake), DONE, b"done\n")
    assert process.communicate(timeout=30)[0] == b"done\n"
    assert process.returncode == 7


def test_a_stream_that_breaks_shows_nothing_twice(fake: StreamServer, cli: Cli) -> None:
    def cut(wire: Wire) -> None:
        wire.accept()
        wire.output(0, b"begun\n")

    fake.script(cut, lambda wire: (fake.finish(the_one(fake), DONE, b"begun\ndone\n"), wire.honest()))
    assert cli("run", "image", "hang").out == b"begun\ndone\n"
    assert fake.asked() == [(None, None), ("6", None)]


def test_following_in_json_prints_a_line_for_each_event(fake: StreamServer, cli: Cli) -> None:
    def gap(wire: Wire) -> None:
        wire.accept()
        wire.say("started", started_at="2026-01-02T03:04:05Z")
        wire.output(0, b"a")
        wire.say("gap", "9", stream="merged", **{"from": 1, "to": 9})
        wire.say("output", "10", stream="merged", offset=9, base64="/w==")
        output = Output(total_bytes=10, kept_bytes=2, gap=(1, 9), truncated="limit")
        wire.kept.record = wire.kept.record.model_copy(update={"state": "ended", "outcome": DONE, "output": output})
        wire.end()

    with Client(fake.url, TOKEN) as client:
        execution = client.create_sandbox("image").start("hang")
    fake.script(gap)
    lines = [json.loads(line) for line in cli("logs", "-f", "--json", execution.id).out.splitlines()]
    assert [line["event"] for line in lines] == ["accepted", "started", "output", "gap", "output", "end"]
    assert lines[1] == {"event": "started", "started_at": "2026-01-02T03:04:05+00:00"}
    assert lines[2] == {"event": "output", "stream": "merged", "offset": 0, "text": "a", "base64": None, "encoding": "utf-8"}
    assert lines[3] == {"event": "gap", "stream": "merged", "from": 1, "to": 9}
    assert (lines[4]["offset"], lines[4]["base64"]) == (9, "/w==")
    assert lines[5]["execution"]["outcome"]["code"] == 7
