"""Output: every byte of it, or exactly what is said to be kept; whatever its size and content."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote_env import Client, Execution, Sandbox
from remote_env.protocol import INLINE_LIMIT
from tests.engine.conftest import Http
from tests.support.outside import peak_memory, until
from tests.support.server import BUSYBOX, SMALL, Server

FLOOD = 300_000_000  # bytes
FLOOD_LIMIT = 8 << 20  # bytes
PUNCH_STEP = 16 << 20  # bytes by which the file may be ahead of its hole
LINE = b"0123456789abcde\n"
MARGIN = 24 << 20  # bytes of memory that a server may come to need for other reasons than the flood


def spool_file(server: Server, execution: Execution) -> Path:
    return server.data_dir / "spool" / execution.id[-2:] / execution.id


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_flood_stays_small_on_disk_and_in_memory_and_what_is_kept_is_exact(server: Server, client: Client) -> None:
    with client.create_sandbox(BUSYBOX, memory_bytes=SMALL) as sandbox:
        sandbox.run("yes | head -c 1000000", output_limit_bytes=4096)
        before = peak_memory(server.pid)
        execution = sandbox.start(f"yes 0123456789abcde | head -c {FLOOD}", output_limit_bytes=FLOOD_LIMIT)
        largest = 0
        path = spool_file(server, execution)

        def over() -> bool:
            nonlocal largest
            if path.exists():
                largest = max(largest, on_disk(path))
            return execution.refresh().over

        until(over, "the flood ends")
    output, half = execution.record.output, FLOOD_LIMIT // 2
    assert (output.total_bytes, output.kept_bytes, output.truncated) == (FLOOD, FLOOD_LIMIT, "limit")
    assert output.gap == (half, FLOOD - half)
    whole = LINE * (FLOOD // len(LINE))
    expected = whole[:half] + whole[-half:]
    assert output.sha256 == hashlib.sha256(expected).hexdigest()
    assert peak_memory(server.pid) - before < MARGIN  # before we fetch it all
    assert execution.output() == expected
    assert largest <= FLOOD_LIMIT + PUNCH_STEP + (2 << 20)
    assert on_disk(path) <= FLOOD_LIMIT + 2 * 4096 + (64 << 10)


@pytest.mark.parametrize("size", [99, 100, 101, 4096, 100_000])
def test_limit_keeps_head_and_tail(shared: Sandbox, size: int) -> None:
    limit = 100
    execution = shared.run(f"yes 0123456789abcde | head -c {size}", output_limit_bytes=limit)
    whole = (LINE * (size // len(LINE) + 1))[:size]
    output = execution.record.output
    assert output.total_bytes == size
    if size <= limit:
        assert (output.truncated, output.gap, execution.output()) == (None, None, whole)
    else:
        assert (output.truncated, output.gap) == ("limit", (50, size - 50))
        assert execution.output() == whole[:50] + whole[-50:]


@pytest.mark.parametrize("size", [0, 1, INLINE_LIMIT - 1, INLINE_LIMIT, INLINE_LIMIT + 1, 3_000_000])
def test_output_is_whole_whether_it_comes_inline_or_apart(shared: Sandbox, size: int) -> None:
    execution = shared.run(f"yes 0123456789abcde | head -c {size}")
    assert execution.output() == (LINE * (size // len(LINE) + 1))[:size]
    output = execution.record.output
    assert (output.text is not None) == (size <= INLINE_LIMIT)
    assert (output.total_bytes, output.kept_bytes) == (size, size)
    assert output.sha256 == hashlib.sha256(execution.output()).hexdigest()


@pytest.mark.parametrize("content", [bytes(range(256)) * 40, b"\xff\xfe", b"cut: \xc3", b"\0" * 1000, b"\r\n\x1b[0m"])
def test_binary_output_is_kept_byte_for_byte(shared: Sandbox, content: bytes) -> None:
    assert shared.run("cat", stdin=content).output() == content


def test_output_that_is_no_utf8_is_base64_in_json_and_replaced_in_text(shared: Sandbox) -> None:
    execution = shared.run("printf 'a\\377b'")
    output = execution.record.output
    assert (output.text, output.encoding) == (None, "base64")
    assert base64.b64decode(output.base64 or "") == b"a\xffb"
    assert execution.text == "a\ufffdb"


def test_multibyte_character_cut_by_the_limit_is_kept_as_bytes(shared: Sandbox) -> None:
    execution = shared.run("printf 'ééééé'", output_limit_bytes=5)
    assert execution.output() == "ééééé".encode()[:2] + "ééééé".encode()[-3:]
    assert execution.record.output.encoding == "base64"


def test_command_that_says_nothing_leaves_no_file(server: Server, shared: Sandbox) -> None:
    execution = shared.run("true")
    assert (execution.output(), execution.record.output.text) == (b"", "")
    assert execution.record.output.sha256 == hashlib.sha256(b"").hexdigest()
    assert not spool_file(server, execution).exists()


def test_sandbox_cannot_see_the_spool(server: Server, shared: Sandbox) -> None:
    execution = shared.run("echo secret of the first")
    assert spool_file(server, execution).read_text() == "secret of the first\n"
    assert shared.run(f"find / -xdev -name {execution.id} 2>/dev/null; ls {server.data_dir} 2>/dev/null").text == ""


@pytest.fixture
def halfway(shared: Sandbox) -> Iterator[Execution]:
    """A command that has written ten bytes and writes ten more when /go is made."""
    execution = shared.start("rm -f /go; printf 0123456789; while [ ! -e /go ]; do sleep 0.02; done; printf abcdefghij")
    until(lambda: execution.refresh().record.output.total_bytes == 10, "the first half is there")
    yield execution
    shared.run("touch /go")
    execution.wait()


def test_output_can_be_read_while_the_command_runs(http: Http, halfway: Execution) -> None:
    answer = http("GET", f"/v1/executions/{halfway.id}/output", epoch=halfway.epoch, headers={"Range": "bytes=4-"})
    assert (answer.status_code, answer.content) == (206, b"456789")
    assert answer.headers["Content-Range"] == "bytes 4-9/*"
    assert answer.headers["X-Remote-Env-State"] == "running"


def test_reader_at_the_present_end_waits_for_more(http: Http, shared: Sandbox, halfway: Execution) -> None:
    path = f"/v1/executions/{halfway.id}/output"
    nothing = http("GET", f"{path}?wait=0.1", epoch=halfway.epoch, headers={"Range": "bytes=10-"})
    assert (nothing.status_code, nothing.content) == (204, b"")
    shared.run("touch /go")
    more = http("GET", f"{path}?wait=20", epoch=halfway.epoch, headers={"Range": "bytes=10-"})
    assert (more.status_code, more.content) == (206, b"abcdefghij")


def test_follow_gives_all_output_as_it_comes(shared: Sandbox, halfway: Execution) -> None:
    pieces = halfway.follow()
    assert next(pieces) == b"0123456789"
    shared.run("touch /go")
    assert b"".join(pieces) == b"abcdefghij"


@pytest.mark.parametrize(
    ("asked", "status", "content", "told"),
    [
        ("bytes=0-0", 206, b"0", "bytes 0-0/20"),
        ("bytes=5-14", 206, b"56789abcde", "bytes 5-14/20"),
        ("bytes=15-", 206, b"fghij", "bytes 15-19/20"),
        ("bytes=15-999", 206, b"fghij", "bytes 15-19/20"),
        ("bytes=20-", 416, None, "bytes */20"),
        ("lines=1-2", 200, b"0123456789abcdefghij", None),
    ],
)
def test_ended_output_is_served_by_range(
    http: Http, shared: Sandbox, asked: str, status: int, content: bytes | None, told: str | None
) -> None:
    execution = shared.run("printf 0123456789abcdefghij")
    answer = http("GET", f"/v1/executions/{execution.id}/output", epoch=execution.epoch, headers={"Range": asked})
    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, told)
    assert answer.headers["X-Remote-Env-State"] == "ended"
    assert content is None or answer.content == content


def test_range_over_the_gap_gives_head_and_tail_in_a_row(http: Http, shared: Sandbox) -> None:
    execution = shared.run("printf 0123456789abcdefghij", output_limit_bytes=10)
    answer = http("GET", f"/v1/executions/{execution.id}/output", epoch=execution.epoch, headers={"Range": "bytes=3-6"})
    assert (answer.content, answer.headers["Content-Range"]) == (b"34fg", "bytes 3-6/10")
