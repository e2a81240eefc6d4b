"""Files and trees from here to there and back."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from remote_env import (
    FileChanged,
    LinkLost,
    Progress,
    RemoteEnvError,
    Sandbox,
)
from tests.unit.client.faces import threads_only
from tests.unit.client.fakefiles import FakeFiles
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, Fault, pattern_bytes, refusal
from tests.unit.client.files.conftest import AS_IT_IS, FILES, cut_at, damaged_at, shape

BOTH_FACES = True


def test_a_tree_comes_back_as_it_went(sandbox: Sandbox, fake: FakeFiles, here: Path, tree: Path) -> None:
    sent = sandbox.upload(tree, "/work/tree")
    assert (sent.files, sent.skipped) == (5, {})
    assert shape(fake.root / "work" / "tree") == shape(tree)
    came = sandbox.download("/work/tree", here / "back")
    assert (came.files, came.bytes) == (5, sent.bytes)
    assert shape(here / "back") == shape(tree)
    assert sorted(each.name for each in here.iterdir()) == ["back", "tree"]


def test_a_new_directory_gets_the_mode_of_the_tree_and_one_that_is_there_keeps_its_own(
    sandbox: Sandbox, fake: FakeFiles, here: Path, tree: Path
) -> None:
    tree.chmod(0o700)
    (fake.root / "old").mkdir(mode=0o755)
    sandbox.upload(tree, "/old")
    sandbox.upload(tree, "/new")
    assert [stat.S_IMODE((fake.root / name).stat().st_mode) for name in ("old", "new")] == [0o755, 0o700]
    (here / "old").mkdir(mode=0o755)
    sandbox.download("/new", here / "old")
    sandbox.download("/new", here / "new")
    assert [stat.S_IMODE((here / name).stat().st_mode) for name in ("old", "new")] == [0o755, 0o700]


def test_a_tree_is_merged_with_a_directory_that_is_there(sandbox: Sandbox, here: Path, tree: Path) -> None:
    sandbox.upload(tree, "/t")
    target = here / "target"
    (target / "sub").mkdir(parents=True)
    (target / "own").write_text("stays")
    (target / "run.sh").write_text("replaced")
    sandbox.download("/t", target)
    assert (target / "own").read_text() == "stays"
    assert (target / "run.sh").read_text() == "#!/bin/sh\n"
    assert (target / "sub" / "data").read_bytes() == pattern_bytes(70_000)


def test_a_tree_is_not_written_through_a_link_that_is_there(sandbox: Sandbox, here: Path, tree: Path) -> None:
    sandbox.upload(tree, "/t")
    elsewhere, target = here / "elsewhere", here / "target"
    elsewhere.mkdir()
    target.mkdir()
    (target / "sub").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        sandbox.download("/t", target)
    assert list(elsewhere.iterdir()) == []
    assert [each.name for each in target.iterdir()] == ["sub"]


@pytest.mark.parametrize("fault", [cut_at(600), cut_at(75_000), damaged_at(3000), CUT_AFTER])
def test_a_tree_that_breaks_off_begins_again_and_leaves_no_trace(
    sandbox: Sandbox, fake: FakeFiles, here: Path, tree: Path, fault: Fault
) -> None:
    sandbox.upload(tree, "/t")
    fake.on("GET", FILES, AS_IT_IS, fault)
    sandbox.download("/t", here / "back")
    assert shape(here / "back") == shape(tree)
    assert sorted(each.name for each in here.iterdir()) == ["back", "tree"]


def test_a_server_that_stays_away_for_a_while_costs_a_tree_nothing(sandbox: Sandbox, fake: FakeFiles, here: Path, tree: Path) -> None:
    """Only what breaks off after something came counts as a try: a server that starts again is waited for."""
    sandbox.upload(tree, "/t")
    fake.on("GET", FILES, AS_IT_IS, cut_at(75_000), *[CUT_BEFORE] * 12)
    sandbox.download("/t", here / "back")
    assert shape(here / "back") == shape(tree)


def test_a_tree_that_always_breaks_off_is_given_up(sandbox: Sandbox, fake: FakeFiles, here: Path, tree: Path) -> None:
    sandbox.upload(tree, "/t")
    fake.on("GET", FILES, AS_IT_IS, *[cut_at(75_000)] * 100)
    with pytest.raises(LinkLost):
        sandbox.download("/t", here / "back")
    assert [each.name for each in here.iterdir()] == ["tree"]


def test_an_upload_of_a_tree_that_breaks_is_sent_again(sandbox: Sandbox, fake: FakeFiles, tree: Path) -> None:
    fake.on("PUT", FILES, CUT_AFTER, refusal("damaged"))
    sandbox.upload(tree, "/t")
    assert shape(fake.root / "t") == shape(tree)


def test_what_is_no_file_is_left_out_and_told(sandbox: Sandbox, fake: FakeFiles, tree: Path) -> None:
    os.mkfifo(tree / "sub" / "fifo")
    assert sandbox.upload(tree, "/t").skipped == {"sub/fifo": "not_regular"}
    assert not (fake.root / "t" / "sub" / "fifo").exists()


def test_a_file_keeps_its_mode_both_ways(sandbox: Sandbox, here: Path) -> None:
    (here / "run").write_text("x")
    (here / "run").chmod(0o751)
    sent = sandbox.upload(here / "run", "/run")
    assert sent.sha256 == hashlib.sha256(b"x").hexdigest()
    assert sandbox.stat("/run").mode == 0o751
    assert sandbox.download("/run", here / "back").sha256 == sent.sha256
    assert stat.S_IMODE((here / "back").stat().st_mode) == 0o751


def test_a_local_file_that_is_missing_or_unfit_is_the_systems_own_error(sandbox: Sandbox, fake: FakeFiles, here: Path) -> None:
    os.mkfifo(here / "fifo")
    for name in ("missing", "fifo"):
        with pytest.raises(OSError) as raised:
            sandbox.upload(here / name, "/f")
        assert not isinstance(raised.value, RemoteEnvError)
    assert fake.seen("PUT", FILES) == []


def test_a_file_that_changes_while_it_is_sent_is_told_and_not_made(sandbox: Sandbox, fake: FakeFiles, here: Path) -> None:
    (here / "growing").write_bytes(b"x" * 3_000_000)

    def shrink(_: Progress) -> None:
        os.truncate(here / "growing", 1_000_000)

    with pytest.raises(FileChanged):
        sandbox.upload(here / "growing", "/f", on_progress=shrink)
    assert not (fake.root / "f").exists()


def test_progress_ends_at_the_total(sandbox: Sandbox, here: Path, tree: Path) -> None:
    (here / "f").write_bytes(b"x" * 1_000_000)
    for call in (
        lambda tell: sandbox.upload(here / "f", "/f", on_progress=tell),
        lambda tell: sandbox.download("/f", here / "g", on_progress=tell),
        lambda tell: sandbox.upload(tree, "/t", on_progress=tell),
    ):
        told: list[Progress] = []
        done = call(told.append)
        assert told[-1].bytes == told[-1].total == done.bytes
        assert [each.bytes for each in told] == sorted(each.bytes for each in told)


@threads_only
def test_what_the_listener_raises_ends_the_transfer_and_leaves_nothing(sandbox: Sandbox, fake: FakeFiles, here: Path) -> None:
    """As Ctrl-C does, which comes at any point."""
    (here / "f").write_bytes(b"x" * 1_000_000)
    (fake.root / "g").write_bytes(b"x" * 1_000_000)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sandbox.upload(here / "f", "/f", on_progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        sandbox.download("/g", here / "g", on_progress=interrupt)
    assert not (fake.root / "f").exists()
    assert [each.name for each in here.iterdir()] == ["f"]
    assert sandbox.read_bytes("/g", length=3) == b"xxx"  # and the client goes on
