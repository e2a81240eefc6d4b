"""Checksums of our own for what goes over the wire: TCP's lets one damaged packet in 65,536 pass, and middleboxes that
rewrite packets make a right one for whatever they send.

A body's SHA-256 stands in the message's head (RFC 9530). A stream has no end to hash up to: each event has a CRC-32.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib

DIGEST_HEADER = "Content-Digest"
_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):")


EVENT_CHECK = b"crc32"  # a field of an event; parsers that do not know it skip it


def content_digest(body: bytes) -> str:
    """The header's value for this body."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def is_damaged(body: bytes, header: str | None) -> bool:
    """Whether the body is another one than the header speaks of. No header, or none that speaks of SHA-256, says nothing."""
    said = _SHA256.search(header) if header else None
    return said is not None and base64.b64decode(said[1]) != hashlib.sha256(body).digest()


def event_check(event: bytes, data: bytes, position: bytes | None) -> bytes:
    """The value of the event's field EVENT_CHECK. `position`: its id, None without."""
    return b"%08x" % zlib.crc32(b"\n".join((event, position or b"", data)))
