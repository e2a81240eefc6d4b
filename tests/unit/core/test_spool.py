"""The spool: every byte counted, the head and the tail kept, on real pipes and real disks."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import server
from server import spool
from server.spool import Kept, Spool, SpoolFile, digest, read

ROOT = Path(str(server.__file__)).parent.parent
_PATTERN = random.Random(1).randbytes(1_000_003)  # a prime length, so that no block of it lies like another


def stream(start: int, end: int) -> bytes:
    """Bytes [start, end) of an endless output in which every place can be told from its neighbours."""
    at = start % len(_PATTERN)
    piece = _PATTERN[at : at + end - start]
    while len(piece) < end - start:
        piece += _PATTERN[: end - start - len(piece)]
    return piece


class Pipe:
    """A pipe, both ends here; the read end does not block."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)
        self.end()

    def end(self) -> None:
        """The last writer goes, unless a flood has a write end of its own."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


def take_all(file: SpoolFile, reader: int) -> None:
    while file.take(reader):
        pass


def write_through(file: SpoolFile, total: int, piece: int = 65536) -> None:
    """`total` bytes of the stream from a pipe into the file; this process is both ends."""
    with Pipe() as ends:
        for at in range(0, total, piece):
            os.write(ends.writer, stream(at, min(at + piece, total)))
            take_all(file, ends.reader)


class Flood(threading.Thread):
    """Writes `total` bytes of the stream into a pipe and closes it, as a command would: it blocks when nobody reads."""

    def __init__(self, writer: int, total: int) -> None:
        super().__init__(daemon=True)
        self.writer, self.total = os.dup(writer), total
        self.start()

    def run(self) -> None:
        at = 0
        try:
            while at < self.total:
                at += os.write(self.writer, stream(at, min(at + 262144, self.total)))
        except BrokenPipeError:
            self.total = at  # nobody reads any more
        finally:
            os.close(self.writer)


def wait_readable(reader: int) -> None:
    select.select([reader], [], [], 60)


def assert_true_result(path: Path, file: SpoolFile, total: int, limit: int) -> None:
    """What is kept is the stream's own head and tail, and every way to ask for it agrees."""
    kept, sha256 = file.finish()
    assert kept.total == total
    assert kept.size == min(total, limit)
    if total > limit:
        assert (kept.truncated, kept.head, kept.total - kept.tail) == ("limit", limit // 2, limit - limit // 2)
        assert kept.gap == (kept.head, kept.tail)
    else:
        assert (kept.truncated, kept.gap) == (None, None)
    expected = stream(0, kept.head) + stream(kept.tail, total)
    assert (read(path, kept, 0, kept.size) if kept.size else b"") == expected
    if sha256 is None:
        sha256 = digest(path, kept)
    assert sha256 == hashlib.sha256(expected).hexdigest()


# ------------------------------------------------------------------------------------------------- small and exact

STEP = 8192


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(2, 40_000), st.integers(-3, 3) | st.integers(0, 120_000), st.integers(1, 65536))
def test_head_tail_total_and_sha256_are_exact_for_every_size(limit: int, over: int, piece: int) -> None:
    total = max(0, limit + over)
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "PUNCH_STEP", STEP)
        path = Path(directory) / "ab" / "output"
        file = SpoolFile(path, limit)
        write_through(file, total, max(piece, total // 40 + 1) if total > 65536 * 40 else piece)
        assert_true_result(path, file, total, limit)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.data())
def test_pieces_give_any_range_of_the_kept_bytes(head: int, gap: int, tail: int, data: st.DataObject) -> None:
    whole = stream(0, head + gap + tail)
    kept = Kept(len(whole), head, head + gap, "limit")
    start = data.draw(st.integers(0, kept.size))
    end = data.draw(st.integers(start, kept.size))
    pieces = kept.pieces(start, end)
    joined = whole[:head] + whole[head + gap :]
    assert b"".join(whole[offset : offset + length] for offset, length in pieces) == joined[start:end]
    assert all(length > 0 for _, length in pieces)


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 300_000])
def test_the_result_can_be_asked_for_again(tmp_path: Path, size: int) -> None:
    """An ending that is handled twice: the sha256 is the same one, never that of nothing."""
    file = SpoolFile(tmp_path / "output", 1 << 20)
    write_through(file, size)
    expected = hashlib.sha256(stream(0, size)).hexdigest()
    for _ in range(2):
        kept, sha256 = file.finish()
        assert (kept.total, sha256 or digest(file.path, kept)) == (size, expected)


def test_a_silent_command_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "ab" / "output"
    file = SpoolFile(path, 100)
    with Pipe() as ends:
        assert file.take(ends.reader) is None
        os.close(os.dup(ends.writer))
        assert file.take(ends.reader) is None
    with Pipe() as ends:
        ends.end()
        assert file.take(ends.reader) == 0
    assert file.finish() == (Kept(0, 0, 0, None), hashlib.sha256(b"").hexdigest())
    assert not path.parent.exists()


def test_an_empty_pipe_and_an_ended_one_are_told_apart_after_output_too(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "output", 100)
    with Pipe() as ends:
        os.write(ends.writer, b"x")
        assert (file.take(ends.reader), file.take(ends.reader)) == (1, None)
        ends.end()
        assert file.take(ends.reader) == 0
    file.close()


def test_a_server_that_starts_again_appends_where_the_file_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PUNCH_STEP", STEP)
    path, limit, total = tmp_path / "output", 30_000, 0
    with Pipe() as ends:
        for size in (10_000, 25_000, 1, 60_000, 40_000):
            os.write(ends.writer, stream(total, total + size))
            total += size
            file = SpoolFile(path, limit)
            file.take(ends.reader, 7_000)  # and dies in the middle, the rest is still in the pipe
            take_all(file, ends.reader)
            if total < 130_000:
                file.close()
    assert_true_result(path, file, total, limit)


def test_what_was_purged_or_cut_is_never_taken_for_whole(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "output", 1 << 20)
    write_through(file, 100_000)
    kept, _ = file.finish()
    os.truncate(file.path, 99_999)
    with pytest.raises(OSError, match="shorter"):
        digest(file.path, kept)
    file.path.unlink()
    with pytest.raises(FileNotFoundError):
        read(file.path, kept, 0, 10)


def test_the_directory_makes_removes_and_measures(tmp_path: Path) -> None:
    directory = Spool(tmp_path / "spool")
    file = directory.open("execution-0001", 100)
    write_through(file, 10)
    file.close()
    assert directory.path("execution-0001").read_bytes() == stream(0, 10)
    directory.remove("execution-0001")
    directory.remove("execution-0001")
    assert not directory.path("execution-0001").exists()
    assert 0 < directory.free_bytes() <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize


# ---------------------------------------------------------------------------------------------------------- floods


def test_a_flood_never_takes_more_disk_than_its_limit_and_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, step, total = 4 << 20, 1 << 20, 200 << 20
    monkeypatch.setattr(spool, "PUNCH_STEP", step)
    file = SpoolFile(tmp_path / "output", limit)
    most = 0
    with Pipe() as ends:
        flood = Flood(ends.writer, total)
        ends.end()
        while True:
            taken = file.take(ends.reader)
            if taken is None:
                wait_readable(ends.reader)
            elif taken == 0:
                break
            elif file.path.exists():
                most = max(most, file.path.stat().st_blocks * 512)
        flood.join(60)
    slack = 256 << 10  # bytes; the file system's own blocks at the edges, and its maps
    assert limit < most <= limit + step + slack
    assert_true_result(file.path, file, total, limit)
    assert file.path.stat().st_blocks * 512 <= limit + slack


KILLED_READERS = """
import os, random, signal, sys
from pathlib import Path
from server import spool
from tests.unit.core.test_spool import stream, wait_readable
path, limit, kills, burst = Path(sys.argv[1]), *map(int, sys.argv[2:])
spool.PUNCH_STEP = 1 << 18
chance = random.Random(5)
reader, writer = os.pipe()
go_on, tell = os.pipe()
os.set_blocking(reader, False)
if os.fork() == 0:  # the command: one burst of output each time it is told to go on
    os.close(tell)
    at = 0
    while os.read(go_on, 1):
        end = at + burst
        while at < end:
            at += os.write(writer, stream(at, min(at + chance.randrange(1, 100_000), end)))
    os._exit(0)
os.close(writer)

def start_server():
    server = os.fork()
    if server == 0:
        file = spool.SpoolFile(path, limit)
        while (taken := file.take(reader, chance.randrange(1, 50_000))) != 0:
            if taken is None:
                wait_readable(reader)
        os._exit(0)
    return server

for kill in range(kills):
    server = start_server()
    os.write(tell, b".")
    target = kill * burst + chance.randrange(1, burst)
    while not path.exists() or path.stat().st_size < target:
        pass
    os.kill(server, signal.SIGKILL)
    assert os.waitpid(server, 0)[1] == signal.SIGKILL
os.close(tell)
assert os.waitpid(start_server(), 0)[1] == 0
"""


def test_a_reader_killed_again_and_again_loses_and_doubles_not_one_byte(tmp_path: Path) -> None:
    """The server dies by SIGKILL in the middle of splicing; the next one goes on from the length of the file."""
    path, limit, kills, burst = tmp_path / "output", 3 << 20, 200, 300_000
    script = [sys.executable, "-c", KILLED_READERS, str(path), str(limit), str(kills), str(burst)]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert_true_result(path, SpoolFile(path, limit), kills * burst, limit)


# ------------------------------------------------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own; the parameter gives its mount options."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(directory)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def fill(file: SpoolFile, total: int) -> None:
    """A command writes `total` bytes and ends: it must not be held up by the disk."""
    with Pipe() as ends:
        flood = Flood(ends.writer, total)
        ends.end()
        while (taken := file.take(ends.reader)) != 0:
            if taken is None:
                wait_readable(ends.reader)
        flood.join(60)
        assert not flood.is_alive()


def assert_cut_by_the_disk(file: SpoolFile, total: int, limit: int) -> Kept:
    kept = file.kept()
    assert (kept.total, kept.truncated, kept.tail) == (total, "disk_full", total)
    assert 0 < kept.head < total and kept.size == kept.head <= limit
    assert read(file.path, kept, 0, kept.size) == stream(0, kept.head)
    assert digest(file.path, kept) == hashlib.sha256(stream(0, kept.head)).hexdigest()
    return kept


@pytest.mark.parametrize("small_disk", ["size=2m"], indirect=True)
@pytest.mark.parametrize("limit", [64 << 20, 1 << 20], ids=["below the limit", "while the tail moves"])
def test_on_a_full_disk_the_command_goes_on_and_the_count_stays_exact(small_disk: Path, limit: int) -> None:
    (small_disk / "others").write_bytes(bytes(1 << 20))
    file = SpoolFile(small_disk / "output", limit)
    fill(file, 9_000_000)
    kept = assert_cut_by_the_disk(file, 9_000_000, limit)
    assert file.finish()[0] == kept
    assert file.path.stat().st_size == 9_000_000  # LENGTH


@pytest.mark.parametrize("small_disk", ["size=2m"], indirect=True)
def test_a_full_disk_is_remembered_over_the_server_s_death(small_disk: Path) -> None:
    """What was not written must not come back as zeros that pass for output, even when there is room again."""
    others = small_disk / "others"
    others.write_bytes(bytes(1 << 20))
    try:
        os.setxattr(others, "user.remote_env.test", b"1")
    except OSError as error:
        pytest.skip(f"this kernel's tmpfs has no user attributes: {error.strerror}")
    file = SpoolFile(small_disk / "output", 64 << 20)
    fill(file, 3_000_000)
    before = assert_cut_by_the_disk(file, 3_000_000, 64 << 20)
    file.close()
    others.unlink()
    again = SpoolFile(small_disk / "output", 64 << 20)
    write_through(again, 1000)
    kept = assert_cut_by_the_disk(again, 3_001_000, 64 << 20)
    assert kept.head == before.head
    again.close()


@pytest.mark.parametrize("small_disk", ["nr_inodes=1"], indirect=True)
def test_output_that_gets_no_file_at_all_is_counted(small_disk: Path) -> None:
    file = SpoolFile(small_disk / "output", 1 << 20)
    fill(file, 300_000)
    assert file.finish() == (Kept(300_000, 0, 300_000, "disk_full"), hashlib.sha256(b"").hexdigest())


def test_a_file_that_may_grow_no_further_is_like_a_full_disk(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, or a file system's largest file: not even the length can be written down any more."""
    file = SpoolFile(tmp_path / "output", 64 << 20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        fill(file, 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert assert_cut_by_the_disk(file, 1_000_000, 64 << 20).head == 200_000
    file.close()
