"""Whether an SQLite file has lost its end. SQLite itself reads what is missing as zeros, so that rows come out as rubbish long
after the start; a journal like that has to be refused when it is opened.

The format: https://sqlite.org/fileformat2.html, sections 1.3 (the header's page size and number of pages) and 4.1 (the log).
"""

from __future__ import annotations

import struct
from pathlib import Path

_MAGIC = b"SQLite format 3\0"
_HEADER = 100  # bytes at the beginning of the database
_LOG_HEADER, _FRAME_HEADER = 32, 24  # bytes of the write-ahead log


def missing_bytes(path: Path) -> int:
    """How many bytes the database at `path` lacks, by its own header. A page that the log still has is not missing: a
    checkpoint that was interrupted wrote the header first. A file that is empty or not there lacks nothing. Raises OSError."""
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER)
            size = file.seek(0, 2)
    except FileNotFoundError:
        return 0
    if not header or not header.startswith(_MAGIC[: len(header)]):  # nothing there, or something that is no database
        return 0
    if len(header) < _HEADER:
        return _HEADER - len(header)
    page_size, pages = int(struct.unpack_from(">H", header, 16)[0]), int(struct.unpack_from(">I", header, 28)[0])
    page_size = 65536 if page_size == 1 else page_size
    if not page_size or pages * page_size <= size:
        return 0
    there = size // page_size  # pages
    in_log = sum(there < number <= pages for number in _pages_in(path.with_name(path.name + "-wal"), page_size))
    return (pages - there - in_log) * page_size


def _pages_in(log: Path, page_size: int) -> set[int]:
    """The numbers of the pages that the log has."""
    found: set[int] = set()
    try:
        with open(log, "rb") as file:
            salts = file.read(_LOG_HEADER)[16:24]
            while len(frame := file.read(_FRAME_HEADER)) == _FRAME_HEADER and frame[8:16] == salts:
                if len(file.read(page_size)) == page_size:
                    found.add(struct.unpack_from(">I", frame)[0])
    except FileNotFoundError:
        pass
    return found
