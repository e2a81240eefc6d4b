"""Our own stdin, stdout and stderr: closed, full, non-blocking, interrupted."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from remote_env.cli import screen
from tests.unit.cli.conftest import ROOT, Cli
from tests.unit.client.fakeserver import FakeServer


def in_a_shell(redirection: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """`remote-env WORDS… REDIRECTION`; what is not redirected is caught."""
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "remote_env.cli.main", *words]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing_but_what_is_shown(fake: FakeServer, closed: str) -> None:
    shown = b"hi\n" if closed == "2>&-" else b""
    done = in_a_shell(closed, "run", "-i", "image", "echo hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, b"")
    done = in_a_shell(closed, "run", "-i", "image", "false")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_errors_have_their_exit_code_where_stderr_is_closed(fake: FakeServer) -> None:
    assert in_a_shell("2>&-", "exec", "no-such-sandbox", "true").returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written_cancels_the_command_and_says_why(fake: FakeServer) -> None:
    def write() -> None:
        fake.wait_until(lambda: fake.executions)
        fake.write(next(iter(fake.executions)), b"so far\n")

    writer = threading.Thread(target=write)
    writer.start()
    done = in_a_shell(">/dev/full", "run", "image", "hang")
    writer.join()
    assert done.returncode == 123
    assert b"No space left on device" in done.stderr
    assert b"unexpected" not in done.stderr
    [kept] = fake.executions.values()
    assert kept.record.outcome is not None and kept.record.outcome.kind == "cancelled"
    assert [sandbox.state for sandbox in fake.sandboxes.values()] == ["removed"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_messages_that_cannot_be_written_leave_the_exit_code(fake: FakeServer) -> None:
    assert in_a_shell("2>/dev/full", "exec", "no-such-sandbox", "true").returncode == 2


@pytest.mark.parametrize("buffering", [0, -1], ids=["unbuffered", "buffered"])
def test_a_non_blocking_stream_gets_every_byte(buffering: int) -> None:
    data = b"0123456789abcdef" * (1 << 16)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    got: list[bytes] = []

    def read() -> None:
        with open(reader, "rb") as pipe:
            got.append(pipe.read())

    thread = threading.Thread(target=read)
    thread.start()
    with io.TextIOWrapper(open(writer, "wb", buffering), write_through=True) as stream:
        screen.write_bytes(data, stream)
    thread.join()
    assert got == [data]


class _Partial(io.RawIOBase):
    """Takes a few bytes at a time, as a write does that a signal interrupts."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(memoryview(data))[:7]  # type: ignore[arg-type]
        self.taken += part
        return len(part)


def test_a_write_that_takes_only_a_part_is_gone_on_with() -> None:
    raw = _Partial()
    with io.TextIOWrapper(raw, write_through=True) as stream:  # type: ignore[type-var]
        screen.write_bytes(b"all of these bytes, in pieces", stream)
        assert raw.taken == b"all of these bytes, in pieces"


def test_ctrl_c_before_a_command_has_begun_leaves_without_a_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(prog_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "remote_env.cli.app", types.SimpleNamespace(app=interrupted))
    done = cli("ps")
    assert (done.code, done.out, done.err) == (130, b"", "")
