"""The tar reader against Python's own writer and against garbage: read whole, byte by byte, or torn anywhere."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.tarstream import BLOCK, BadArchive, Event, Kind, Member, TarReader

FORMATS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]
_KINDS = {Kind.FILE: tarfile.REGTYPE, Kind.DIRECTORY: tarfile.DIRTYPE, Kind.SYMLINK: tarfile.SYMTYPE, Kind.LINK: tarfile.LNKTYPE,
          Kind.OTHER: tarfile.FIFOTYPE}  # fmt: skip

steps = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40).filter(
    lambda step: step not in (".", "..")
)
names = st.lists(steps, min_size=1, max_size=6).map("/".join)


@st.composite
def members(draw: st.DrawFn) -> tuple[Member, bytes]:
    kind = draw(st.sampled_from(list(Kind)))
    content = draw(st.binary(max_size=1500)) if kind is Kind.FILE else b""
    target = draw(names).encode() if kind in (Kind.SYMLINK, Kind.LINK) else b""
    mtime = draw(st.integers(0, 1 << 32)) * 1_000_000_000
    return Member(draw(names).encode(), kind, draw(st.integers(0, 0o7777)), mtime, len(content), target), content


def written(entries: list[tuple[Member, bytes]], format_: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for member, content in entries:
            info = tarfile.TarInfo(member.name.decode())
            info.type, info.mode, info.mtime, info.size = _KINDS[member.kind], member.mode, member.mtime_ns // 1_000_000_000, member.size
            info.linkname = member.target.decode()
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read(pieces: list[bytes]) -> list[tuple[Member, bytes]]:
    reader, found = TarReader(), []
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, Member):
                found.append((event, b""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + bytes(event))
    reader.finish()
    return found


def normal(entries: list[tuple[Member, bytes]]) -> list[tuple[Member, bytes]]:
    """Directories' names end with a slash in some formats."""
    return [(Member(m.name.rstrip(b"/"), m.kind, m.mode, m.mtime_ns, m.size, m.target), content) for m, content in entries]


@given(
    st.lists(members(), max_size=6), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.lists(st.integers(0, 20000), max_size=8)
)
def test_archive_is_read_as_it_was_written_wherever_it_is_torn(entries: list[tuple[Member, bytes]], format_: int, cuts: list[int]) -> None:
    archive = written(entries, format_)
    edges = sorted({0, len(archive), *(cut for cut in cuts if cut < len(archive))})
    assert normal(read([archive[start:end] for start, end in pairwise(edges)])) == normal(entries)


def test_archive_is_read_byte_by_byte() -> None:
    entries = [
        (Member(b"d" * 150 + b"/f", Kind.FILE, 0o640, 7_000_000_000, 700), b"x" * 700),
        (Member(b"l", Kind.SYMLINK, 0o777, 0, 0, b"t" * 200), b""),
    ]
    for format_ in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        archive = written(entries, format_)
        assert read([archive[at : at + 1] for at in range(len(archive))]) == entries


def test_ustar_prefix_makes_the_name() -> None:
    entries = [(Member(b"d" * 90 + b"/" + b"n" * 90, Kind.FILE, 0o644, 0, 0), b"")]
    assert read([written(entries, tarfile.USTAR_FORMAT)]) == entries


@given(st.lists(members(), min_size=1, max_size=3), st.sampled_from(FORMATS[:2]), st.integers(0, 1 << 20), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_no_more_than_content_and_names(
    entries: list[tuple[Member, bytes]], format_: int, at: int, change: int
) -> None:
    archive = bytearray(written(entries, format_))
    archive[at % len(archive)] ^= change
    reader = TarReader()
    events: list[Event] = []
    try:
        events = reader.feed(bytes(archive))
        reader.finish()
    except BadArchive:
        return
    assert sum(len(event) for event in events if not isinstance(event, Member)) <= len(archive)


@given(st.binary(max_size=4 * BLOCK))
def test_garbage_is_refused_or_empty(data: bytes) -> None:
    reader = TarReader()
    try:
        events = reader.feed(data)
        reader.finish()
    except BadArchive:
        return
    assert not events or any(data)


def test_cut_archive_is_refused_at_every_block() -> None:
    archive = written([(Member(b"n" * 200, Kind.FILE, 0o644, 0, 2000), b"x" * 2000)], tarfile.PAX_FORMAT)
    ended = archive.rstrip(b"\0")
    for cut in range(1, len(ended)):
        with pytest.raises(BadArchive):
            read([archive[:cut]])


def header(**fields: bytes) -> bytes:
    """A header block with a right checksum. Fields by their offset, as `at_124=b"…"`."""
    block = bytearray(tarfile.TarInfo("name").tobuf(tarfile.USTAR_FORMAT))
    for key, value in fields.items():
        at = int(key.removeprefix("at_"))
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "block",
    [
        header(at_156=b"S"), header(at_156=b"Q"), header(at_124=b"\xff" * 12), header(at_124=b"\x80" + b"\x7f" * 11),
        header(at_124=b"99999999999\0"), header(at_156=b"x", at_124=b"77777777777\0"), header(at_156=b"L"),
        header(at_156=b"2", at_124=b"00000000001\0"),
        b"\1" + header()[1:],
    ],
)  # fmt: skip
def test_odd_headers_are_refused(block: bytes) -> None:
    with pytest.raises(BadArchive):
        TarReader().feed(block)


def extended(records: bytes) -> bytes:
    return header(at_156=b"x", at_124=b"%011o\0" % len(records)) + records + bytes(-len(records) % BLOCK) + header()


def record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = next(length for length in range(rest, rest + 9) if length == rest + len(str(length)))
    return b"%d %s=%s\n" % (length, key, value)


@pytest.mark.parametrize(
    "records",
    [
        b"99 size=1\n", b"0 a=b\n", b"-1 a=b\n", b"5 ab\n", b"nonsense", record(b"size", b"x"),
        record(b"size", b"9" * 22), record(b"mtime", b"1e99"), record(b"mtime", b"9" * 18),
        record(b"GNU.sparse.major", b"1"), record(b"path", b"\0"),
    ],
)  # fmt: skip
def test_odd_extended_records_are_refused(records: bytes) -> None:
    with pytest.raises(BadArchive):
        TarReader().feed(extended(records))


def test_extended_records_count_over_the_header() -> None:
    (event,) = TarReader().feed(extended(record(b"path", b"other") + record(b"mtime", b"1.000000001") + record(b"comment", b"")))
    assert isinstance(event, Member)
    assert (event.name, event.mtime_ns) == (b"other", 1_000_000_001)


def test_records_that_mean_nothing_here_are_not_held() -> None:
    """Global ones hold for all that follows: kept, they would cost memory for ever, and time for each member."""
    reader = TarReader()
    tracemalloc.start()
    try:
        for count in range(4):
            keys = b"".join(record(b"k%07d" % (count * 10_000 + each), b"v" * 70) for each in range(10_000))
            block = header(at_156=b"g", at_124=b"%011o\0" % len(keys))
            events = reader.feed(block + keys + bytes(-len(keys) % BLOCK))
            assert events == []
            del keys, block
        assert tracemalloc.get_traced_memory()[0] < 4 << 20
    finally:
        tracemalloc.stop()


def test_extended_headers_without_end_are_refused() -> None:
    """Each within its bound, and no member behind them."""
    block = extended(record(b"path", b"x" * 300_000)).removesuffix(header())
    reader = TarReader()
    with pytest.raises(BadArchive, match="extended headers"):
        deque(map(reader.feed, [block] * 10))
    for _ in range(10):
        TarReader().feed(block + header())
