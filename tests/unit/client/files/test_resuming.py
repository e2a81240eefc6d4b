"""Downloads that go on where an earlier one ended."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from remote_env import (
    LinkLost,
    Progress,
    Sandbox,
)
from remote_env.driving import drive
from remote_env.hashed import framed
from tests.unit.client.fakefiles import FakeFiles
from tests.unit.client.fakeserver import CUT_BEFORE, pattern_bytes
from tests.unit.client.files.conftest import FILES, RANGE, cut_at, ranges, replace_file


def stop_after(size: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.bytes > size:
            raise KeyboardInterrupt

    return stop


@pytest.fixture
def half(sandbox: Sandbox, fake: FakeFiles, here: Path, small_ranges: None) -> bytes:
    """Content of /f, whose download to here/f was interrupted after three ranges and a half."""
    content = pattern_bytes(8 * RANGE)
    (fake.root / "f").write_bytes(content)
    with pytest.raises(KeyboardInterrupt):
        sandbox.download("/f", here / "f", on_progress=stop_after(3 * RANGE + 1))
    assert sorted(each.name for each in here.iterdir()) == ["f.part", "f.part.json"]
    assert (here / "f.part").read_bytes() == content[: 3 * RANGE]
    assert stat.S_IMODE((here / "f.part").stat().st_mode) == 0o600  # what may be nobody else's is at no time anybody's
    fake.requests.clear()
    return content


def test_a_download_goes_on_where_an_earlier_one_ended(sandbox: Sandbox, fake: FakeFiles, here: Path, half: bytes) -> None:
    done = sandbox.download("/f", here / "f")
    assert (here / "f").read_bytes() == half
    assert (done.bytes, done.sha256) == (len(half), None)
    assert ranges(fake)[0] == f"bytes={3 * RANGE}-{4 * RANGE - 1}"
    assert [each.name for each in here.iterdir()] == ["f"]


def test_a_part_of_another_version_is_thrown_away(sandbox: Sandbox, fake: FakeFiles, here: Path, half: bytes) -> None:
    replace_file(fake.root / "f", b"new" * RANGE)
    sandbox.download("/f", here / "f")
    assert (here / "f").read_bytes() == b"new" * RANGE


@pytest.mark.parametrize(("touched", "start"), [(0, 0), (RANGE, RANGE), (3 * RANGE - 1, 2 * RANGE)])
def test_a_part_that_was_touched_counts_up_to_there(
    sandbox: Sandbox, fake: FakeFiles, here: Path, half: bytes, touched: int, start: int
) -> None:
    with open(here / "f.part", "r+b") as file:
        file.seek(touched)
        file.write(b"?")
    sandbox.download("/f", here / "f")
    assert (here / "f").read_bytes() == half
    assert ranges(fake)[0].startswith(f"bytes={start}-")


@pytest.mark.parametrize("notes", ["", "no json", "[]", "{}", '{"etag": "x", "ranges": [[10000000, "y"]]}', '{"etag": "x", "ranges": [7]}'])
def test_notes_that_make_no_sense_are_ignored(sandbox: Sandbox, here: Path, half: bytes, notes: str) -> None:
    (here / "f.part.json").write_text(notes)
    sandbox.download("/f", here / "f")
    assert (here / "f").read_bytes() == half
    assert [each.name for each in here.iterdir()] == ["f"]


def test_without_resume_nothing_is_left_and_nothing_is_taken_up(sandbox: Sandbox, fake: FakeFiles, here: Path, half: bytes) -> None:
    with pytest.raises(KeyboardInterrupt):
        sandbox.download("/f", here / "g", resume=False, on_progress=stop_after(3 * RANGE))
    sandbox.download("/f", here / "f", resume=False)
    assert (here / "f").read_bytes() == half
    assert sorted(each.name for each in here.iterdir()) == ["f", "f.part", "f.part.json"]


def test_two_downloads_of_one_name_do_not_meet(sandbox: Sandbox, here: Path, half: bytes) -> None:
    inner: list[bytes] = []

    def meanwhile(progress: Progress) -> None:
        if not inner:
            inner.append(b"")
            sandbox.download("/f", here / "f")
            inner[0] = (here / "f").read_bytes()

    sandbox.download("/f", here / "f", on_progress=meanwhile)
    assert inner == [half]
    assert (here / "f").read_bytes() == half
    assert [each.name for each in here.iterdir()] == ["f"]


def test_a_download_replaces_what_a_link_leads_to(sandbox: Sandbox, here: Path) -> None:
    sandbox.write("/f", b"new")
    (here / "real").write_bytes(b"old")
    (here / "link").symlink_to("real")
    sandbox.download("/f", here / "link")
    assert (here / "link").is_symlink()
    assert (here / "real").read_bytes() == b"new"


def test_a_download_does_not_go_into_a_directory(sandbox: Sandbox, here: Path) -> None:
    sandbox.write("/f", b"new")
    with pytest.raises(IsADirectoryError):
        sandbox.download("/f", here)
    assert list(here.iterdir()) == []


def test_a_tree_as_a_tar_is_not_begun_twice(sandbox: Sandbox, fake: FakeFiles, tree: Path) -> None:
    sandbox.upload(tree, "/t")
    got = bytearray()
    fake.on("GET", FILES, CUT_BEFORE, cut_at(5000))
    with pytest.raises(LinkLost):
        drive(sandbox.files.read_tree("/t", got.extend))
    assert 0 < len(got) <= 5000


def test_frames_of_the_wire_are_content_and_digest() -> None:
    assert b"".join(framed([b"ab", b"", b"c"])) == b"abc" + hashlib.sha256(b"abc").digest()
