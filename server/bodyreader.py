"""Reading the body of one message, number by number, and never beyond its end: what comes from an init is untrusted."""

from __future__ import annotations

import struct
from typing import Any

_U32 = struct.Struct("<I")
_ID_LIMIT = 64  # bytes


class BadMessage(ValueError):
    """A packet does not follow the format; the link it came over is not to be trusted further."""


class Reader:
    """Every method reads what stands next, and raises BadMessage where that is not what it should be."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def unpack(self, shape: struct.Struct) -> tuple[Any, ...]:
        if len(self.body) - self.at < shape.size:
            raise BadMessage("the message ends early")
        values = shape.unpack_from(self.body, self.at)
        self.at += shape.size
        return values

    def number(self, shape: struct.Struct) -> int:
        return int(self.unpack(shape)[0])

    def id(self) -> str:
        length = self.number(_U32)
        if length > _ID_LIMIT or len(self.body) - self.at < length:
            raise BadMessage(f"an id is longer than {_ID_LIMIT} bytes or than its message")
        raw = self.body[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode("ascii")
        except UnicodeDecodeError:
            raise BadMessage("an id is not ASCII") from None

    def done(self) -> None:
        if self.at != len(self.body):
            raise BadMessage("bytes are left over after the message")
