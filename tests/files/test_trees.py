"""Trees as tar streams: what comes out is what is there, and what goes in stays inside."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from remote_env.filemodels import HASHED
from server import fileunpacking
from tests.files.test_routes import ask, refused
from tests.unit.server.harness import Reply, RunningServer

TYPES = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE,
         "fifo": tarfile.FIFOTYPE, "device": tarfile.CHRTYPE, "block": tarfile.BLKTYPE}  # fmt: skip
Entry = tuple[str, str, str]  # kind, name, content or target


def archive(*entries: Entry, format_: int = tarfile.PAX_FORMAT, mode: int = 0o644) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_, errors="surrogateescape") as tar:
        for kind, name, rest in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime, info.uid = TYPES[kind], mode | (0o111 if kind == "directory" else 0), 1_000_000_000, 12345
            content = rest.encode() if kind == "file" else b""
            info.size = len(content)
            info.linkname = rest if kind in ("symlink", "link") else ""
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def unpack(server: RunningServer, path: str, body: bytes, **query: str) -> Reply:
    whole = body + hashlib.sha256(body).digest()
    return ask(server, "PUT", path, whole, headers={"Content-Type": HASHED}, **{"as": "tar", **query})


def pack(server: RunningServer, path: str) -> tarfile.TarFile:
    reply = ask(server, "GET", path, digest="1", **{"as": "tar"})
    assert reply.status == 200, reply.body
    assert hashlib.sha256(reply.body[:-32]).digest() == reply.body[-32:]
    return tarfile.open(fileobj=io.BytesIO(reply.body[:-32]), errors="surrogateescape")


def everything(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Every file below, with all that a tree keeps."""
    found: dict[bytes, tuple[object, ...]] = {}
    for directory, names, files in os.walk(os.fsencode(top)):
        for name in names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content: bytes | None = None
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            time = None if stat.S_ISLNK(status.st_mode) else int(status.st_mtime)
            found[path[len(os.fsencode(top)) :]] = (status.st_mode, time, content)
    return found


def make_tree(top: Path) -> None:
    (top / "sub/deeper/still").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o500)
    (top / "file").write_bytes(b"content")
    (top / "file").chmod(0o4751)
    (top / "large").write_bytes(bytes(range(256)) * 10_000)
    (top / "nothing").write_bytes(b"")
    os.link(top / "file", top / "sub/same")
    (top / "sub/link").symlink_to("../file")
    (top / "sub/out").symlink_to("/etc")
    (top / "dangling").symlink_to("n" * 300)
    (top / ("n" * 255)).write_bytes(b"long name")
    (top / "ünïcode").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(top) + b"/raw\xff\nname")).write_bytes(b"raw")
    for number in range(200):
        (top / f"sub/deeper/{number}").write_bytes(b"%d" % number * number)
    (top / "sub/deeper").chmod(0o2775)
    for path in (top / "file", top / "sub", top / "sub/deeper", top / "empty"):
        os.utime(path, (1, 1_111_111_111))


def test_tree_comes_back_as_it_was(server: RunningServer, root: Path) -> None:
    make_tree(root / "tree")
    with pack(server, "/tree") as tar:
        assert tar.fileobj is not None
        tar.fileobj.seek(0)
        body = tar.fileobj.read()
    assert unpack(server, "/copy", body, parents="1").status == 200
    assert everything(root / "copy/tree") == everything(root / "tree")


def test_names_are_relative_to_the_trees_parent(server: RunningServer, root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_bytes(b"x")
    (root / "link").symlink_to("a")
    expected = {"/a/b": ["b", "b/file"], "/a/b/file": ["file"], "/a/b/../b/": ["b", "b/file"], "/link": ["link", "link/b", "link/b/file"]}
    for path, names in expected.items():
        with pack(server, path) as tar:
            assert tar.getnames() == names
    with pack(server, "/") as tar:
        assert "./a/b/file" in tar.getnames()


def test_what_cannot_be_packed_is_left_out_and_told_of(server: RunningServer, root: Path) -> None:
    (root / "tree").mkdir()
    (root / "tree/file").write_bytes(b"x")
    os.mkfifo(root / "tree/fifo")
    with pack(server, "/tree") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["tree", "tree/file", "tree"]
    assert members[-1].pax_headers["REMOTE_ENV.left_out"] == '[{"path": "tree/fifo", "code": "not_regular"}]'


def test_what_is_no_tree_is_refused_before_anything_is_sent(server: RunningServer, root: Path) -> None:
    os.mkfifo(root / "fifo")
    refused(ask(server, "GET", "/fifo", **{"as": "tar"}), "not_directory")
    refused(ask(server, "GET", "/missing", **{"as": "tar"}), "file_not_found")


# ------------------------------------------------------------------------------------------------- going in

OUTSIDE = {
    "a name above": [("file", "../escaped", "x")],
    "a name above, deeper": [("file", "a/../../escaped", "x")],
    "an absolute name": [("file", "/escaped", "x")],
    "a directory above": [("directory", "..", "")],
    "through a link of the archive": [("symlink", "out", "/"), ("file", "out/escaped", "x")],
    "through a relative link": [("symlink", "out", ".."), ("file", "out/escaped", "x")],
    "through a link in the middle": [("directory", "a", ""), ("symlink", "a/out", "../.."), ("file", "a/out/escaped", "x")],
    "through a link that was there": [("file", "there/escaped", "x")],
    "a directory through a link": [("symlink", "out", "/"), ("directory", "out/escaped", "")],
    "a link through a link": [("symlink", "out", "/"), ("symlink", "out/escaped", "x")],
    "a directory that is a link": [("symlink", "escaped", "/victim"), ("directory", "escaped", "")],
    "a hard link to above": [("link", "escaped", "../secret")],
    "a hard link to an absolute name": [("link", "escaped", "/secret")],
    "a hard link through a link": [("symlink", "out", "/"), ("link", "escaped", "out/secret")],
    "a device": [("device", "escaped", "")],
    "a block device": [("block", "escaped", "")],
    "a FIFO": [("fifo", "escaped", "")],
}


@pytest.mark.parametrize("how", OUTSIDE)
@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_nothing_outside_the_directory_is_touched(server: RunningServer, root: Path, how: str, format_: int) -> None:
    (root / "target").mkdir()
    (root / "target/there").symlink_to("/")
    (root / "victim").mkdir(mode=0o700)
    (root / "secret").write_bytes(b"secret")
    before = {path: facts for path, facts in everything(root).items() if not path.startswith(b"/target")}
    reply = unpack(server, "/target", archive(*OUTSIDE[how], format_=format_))
    assert reply.status in (409, 422), reply.body
    assert {path: facts for path, facts in everything(root).items() if not path.startswith(b"/target")} == before
    assert not (root / "target/escaped").is_file()
    assert (root / "secret").stat().st_nlink == 1


def test_link_in_place_of_a_file_is_replaced_not_followed(server: RunningServer, root: Path) -> None:
    (root / "target").mkdir()
    (root / "victim").write_bytes(b"as it was")
    (root / "target/file").symlink_to("/victim")
    assert unpack(server, "/target", archive(("file", "file", "new"))).status == 200
    assert (root / "victim").read_bytes() == b"as it was"
    assert (root / "target/file").read_bytes() == b"new"
    assert not (root / "target/file").is_symlink()


def test_entries_replace_what_is_there_and_missing_directories_are_made(server: RunningServer, root: Path) -> None:
    entries = [("file", "./a/b/file", "one"), ("file", "a/b/file", "two"), ("link", "a/again", "a/b/file"),
               ("symlink", "a/s", "old"), ("symlink", "a/s", "new"),
               ("directory", "./", ""), ("file", "a/b/last", "")]  # fmt: skip
    assert unpack(server, "/new/target", archive(*entries), parents="1").status == 200
    top = root / "new/target/a"
    assert ((top / "b/file").read_bytes(), (top / "again").read_bytes(), os.readlink(top / "s")) == (b"two", b"two", "new")
    assert (top / "again").stat().st_ino == (top / "b/file").stat().st_ino
    assert (top / "b/file").stat().st_uid == os.geteuid()
    assert int((top / "b/file").stat().st_mtime) == 1_000_000_000
    assert unpack(server, "/new/target", archive(*entries)).status == 200


def test_directory_that_nobody_may_write_into_is_filled_first(server: RunningServer, root: Path) -> None:
    (root / "target").mkdir()
    assert unpack(server, "/target", archive(("directory", "d", ""), ("file", "d/f", "x"), mode=0o444)).status == 200
    assert stat.S_IMODE((root / "target/d").stat().st_mode) == 0o555
    assert int((root / "target/d").stat().st_mtime) == 1_000_000_000


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([("file", "directory", "x")], "is_directory"), ([("directory", "file", "")], "not_directory"),
        ([("file", "file/x", "x")], "not_directory"),
        ([("link", "new", "missing")], "file_not_found"), ([("file", "n" * 256, "x")], "name_too_long"), ([("file", "", "x")], "invalid"),
        ([("file", ".", "x")], "invalid"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(server: RunningServer, root: Path, entries: list[Entry], code: str) -> None:
    (root / "target/directory").mkdir(parents=True)
    (root / "target/file").write_bytes(b"x")
    refused(unpack(server, "/target", archive(*entries)), code)


def test_damaged_or_cut_archive_is_refused(server: RunningServer, root: Path) -> None:
    (root / "target").mkdir()
    body = archive(("file", "file", "x" * 5000))
    reply = ask(server, "PUT", "/target", body + bytes(32), headers={"Content-Type": HASHED}, **{"as": "tar"})
    refused(reply, "damaged")
    assert reply.json()["accepted"] == "unknown"
    refused(ask(server, "PUT", "/target", body[:3000], **{"as": "tar"}), "invalid")
    refused(ask(server, "PUT", "/target", b"no archive" * 100, **{"as": "tar"}), "invalid")
    refused(unpack(server, "/missing", body), "file_not_found")
    assert sorted(path.name for path in (root / "target").iterdir()) == ["file"]


def test_many_small_files_and_names_of_any_bytes(server: RunningServer, root: Path) -> None:
    entries = [("file", f"{number % 10}/{number}", "x" * number) for number in range(1000)]
    entries.append(("file", os.fsdecode(b"raw\xff\nname"), "raw"))
    assert unpack(server, "/target", archive(*entries), parents="1").status == 200
    assert len(list((root / "target").rglob("*"))) == 1011
    assert os.fsencode(os.listdir(os.fsencode(root / "target"))[0])
    assert Path(os.fsdecode(os.fsencode(root) + b"/target/raw\xff\nname")).read_bytes() == b"raw"


def test_directories_that_would_fill_the_memory_are_refused(
    server: RunningServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(fileunpacking, "_HELD_MOST", 10_000)
    body = archive(*(("directory", f"directory{number}", "") for number in range(100)))
    reply = unpack(server, "/tree", body, parents="1")
    refused(reply, "too_large")
    assert reply.json()["accepted"] == "unknown"


def test_file_that_is_in_the_archive_twice_is_the_later_one(server: RunningServer, root: Path) -> None:
    entries = [("file", f"new/file{number % 10}", str(number)) for number in range(200)]
    assert unpack(server, "/tree", archive(*entries), parents="1").status == 200
    assert {path.read_text() for path in (root / "tree/new").iterdir()} == {str(number) for number in range(190, 200)}


@pytest.mark.parametrize("count", [1, 70, 300])
def test_file_that_cannot_be_written_is_named_however_many_come_after_it(server: RunningServer, root: Path, count: int) -> None:
    (root / "tree/taken").mkdir(parents=True)
    entries = [("file", "taken", "x"), *(("file", f"file{number}", "x") for number in range(count))]
    reply = unpack(server, "/tree", archive(*entries))
    refused(reply, "is_directory")
    assert reply.json()["detail"].startswith("/tree/taken: ")
