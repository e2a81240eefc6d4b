"""The hashed frame: a body's content, and behind it the 32 bytes of its SHA-256. Without I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from remote_env.filemodels import DIGEST_BYTES

Piece = bytes | memoryview


class Damage(Exception):
    """What came is not what was sent."""


class CutShort(Damage):
    """It came to its end too early."""


def framed(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces, and then their SHA-256."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    yield digest.digest()


class Unframer:
    """Takes a framed body as it comes, and gives its content. Hashing is a call of its own, so that it can be done in a thread beside
    what else is done with the content.

    Args:
        size: of the content, in bytes, where it was said beforehand. Else the last 32 bytes that have come may always be the
            digest, and are held back until more comes.
    """

    def __init__(self, size: int | None = None) -> None:
        self._expected = size
        self._digest = hashlib.sha256()
        self._held = b""
        self.size = 0  # of the content that was given out, in bytes

    def feed(self, data: Piece) -> list[Piece]:
        """The content that is certain now: parts of the very `data`."""
        come = len(self._held) + len(data)
        surplus = come - DIGEST_BYTES if self._expected is None else self._expected - self.size
        if surplus <= 0:
            self._held += data
            return []
        if self._held and surplus > len(self._held):
            content: list[Piece] = [self._held, memoryview(data)[: surplus - len(self._held)]]
            self._held = bytes(data[surplus - len(self._held) :])
        elif self._held:
            content = [self._held[:surplus]]
            self._held = self._held[surplus:] + data
        else:
            content = [memoryview(data)[:surplus] if surplus < len(data) else data]
            self._held = bytes(data[surplus:])
        self.size += sum(map(len, content))
        return content

    def hash(self, content: Iterable[Piece]) -> None:
        """All that `feed` gives has to come here, in order."""
        for piece in content:
            self._digest.update(piece)

    def finish(self) -> str:
        """At the body's end: the content's SHA-256 in hex. Raises Damage, CutShort."""
        if len(self._held) != DIGEST_BYTES or self._expected not in (None, self.size):
            raise CutShort(f"it ends after {self.size + len(self._held)} bytes, before its SHA-256")
        if self._held != self._digest.digest():
            raise Damage(f"its {self.size} bytes have another SHA-256 than was said")
        return self._digest.hexdigest()
