"""stdout and stderr apart, in real containers: each whole, by itself, and through the server's death."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from remote_env import Client, Execution, InvalidSpec, Sandbox
from tests.engine.conftest import Http
from tests.support.outside import runs, until
from tests.support.server import BUSYBOX, SMALL, Server

FLOOD = 40_000_000  # bytes, on each stream
FLOOD_LIMIT = 1 << 20  # bytes
OUT_LINE, ERR_LINE = b"0123456789abcde\n", b"fedcba987654321\n"


def both(execution: Execution) -> tuple[bytes, bytes]:
    return execution.output(), execution.stderr()


def spool_files(server: Server, execution: Execution) -> list[Path]:
    return sorted((server.data_dir / "spool" / execution.id[-2:]).glob(f"{execution.id}*"))


def has_written(execution: Execution, more_than: int) -> bool:
    return execution.refresh().record.output.total_bytes > more_than


def repeated(line: bytes, size: int) -> bytes:
    return (line * (size // len(line) + 1))[:size]


@pytest.mark.parametrize("code", [0, 3, 255])
def test_streams_come_apart_with_the_exit_code(shared: Sandbox, code: int) -> None:
    execution = shared.run(f"echo one; echo two >&2; echo three; exit {code}", streams="split")
    assert (both(execution), execution.returncode) == ((b"one\nthree\n", b"two\n"), code)
    assert execution.record.streams == "split"


def test_merged_stays_what_it_was(shared: Sandbox) -> None:
    execution = shared.run("echo one; echo two >&2; echo three")
    assert (execution.output(), execution.record.streams, execution.record.stderr) == (b"one\ntwo\nthree\n", "merged", None)
    with pytest.raises(InvalidSpec, match="merged"):
        execution.stderr()


def test_binary_stdin_goes_through_to_both(shared: Sandbox) -> None:
    content = bytes(range(256)) * 300
    assert both(shared.run("tee /dev/stderr", stdin=content, streams="split")) == (content, content)


@pytest.mark.parametrize("user", ["root", "app"])
def test_dev_stdout_and_dev_stderr_can_be_opened(shared: Sandbox, user: str) -> None:
    execution = shared.run("echo one > /dev/stdout; echo two > /dev/stderr; id -un >&2", user=user, streams="split")
    assert both(execution) == (b"one\n", b"two\n" + user.encode() + b"\n")


def test_streams_that_say_nothing_leave_no_file_and_the_other_is_whole(server: Server, shared: Sandbox) -> None:
    quiet, only_err = shared.run("true", streams="split"), shared.run("echo err >&2", streams="split")
    assert (both(quiet), both(only_err)) == ((b"", b""), (b"", b"err\n"))
    assert quiet.record.stderr is not None and quiet.record.stderr.sha256 == hashlib.sha256(b"").hexdigest()
    assert spool_files(server, quiet) == []
    assert [path.name for path in spool_files(server, only_err)] == [f"{only_err.id}.err"]


def test_floods_on_both_streams_at_once_are_whole_and_neither_holds_up_the_other(debian: Sandbox) -> None:
    out, err = (repeated(line, 3_000_000) for line in (OUT_LINE, ERR_LINE))
    command = "yes 0123456789abcde | head -c 3000000 & yes fedcba987654321 | head -c 3000000 >&2; wait"
    assert both(debian.run(command, streams="split")) == (out, err)
    first_all_of_stderr = "yes fedcba987654321 | head -c 3000000 >&2; yes 0123456789abcde | head -c 3000000"
    assert both(debian.run(first_all_of_stderr, streams="split")) == (out, err)


def test_limit_holds_for_each_stream_by_itself(server: Server, shared: Sandbox) -> None:
    command = f"yes 0123456789abcde | head -c {FLOOD} & yes fedcba987654321 | head -c {FLOOD + 7} >&2; wait"
    execution = shared.run(command, output_limit_bytes=FLOOD_LIMIT, streams="split")
    half = FLOOD_LIMIT // 2
    for output, kept, line, size in (
        (execution.record.output, execution.output(), OUT_LINE, FLOOD),
        (execution.record.stderr, execution.stderr(), ERR_LINE, FLOOD + 7),
    ):
        assert output is not None
        assert (output.total_bytes, output.kept_bytes, output.gap) == (size, FLOOD_LIMIT, (half, size - half))
        whole = repeated(line, size)
        assert kept == whole[:half] + whole[-half:]
        assert output.sha256 == hashlib.sha256(kept).hexdigest()
    assert all(path.stat().st_blocks * 512 <= FLOOD_LIMIT + (128 << 10) for path in spool_files(server, execution))


def test_timed_out_command_keeps_what_both_streams_said(shared: Sandbox) -> None:
    execution = shared.run("echo out; echo err >&2; sleep 1000", timeout_s=0.3, grace_s=0.1, streams="split")
    assert execution.outcome is not None and execution.outcome.kind == "timed_out"
    assert both(execution) == (b"out\n", b"err\n")


def test_background_child_that_holds_stderr_alone_is_told_and_lives_on(shared: Sandbox) -> None:
    shared.run("rm -f /child")
    execution = shared.run("(sleep 0.5; echo late >&2; touch /child) >/dev/null & echo started", streams="split")
    record = execution.record
    assert record.stderr is not None
    assert (both(execution), record.output.output_open, record.stderr.output_open) == ((b"started\n", b""), True, True)
    until(lambda: shared.run("test -e /child").returncode == 0, "the child has written, and died of nothing")


def test_streams_are_served_by_name_while_it_runs_and_after(http: Http, shared: Sandbox) -> None:
    shared.run("rm -f /go")
    execution = shared.start("printf out; printf error >&2; while [ ! -e /go ]; do sleep 0.02; done; printf ', end' >&2", streams="split")
    path = f"/v1/executions/{execution.id}/output"

    def total() -> int:
        record = execution.refresh().record
        assert record.stderr is not None
        return record.output.total_bytes + record.stderr.total_bytes

    until(lambda: total() == 8, "both are there")
    for query, content in (("", b"out"), ("?stream=stdout", b"out"), ("?stream=stderr", b"error")):
        answer = http("GET", path + query, epoch=execution.epoch)
        assert (answer.status_code, answer.content, answer.headers["X-Remote-Env-State"]) == (200, content, "running")
    shared.run("touch /go")
    more = http("GET", f"{path}?stream=stderr&wait=20", epoch=execution.epoch, headers={"Range": "bytes=5-"})
    assert (more.status_code, more.content) == (206, b", end")
    execution.wait()
    for query, content in (("", b"out"), ("?stream=stdout", b"out"), ("?stream=stderr", b"error, end")):
        answer = http("GET", path + query, epoch=execution.epoch)
        assert (answer.status_code, answer.content, answer.headers["X-Remote-Env-State"]) == (200, content, "ended")
    merged = shared.run("true")
    for eid, stream, status, code in (
        (execution.id, "merged", 409, "wrong_state"),
        (merged.id, "stderr", 409, "wrong_state"),
        (merged.id, "stdout", 409, "wrong_state"),
        (execution.id, "stdin", 422, "invalid"),
    ):
        refused = http("GET", f"/v1/executions/{eid}/output?stream={stream}", epoch=execution.epoch)
        assert (refused.status_code, refused.json()["code"]) == (status, code)


def test_listed_executions_say_their_streams_without_the_text(client: Client, shared: Sandbox, http: Http) -> None:
    execution = shared.run("echo out; echo err >&2", streams="split")
    (listed,) = http("GET", f"/v1/executions?sandbox_id={shared.id}&limit=1").json()["executions"]
    assert (listed["id"], listed["streams"], listed["stderr"]["total_bytes"], listed["stderr"]["text"]) == (execution.id, "split", 4, None)


def test_purge_erases_both_streams(server: Server, client: Client) -> None:
    sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
    execution = sandbox.run("echo out; echo err >&2", streams="split")
    assert len(spool_files(server, execution)) == 2
    sandbox.remove(purge=True)
    until(lambda: spool_files(server, execution) == [], "both are erased")
    record = client.execution(execution.id).record
    assert record.stderr is not None and record.output.purged and record.stderr.purged


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_server_that_dies_hands_both_streams_to_the_next_and_no_byte_is_missing(
    make_server: Callable[..., Server], how: signal.Signals
) -> None:
    server = make_server().start()
    lines = 20_000  # several pipes' worth on each stream: it cannot get far while no server reads
    command = f"echo ran >> /ran; i=0; while [ $i -lt {lines} ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; exit 7"
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        executions = [sandbox.start(command, streams="split") for _ in range(3)]
        for written in (0, 50_000, 100_000):
            until(partial(has_written, executions[0], written), "it has got on")
            if how is signal.SIGKILL:
                server.kill()
            else:
                server.stop()
            server.start()
        for execution in executions:
            execution.wait()
            assert execution.returncode == 7
            assert execution.output() == b"".join(b"out %d\n" % i for i in range(lines))
            assert execution.stderr() == b"".join(b"err %d\n" % i for i in range(lines))
        assert runs(sandbox) == {"ran": 3}
