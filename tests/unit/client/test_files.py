"""Files over a link that breaks: what is read is whole and right, what is written is written once, and nothing has its name early."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from remote_env import (
    Client,
    Damaged,
    DirectoryNotEmpty,
    FileChanged,
    FileError,
    InvalidSpec,
    LinkLost,
    NoSpace,
    NotARegularFile,
    Progress,
    RemoteEnvError,
    Sandbox,
    SandboxFileNotFound,
    SandboxGone,
    SandboxIsADirectory,
    SandboxNotADirectory,
    SandboxPermissionError,
    ServerBusy,
    Timings,
    pulling,
)
from remote_env.driving import drive
from remote_env.exchange import ERRORS
from remote_env.hashed import framed
from tests.unit.client.conftest import FAST
from tests.unit.client.fakefiles import FakeFiles
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, TOKEN, Fault, pattern_bytes, refusal

FILES = r"/files$"
AS_IT_IS = Fault(change=lambda body: body)
RANGE = 1000  # bytes of the first range, in these tests


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeFiles]:
    (tmp_path / "there").mkdir()
    with FakeFiles(tmp_path / "there") as server:
        yield server


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each range as long as the first."""
    monkeypatch.setattr(pulling, "FIRST_RANGE", RANGE)
    monkeypatch.setattr(pulling, "_LEAST_RANGE", RANGE)
    monkeypatch.setattr(pulling, "_QUICK_S", 0.0)


def cut_at(size: int) -> Fault:
    return Fault(change=lambda body: body[:size])


def damaged_at(index: int) -> Fault:
    return Fault(change=lambda body: body[:index] + bytes([body[index] ^ 1]) + body[index + 1 :])


def ranges(fake: FakeFiles) -> list[str]:
    return [request.headers["range"] for request in fake.seen("GET", FILES) if "range" in request.headers]


# ---------------------------------------------------------------------------------------------------- reading


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
    fake.on("GET", FILES, AS_IT_IS, replace(AS_IT_IS, before=lambda: _replace(fake.root / "f", changed)))
    assert sandbox.read_bytes("/f") == changed


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    fresh.replace(path)


@pytest.mark.usefixtures("small_ranges")
def test_a_file_that_never_rests_is_told(sandbox: Sandbox, fake: FakeFiles) -> None:
    (fake.root / "f").write_bytes(pattern_bytes(3 * RANGE))
    fake.on("GET", FILES, *[AS_IT_IS, refusal("changed")] * 3)
    with pytest.raises(FileChanged):
        sandbox.read_bytes("/f")


@pytest.mark.usefixtures("small_ranges")
def test_what_is_passed_on_is_passed_on_once(sandbox: Sandbox, fake: FakeFiles) -> None:
    content = pattern_bytes(4 * RANGE)
    (fake.root / "f").write_bytes(content)
    fake.on("GET", FILES, AS_IT_IS, cut_at(100), damaged_at(5))
    got = bytearray()
    done = drive(sandbox.files.read_into("/f", got.extend))
    assert bytes(got) == content
    assert done.sha256 == hashlib.sha256(content).hexdigest()


# --------------------------------------------------------------------------------------------------- refusals


REFUSALS: list[tuple[str, type[RemoteEnvError], type[BaseException]]] = [
    ("file_not_found", SandboxFileNotFound, FileNotFoundError),
    ("is_directory", SandboxIsADirectory, IsADirectoryError),
    ("not_directory", SandboxNotADirectory, NotADirectoryError),
    ("permission_denied", SandboxPermissionError, PermissionError),
    ("read_only", SandboxPermissionError, PermissionError),
    ("not_regular", NotARegularFile, FileError),
    ("too_many_links", NotARegularFile, FileError),
    ("no_space", NoSpace, FileError),
    ("wrong_state", FileError, FileError),
    ("name_too_long", InvalidSpec, InvalidSpec),
    ("gone", SandboxGone, SandboxGone),
]


@pytest.mark.parametrize(("code", "kind", "builtin"), REFUSALS)
def test_a_refusal_is_an_error_of_its_own_kind(
    sandbox: Sandbox, fake: FakeFiles, code: str, kind: type[RemoteEnvError], builtin: type[BaseException]
) -> None:
    for call in (lambda: sandbox.read_bytes("/f"), lambda: sandbox.write("/f", b"x"), lambda: sandbox.stat("/f")):
        fake.on("GET", FILES, refusal(code))
        fake.on("PUT", FILES, refusal(code))
        with pytest.raises(kind) as raised:
            call()
        assert isinstance(raised.value, builtin)
        if isinstance(raised.value, FileError):
            assert raised.value.path == "/f"
            assert sandbox.gone is None
        if code == "gone":
            assert sandbox.gone is not None
            break


def test_errors_of_the_operating_system_have_its_numbers() -> None:
    for kind in (SandboxFileNotFound, SandboxIsADirectory, SandboxNotADirectory, SandboxPermissionError):
        error = kind("what", path="/f")
        assert isinstance(error, OSError)
        assert error.errno is not None
        assert str(error) == "what"


def test_every_code_of_files_has_an_error() -> None:
    ours = [kind for kind in ERRORS.values() if issubclass(kind, FileError)]
    assert {SandboxFileNotFound, SandboxIsADirectory, SandboxNotADirectory, SandboxPermissionError, DirectoryNotEmpty} <= set(ours)


def test_a_busy_server_is_waited_for(sandbox: Sandbox, fake: FakeFiles) -> None:
    sandbox.write("/f", b"x")
    fake.on("GET", FILES, refusal("sandbox_full"), refusal("stopping"))
    assert sandbox.read_bytes("/f") == b"x"
    fake.on("PUT", FILES, refusal("sandbox_full"), refusal("damaged"))
    sandbox.write("/f", b"y")
    assert (fake.root / "f").read_bytes() == b"y"


# ---------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("fault", [CUT_BEFORE, CUT_AFTER, Fault(answer=(502, {}, b"a proxy's page"), arrives=True)])
def test_a_write_whose_answer_is_lost_is_sent_again(sandbox: Sandbox, fake: FakeFiles, fault: Fault) -> None:
    fake.on("PUT", FILES, fault)
    sandbox.write("/f", b"content")
    assert (fake.root / "f").read_bytes() == b"content"
    assert len(fake.seen("PUT", FILES)) == 2


def test_a_write_that_breaks_every_time_is_given_up(fake: FakeFiles) -> None:
    with Client(fake.url, TOKEN, timings=FAST) as client:
        sandbox = client.create_sandbox("image")
        fake.on("PUT", FILES, *[CUT_BEFORE] * 100)
        with pytest.raises(LinkLost):
            sandbox.write("/f", b"x" * 1000)
    assert len(fake.seen("PUT", FILES)) == 5


def test_nothing_is_sent_for_ever_to_a_server_that_has_no_room(fake: FakeFiles) -> None:
    with Client(fake.url, TOKEN, timings=Timings(retry_first_s=0.001, retry_most_s=0.002, reconnect_budget_s=0.05)) as client:
        sandbox = client.create_sandbox("image")
        fake.on("GET", FILES, *[refusal("sandbox_full", retry_after_s=0.01)] * 1000)
        with pytest.raises(ServerBusy):
            sandbox.read_bytes("/f")


def test_a_removal_whose_answer_is_lost_is_done(sandbox: Sandbox, fake: FakeFiles) -> None:
    sandbox.write("/f", b"x")
    fake.on("DELETE", FILES, CUT_AFTER)
    sandbox.remove("/f")
    with pytest.raises(SandboxFileNotFound):
        sandbox.remove("/f")


def test_a_token_that_was_changed_is_read_again(fake: FakeFiles, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with Client(fake.url, token_file=str(token), timings=FAST) as client:
        sandbox = client.create_sandbox("image")
        fake.token = "another"
        token.write_text("another")
        sandbox.write("/f", b"x")
        assert sandbox.read_bytes("/f") == b"x"


# ------------------------------------------------------------------------------------------- upload and download


@pytest.fixture
def tree(here: Path) -> Path:
    """Everything that a tree may have in it."""
    top = here / "tree"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "secret").write_bytes(b"")
    (top / "secret").chmod(0o600)
    (top / "sub" / "data").write_bytes(pattern_bytes(70_000))
    (top / "sub" / ("long" * 50)).write_text("a name of 200 characters")
    (top / "sub" / "ü ☃").write_text("names of any letters")
    (top / "sub").chmod(0o750)
    (top / "out").symlink_to("/etc/passwd")
    (top / "up").symlink_to("../..")
    (top / "nowhere").symlink_to("missing")
    return top


def shape(top: Path) -> dict[str, tuple[int, object]]:
    """Every path below, with its mode and content."""
    found: dict[str, tuple[int, object]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(top))] = (0 if path.is_symlink() else stat.S_IMODE(status.st_mode), content)
    return found


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


# ------------------------------------------------------------------------------------------ downloads that go on


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
    _replace(fake.root / "f", b"new" * RANGE)
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
