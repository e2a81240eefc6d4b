"""What a torn write-ahead log still guarantees, worked out page by page and not by SQLite's own recovery.

The format: https://sqlite.org/fileformat2.html#walformat. A log is a header of 32 bytes and frames of a header of 24 bytes and
one page; a frame whose header names the database's size ends a transaction. What comes after a torn or stale frame is void.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from pathlib import Path

_HEADER, _FRAME_HEADER = 32, 24


def committed(database: bytes, log: bytes) -> bytes:
    """The database with every transaction that lies whole in the log."""
    pages = bytearray(database)
    if len(log) < _HEADER:
        return bytes(pages)
    page_size, salts = struct.unpack_from(">I", log, 8)[0], log[16:24]
    pending: list[tuple[int, bytes]] = []
    at = _HEADER
    while at + _FRAME_HEADER + page_size <= len(log) and log[at + 8 : at + 16] == salts:
        number, size_after = struct.unpack_from(">II", log, at)
        pending.append((number, log[at + _FRAME_HEADER : at + _FRAME_HEADER + page_size]))
        if size_after:
            pages.extend(bytes(max(0, size_after * page_size - len(pages))))
            for page, content in pending:
                pages[(page - 1) * page_size : page * page_size] = content
            pending.clear()
        at += _FRAME_HEADER + page_size
    return bytes(pages)


def rows_of(database: bytes, scratch: Path) -> list[tuple[str, bool]]:
    """Of a journal without a log: each execution's id, and whether it has its final row."""
    if not database:
        return []
    scratch.write_bytes(database)
    with contextlib.closing(sqlite3.connect(f"file:{scratch}?immutable=1", uri=True)) as db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'executions'").fetchone() is None:
            return []
        return [(str(eid), bool(final)) for eid, final in db.execute("SELECT id, final IS NOT NULL FROM executions ORDER BY id")]
