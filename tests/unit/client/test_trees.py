"""Trees as tars: what is packed is a tar that others read, what comes is read however it is torn, and stays inside its directory."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from remote_env import unpacking
from remote_env.hashed import CutShort, Damage, Unframer, framed
from remote_env.packing import LocalTree
from remote_env.tarreading import Content, TarReader
from remote_env.unpacking import Unpacker

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(content)
    return info, content


def tar_of(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format, errors="surrogateescape") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def directory(name: str, mode: int = 0o755) -> Member:
    return member(name, kind=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, to: str) -> Member:
    return member(name, kind=tarfile.SYMTYPE, link=to)


ALL_KINDS = (
    directory("top"),
    member("top/empty"),
    member("top/block", b"x" * 512),
    member("top/odd", b"y" * 1025, mode=0o755),
    directory("top/" + "long" * 40),
    member("top/" + "long" * 40 + "/" + "er" * 100, b"z"),
    member("top/ü\udcff", b"bytes"),
    symlink("top/link", "t" * 150),
    symlink("top/out", "/etc"),
)


def read(pieces: list[bytes]) -> list[tuple[str, bytes, int, str, bytes]]:
    """Name, type, mode, link and content of each entry."""
    reader = TarReader()
    found: list[tuple[str, bytes, int, str, bytes]] = []
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, Content):
                name, kind, mode, link, content = found[-1]
                found[-1] = name, kind, mode, link, content + bytes(event.data)
            else:
                found.append((event.name, event.type, event.mode, event.linkname, b""))
    reader.finish()
    return found


# ------------------------------------------------------------------------------------------------ reading a tar


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_entry_is_read_as_it_was_written(format: int) -> None:
    expected = [(info.name, info.type, info.mode, info.linkname, content) for info, content in ALL_KINDS]
    assert read([tar_of(*ALL_KINDS, format=format)]) == expected


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 4096])
def test_it_does_not_matter_how_it_is_torn(size: int) -> None:
    data = tar_of(*ALL_KINDS)
    assert read([data[at : at + size] for at in range(0, len(data), size)]) == read([data])


def test_a_tar_that_ends_early_is_cut() -> None:
    data = tar_of(member("top", b"x" * 2000))
    for size in (0, 1, 512, 1000, 2560, 2700):
        with pytest.raises(CutShort):
            read([data[:size]])


@pytest.mark.parametrize("at", [0, 100, 148, 511])
def test_a_header_that_was_changed_is_damage(at: int) -> None:
    data = bytearray(tar_of(member("top", b"x")))
    data[at] ^= 0x01
    with pytest.raises(Damage):
        read([bytes(data)])


def test_any_bytes_are_read_or_refused() -> None:
    whole = tar_of(*ALL_KINDS)
    draw = random.Random(7)
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            read([bytes(data)])
        except Damage:
            continue


@pytest.mark.parametrize(
    "header", [b"", b"5 a=b\n", b"x y=z\n", b"99999 path=a\n", b"7 path\n", b"-1 a=b\n", b"13 size=many\n", b"11 size=-1\n"]
)
def test_an_extended_header_that_makes_no_sense_is_damage(header: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(header)
    block = info.tobuf(tarfile.USTAR_FORMAT) + header.ljust(512, b"\0")
    with pytest.raises(Damage):
        read([block + tar_of(member("top", b"x"))])


def test_extended_headers_without_end_are_damage() -> None:
    """Each within its bound, and no entry behind them."""
    records = [b"300009 k%d=" % number + b"x" * 299_998 + b"\n" for number in range(9)]
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records[0])
    head, padding = info.tobuf(tarfile.USTAR_FORMAT), bytes(-len(records[0]) % 512)
    with pytest.raises(Damage, match="extended headers"):
        read([head + each + padding for each in records])


# ----------------------------------------------------------------------------------------------------- unpacking


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_a_tree_whose_names_would_fill_the_memory_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes) -> None:
    monkeypatch.setattr(unpacking, "_HELD_MOST", 10_000)
    with pytest.raises(Damage, match="too many"):
        unpack(tmp_path / "tree", directory("top"), *(member(f"top/{number}", kind=kind, link="x") for number in range(100)))
    assert os.listdir(tmp_path) == []


def unpack(target: Path, *members: Member) -> Unpacker:
    with Unpacker(target) as unpacker:
        unpacker.feed(tar_of(*members))
        unpacker.settle()
    return unpacker


HOSTILE: list[tuple[str, tuple[Member, ...]]] = [
    ("up", (member("top/../../evil", b"x"),)),
    ("only up", (member("..", b"x"),)),
    ("absolute", (member("/etc/evil", b"x"),)),
    ("double slash", (member("top//evil", b"x"),)),
    ("through a link", (symlink("top/out", "{outside}"), member("top/out/evil", b"x"))),
    ("through a link deeper", (symlink("top/out", "{outside}"), member("top/out/a/b/evil", b"x"))),
    ("a directory through a link", (symlink("top/out", "{outside}"), directory("top/out/evil"))),
    ("a link through a link", (symlink("top/out", "{outside}"), symlink("top/out/evil", "x"))),
    ("below a file", (member("top/file", b"x"), member("top/file/evil", b"x"))),
    ("a link in place of a directory", (member("top/d/f", b"x"), symlink("top/d", "{outside}"))),
    ("a file in place of a directory", (directory("top/d"), member("top/d", b"x"))),
]


@pytest.mark.parametrize(("what", "members"), HOSTILE, ids=[each[0] for each in HOSTILE])
def test_nothing_is_written_outside_the_tree(tmp_path: Path, what: str, members: tuple[Member, ...]) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    for info, _ in members:
        info.linkname = info.linkname.replace("{outside}", str(outside))
    with pytest.raises(Damage):
        unpack(inside / "target", directory("top"), *members)
    assert list(outside.iterdir()) == []
    assert list(inside.iterdir()) == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["inside", "outside"]


def test_links_stay_what_they_are_wherever_they_lead(tmp_path: Path) -> None:
    unpack(tmp_path / "t", directory("top"), symlink("top/a", "/etc/passwd"), symlink("top/b", "../../.."), symlink("top/c", "missing"))
    assert [os.readlink(tmp_path / "t" / name) for name in "abc"] == ["/etc/passwd", "../../..", "missing"]


def test_a_file_that_comes_twice_is_the_later_one(tmp_path: Path) -> None:
    unpack(tmp_path / "t", member("top/f", b"old"), member("top/f", b"new"), symlink("top/l", "x"), member("top/l", b"file"))
    assert (tmp_path / "t" / "f").read_bytes() == b"new"
    assert (tmp_path / "t" / "l").read_bytes() == b"file"


def test_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE)
    done = unpack(tmp_path / "t", directory("top"), *(member(f"top/{kind.decode()}", kind=kind, link="x") for kind in kinds))
    assert len(done.skipped) == 4
    assert list((tmp_path / "t").iterdir()) == []


def test_what_the_sender_left_out_is_told(tmp_path: Path) -> None:
    last, _ = directory("top")
    last.pax_headers = {"REMOTE_ENV.left_out": '[{"path": "top/secret", "code": "permission_denied"}]'}
    assert unpack(tmp_path / "t", directory("top"), (last, b"")).skipped == {"top/secret": "permission_denied"}
    last.pax_headers = {"REMOTE_ENV.left_out": '{"no": ["list"]}'}
    assert unpack(tmp_path / "u", (last, b"")).skipped == {}


def test_bits_that_give_rights_are_not_taken_over(tmp_path: Path) -> None:
    unpack(tmp_path / "t", directory("top", 0o1777), member("top/su", b"x", mode=0o6755))
    assert (tmp_path / "t").stat().st_mode & 0o7777 == 0o777
    assert (tmp_path / "t" / "su").stat().st_mode & 0o7777 == 0o755


def test_a_directory_that_may_not_be_written_is_filled_first(tmp_path: Path) -> None:
    unpack(tmp_path / "t", directory("top"), directory("top/d", 0o555), member("top/d/f", b"x", mode=0o444))
    assert (tmp_path / "t" / "d").stat().st_mode & 0o777 == 0o555
    assert (tmp_path / "t" / "d" / "f").read_bytes() == b"x"


def test_the_root_directory_has_no_name_of_its_own(tmp_path: Path) -> None:
    unpack(tmp_path / "t", directory("."), directory("./etc"), member("./etc/passwd", b"x"))
    assert (tmp_path / "t" / "etc" / "passwd").read_bytes() == b"x"


def test_a_target_that_is_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("mine")
    with pytest.raises(NotADirectoryError):
        unpack(tmp_path / "t", directory("top"))
    assert (tmp_path / "t").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------- packing


def test_what_is_packed_is_a_tar_that_others_read(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "d" / ("long" * 40)).mkdir(parents=True)
    (top / "d" / ("long" * 40) / "f").write_bytes(b"x" * 1000)
    (top / "e").write_bytes(b"")
    (top / "l").symlink_to("/somewhere/else")
    (top / "d").chmod(0o700)
    tree = LocalTree(top, with_top=True)
    data = b"".join(tree.pieces())
    assert data == b"".join(tree.pieces())  # and can be had again
    assert len(data) % tarfile.RECORDSIZE == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        assert names == [".", "d", "e", "l", "d/" + "long" * 40, "d/" + "long" * 40 + "/f"]
        assert tar.getmember("d").mode == 0o700
        assert tar.getmember("l").linkname == "/somewhere/else"
        assert tar.extractfile(names[-1]).read() == b"x" * 1000  # type: ignore[union-attr]
        assert {(each.uid, each.gid, each.uname) for each in tar.getmembers()} == {(0, 0, "")}


def test_a_name_of_any_bytes_is_packed_as_it_is(tmp_path: Path) -> None:
    top = os.fsencode(tmp_path) + b"/top"
    os.mkdir(top)
    with open(top + b"/\xff\xfe", "wb") as file:
        file.write(b"x")
    [(name, *_)] = read(list(LocalTree(tmp_path / "top", with_top=False).pieces()))
    assert os.fsencode(name) == b"\xff\xfe"


# --------------------------------------------------------------------------------------------------------- frames


def unframe(data: bytes, sizes: Callable[[], int], expected: int | None) -> bytes:
    unframer = Unframer(expected)
    content = bytearray()
    while data:
        size = sizes()
        pieces = unframer.feed(data[:size])
        unframer.hash(pieces)
        for piece in pieces:
            content += piece
        data = data[size:]
    unframer.finish()
    assert unframer.size == len(content)
    return bytes(content)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 64, 100, 5000])
def test_a_frame_is_read_however_it_is_torn(length: int, known: bool) -> None:
    content = random.Random(length).randbytes(length)
    frame = b"".join(framed([content[: length // 3], content[length // 3 :]]))
    expected = length if known else None
    draw = random.Random(1)
    for sizes in (lambda: 1, lambda: 31, lambda: 32, lambda: 33, lambda: 10_000, lambda: draw.randrange(1, 70)):
        assert unframe(frame, sizes, expected) == content
    for cut in {0, 1, length, length + 31}:
        with pytest.raises(Damage):
            unframe(frame[:cut], lambda: 7, expected)
    with pytest.raises(Damage):
        unframe(frame[:-1] + bytes([frame[-1] ^ 1]), lambda: 7, expected)
    with pytest.raises(Damage):
        unframe(frame + b"?", lambda: 7, expected)
