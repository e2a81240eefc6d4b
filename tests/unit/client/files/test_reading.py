"""Files over a link that breaks: what is read is whole and right."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from remote_env import (
    Damaged,
    DirectoryNotEmpty,
    FileChanged,
    InvalidSpec,
    Sandbox,
)
from remote_env.driving import drive
from tests.unit.client.faces import threads_only
from tests.unit.client.fakefiles import FakeFiles
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, pattern_bytes, refusal
from tests.unit.client.files.conftest import AS_IT_IS, FILES, RANGE, cut_at, damaged_at, ranges, replace_file

BOTH_FACES = True


def test_what_was_written_is_read_again(sandbox: Sandbox) -> None:
    written = sandbox.write("/a/b.txt", "héllo", mode=0o640)
    assert (written.path, written.size, written.mode) == ("/a/b.txt", 6, 0o640)
    assert written.sha256 == hashlib.sha256("héllo".encode()).hexdigest()
    assert sandbox.read_text("/a/b.txt") == "héllo"
    assert sandbox.read_bytes("/a/b.txt", offset=1, length=2) == "é".encode()
    assert sandbox.read_bytes("/a/b.txt", offset=5, length=100) == b"o"
    assert sandbox.read_bytes("/a/b.txt", offset=6) == b""
    assert sandbox.read_bytes("/a/b.txt", length=0) == b""


def test_an_empty_file_is_no_error(sandbox: Sandbox, here: Path) -> None:
    sandbox.write("/empty", b"")
    assert sandbox.read_bytes("/empty") == b""
    assert sandbox.download("/empty", here / "empty").bytes == 0
    assert (here / "empty").read_bytes() == b""


def test_a_file_object_is_written_from_its_beginning(sandbox: Sandbox) -> None:
    file = io.BytesIO(b"0123456789")
    file.seek(5)
    sandbox.write("/digits", file)
    assert sandbox.read_bytes("/digits") == b"0123456789"


def test_files_are_looked_at_listed_made_and_removed(sandbox: Sandbox, fake: FakeFiles) -> None:
    assert sandbox.make_directory("/d/e").type == "directory"
    sandbox.write("/d/b", b"b")
    sandbox.write("/d/a", b"a")
    (fake.root / "d" / "nowhere").symlink_to("missing")
    assert [(each.name, each.type) for each in sandbox.list("/d")] == [
        ("a", "file"), ("b", "file"), ("e", "directory"), ("nowhere", "symlink"),
    ]  # fmt: skip
    assert sandbox.stat("/d/nowhere", follow=False).target == "missing"
    assert (sandbox.exists("/d/a"), sandbox.exists("/d/c"), sandbox.exists("/d/nowhere")) == (True, False, False)
    with pytest.raises(DirectoryNotEmpty):
        sandbox.remove("/d")
    sandbox.remove("/d", recursive=True)
    assert not sandbox.exists("/d")
    assert sandbox.gone is None  # a path's removal is not the sandbox's


def test_a_forgotten_path_does_not_remove_the_sandbox(sandbox: Sandbox) -> None:
    for path in (None, ""):
        with pytest.raises((InvalidSpec, TypeError)):
            sandbox.remove(path)  # type: ignore[call-overload]
    assert sandbox.gone is None


def test_a_path_of_any_bytes_arrives_as_it_is(sandbox: Sandbox, fake: FakeFiles) -> None:
    for name in ("/ü &?#=%41+", "/a\nb", "relative/x"):
        sandbox.write(name, b"x")
        assert sandbox.read_bytes(name) == b"x"
    sandbox.exists(os.fsdecode(b"/\xff"))
    assert fake.seen("GET", FILES)[-1].query["path"] == "/\ufffd"  # as the fake decodes what is no UTF-8: the byte was sent
    with pytest.raises(InvalidSpec):
        sandbox.read_bytes("a\0b")


def test_small_reads_and_writes_share_one_connection(sandbox: Sandbox, fake: FakeFiles) -> None:
    sandbox.write("/f", b"content")
    before = fake.connections
    for _ in range(20):
        sandbox.read_bytes("/f")
        sandbox.write("/f", b"content")
        sandbox.stat("/f")
    assert fake.connections == before


@pytest.mark.usefixtures("small_ranges")
def test_a_read_that_breaks_goes_on_where_it_was(sandbox: Sandbox, fake: FakeFiles) -> None:
    content = pattern_bytes(5 * RANGE + 17)
    (fake.root / "f").write_bytes(content)
    fake.on("GET", FILES, AS_IT_IS, AS_IT_IS, cut_at(700), CUT_BEFORE, CUT_AFTER)
    assert sandbox.read_bytes("/f") == content
    starts = [int(each.removeprefix("bytes=").partition("-")[0]) for each in ranges(fake)]
    assert starts[:6] == [0, RANGE, 2 * RANGE, 2 * RANGE, 2 * RANGE, 2 * RANGE]
    assert starts == sorted(starts)


@pytest.mark.parametrize("index", [0, RANGE - 1, RANGE, RANGE + 31])
@pytest.mark.usefixtures("small_ranges")
def test_a_damaged_range_is_fetched_again(sandbox: Sandbox, fake: FakeFiles, index: int) -> None:
    content = pattern_bytes(3 * RANGE)
    (fake.root / "f").write_bytes(content)
    fake.on("GET", FILES, damaged_at(index), damaged_at(index))
    assert sandbox.read_bytes("/f") == content


def test_damage_that_does_not_end_is_told(sandbox: Sandbox, fake: FakeFiles, here: Path) -> None:
    (fake.root / "f").write_bytes(b"content")
    fake.on("GET", FILES, *[damaged_at(0)] * 3)
    with pytest.raises(Damaged):
        sandbox.read_bytes("/f")
    fake.on("GET", FILES, AS_IT_IS, *[damaged_at(0)] * 3)
    with pytest.raises(Damaged):
        sandbox.download("/f", here / "f")
    assert list(here.iterdir()) == []


@pytest.mark.usefixtures("small_ranges")
def test_a_file_that_changes_while_it_is_read_is_read_anew(sandbox: Sandbox, fake: FakeFiles) -> None:
    (fake.root / "f").write_bytes(pattern_bytes(3 * RANGE))
    changed = b"x" * (2 * RANGE)
    fake.on("GET", FILES, AS_IT_IS, replace(AS_IT_IS, before=lambda: replace_file(fake.root / "f", changed)))
    assert sandbox.read_bytes("/f") == changed


@pytest.mark.usefixtures("small_ranges")
def test_a_file_that_never_rests_is_told(sandbox: Sandbox, fake: FakeFiles) -> None:
    (fake.root / "f").write_bytes(pattern_bytes(3 * RANGE))
    fake.on("GET", FILES, *[AS_IT_IS, refusal("changed")] * 3)
    with pytest.raises(FileChanged):
        sandbox.read_bytes("/f")


@pytest.mark.usefixtures("small_ranges")
@threads_only
def test_what_is_passed_on_is_passed_on_once(sandbox: Sandbox, fake: FakeFiles) -> None:
    content = pattern_bytes(4 * RANGE)
    (fake.root / "f").write_bytes(content)
    fake.on("GET", FILES, AS_IT_IS, cut_at(100), damaged_at(5))
    got = bytearray()
    done = drive(sandbox.files.read_into("/f", got.extend))
    assert bytes(got) == content
    assert done.sha256 == hashlib.sha256(content).hexdigest()
