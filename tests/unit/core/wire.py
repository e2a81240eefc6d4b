"""The link's format, written once more by hand from its description: a mistake in `server.messages` cannot hide in its own
mirror."""

from __future__ import annotations

import struct

from server.messages import Ended, Ending, EndingKind, FromInit, Pipes, Stale, Started, Type


def string(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def ending_bytes(ending: Ending) -> bytes:
    return struct.pack(
        "<BBBBiQQQQQII", ending.kind, ending.cause, ending.flags, ending.stage, ending.status, ending.started_ns,
        ending.ended_ns, ending.cpu_us, ending.max_rss_bytes, ending.waited_ms, ending.oom_kills, 0,
    )  # fmt: skip


def body_of(message: FromInit) -> tuple[Type, bytes]:
    if isinstance(message, Started):
        return Type.STARTED, string(message.id) + struct.pack("<QQ", message.number, message.started_ns)
    if isinstance(message, Ended):
        return Type.ENDED, string(message.id) + struct.pack("<Q", message.number) + ending_bytes(message.ending)
    if isinstance(message, Stale):
        return Type.STALE, string(message.id) + struct.pack("<Q", message.number)
    if isinstance(message, Pipes):
        return Type.PIPES, struct.pack("<I", len(message.ids)) + b"".join(map(string, message.ids))
    entries = b"".join(
        string(entry.id)
        + struct.pack("<QB", entry.number, 1 if entry.ending is None else 2)
        + ending_bytes(entry.ending or Ending(EndingKind.EXITED, started_ns=entry.started_ns))
        for entry in message.entries
    )
    head = struct.pack("<I", message.version) + message.incarnation + message.secret
    return Type.HELLO, head + struct.pack("<QII", message.highest, message.pipes, len(message.entries)) + entries
