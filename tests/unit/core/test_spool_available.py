"""What of an output can still be read while it grows, and afterwards: never a byte that is not the command's own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import spool
from server.spool import Kept, Spool, SpoolFile, read_at
from tests.unit.core.test_spool import Pipe, fill, small_disk, stream, take_all, write_through

__all__ = ["small_disk"]  # a fixture

STEP = 8192


def followed(path: Path, source: SpoolFile | Kept, total: int, start: int = 0) -> list[tuple[int, int]]:
    """Read all there is from `start` on, as a follower does, and hold it against the stream. Returns the gaps."""
    at, gaps = start, []
    while True:
        begin, end = source.available(at)
        assert at <= begin <= end <= max(total, start)
        if begin > at:
            gaps.append((at, begin))
        if begin == end:
            assert begin == max(total, start)
            return gaps
        assert read_at(path, begin, end) == stream(begin, end)
        at = end


@settings(derandomize=True, max_examples=120, deadline=None)
@given(st.integers(2, 40_000), st.lists(st.integers(0, 60_000), max_size=5), st.booleans(), st.data())
def test_what_is_said_to_be_available_is_the_stream_s_own_and_nothing_else_is_missing(
    limit: int, parts: list[int], server_dies: bool, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "PUNCH_STEP", STEP)
        path = Path(directory) / "output"
        file, total = SpoolFile(path, limit), 0
        for part in parts:
            with Pipe() as ends:
                for at in range(total, total + part, 16_384):
                    os.write(ends.writer, stream(at, min(at + 16_384, total + part)))
                    take_all(file, ends.reader)
            total += part
            gaps = followed(path, file, total, data.draw(st.integers(0, total + 1)))
            assert total > limit or not gaps
            assert sum(end - start for start, end in gaps) <= max(0, total - limit)
        if server_dies:
            file.close()
            file = SpoolFile(path, limit)
            gaps = followed(path, file, total)
            assert gaps == [] if total <= limit else gaps in ([], [(limit // 2, total - (limit - limit // 2))])
        kept, _ = file.finish()
        if total:
            followed(path, file, total)  # who was about to read when it ended
        assert followed(path, kept, total) == ([] if total <= limit else [(kept.head, kept.tail)])


def test_a_reader_that_keeps_up_sees_no_gap_however_far_beyond_the_limit(tmp_path: Path) -> None:
    file, at = SpoolFile(tmp_path / "output", 100), 0
    for _ in range(50):
        with Pipe() as ends:
            os.write(ends.writer, stream(at, at + 1000))
            take_all(file, ends.reader)
        assert file.available(at) == (at, at + 1000)
        assert read_at(file.path, at, at + 1000) == stream(at, at + 1000)
        at += 1000
    assert file.available(at) == (at, at)
    file.close()


def test_who_comes_after_the_end_gets_head_and_tail(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "output", 100)
    write_through(file, 1000)
    kept, _ = file.finish()
    assert [kept.available(at) for at in (0, 49, 50, 949, 950, 999, 1000)] == [
        (0, 50), (49, 50), (950, 1000), (950, 1000), (950, 1000), (999, 1000), (1000, 1000),
    ]  # fmt: skip


def test_output_without_a_file_has_nothing_to_read(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "output", 100)
    assert file.available(0) == (0, 0)
    assert file.finish()[0].available(0) == (0, 0)


@pytest.mark.parametrize("small_disk", ["size=2m"], indirect=True)
@pytest.mark.parametrize("limit", [64 << 20, 1 << 20], ids=["below the limit", "while the tail moves"])
def test_what_came_when_the_disk_was_full_is_gone_and_never_read_as_zeros(small_disk: Path, limit: int) -> None:
    (small_disk / "others").write_bytes(bytes(1 << 20))
    file = SpoolFile(small_disk / "output", limit)
    fill(file, 5_000_000)
    gaps = followed(file.path, file, 5_000_000)
    assert gaps[-1][1] == 5_000_000
    kept, _ = file.finish()
    assert followed(file.path, kept, 5_000_000) == [(kept.head, 5_000_000)]


@pytest.mark.parametrize("small_disk", ["nr_inodes=1"], indirect=True)
def test_output_that_got_no_file_is_one_gap(small_disk: Path) -> None:
    file = SpoolFile(small_disk / "output", 1 << 20)
    fill(file, 300_000)
    assert (file.available(0), file.finish()[0].available(0)) == ((300_000, 300_000), (300_000, 300_000))


def test_stderr_has_a_file_of_its_own_and_goes_with_the_rest(tmp_path: Path) -> None:
    directory = Spool(tmp_path / "spool")
    out, err = directory.open("execution-0001", 100, "stdout"), directory.open("execution-0001", 100, "stderr")
    for file, total in ((out, 10), (err, 20)):
        write_through(file, total)
        file.close()
    assert (out.path.name, err.path.name) == ("execution-0001", "execution-0001.err")
    assert (out.path.stat().st_size, err.path.stat().st_size) == (10, 20)
    directory.remove("execution-0001")
    assert not out.path.exists() and not err.path.exists()
