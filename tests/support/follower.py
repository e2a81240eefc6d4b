"""A reader of GET …/events that knows nothing of the client: http.client, and an event parser of a few lines."""

from __future__ import annotations

import base64
import http.client
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from remote_env.protocol import EPOCH_HEADER

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Said:
    """One event."""

    name: str
    id: str | None
    data: dict[str, Any]

    @property
    def bytes(self) -> bytes:
        """What an output event carries."""
        if "text" in self.data:
            return str(self.data["text"]).encode()
        return base64.b64decode(self.data["base64"], validate=True)


def parse(block: bytes) -> Said:
    """One event without its empty line. Strict: the fields in their order, each once, nothing else."""
    match = re.fullmatch(
        rb"(?:id: (?P<id>[0-9,]+)\n)?event: (?P<name>[a-z]+)\ndata: (?P<data>[^\n]*)\ncrc32: (?P<check>[0-9a-f]{8})", block
    )
    assert match is not None, block
    checked = b"\n".join((match["name"], match["id"] or b"", match["data"]))
    assert int(match["check"], 16) == zlib.crc32(checked), block
    return Said(match["name"].decode(), None if match["id"] is None else match["id"].decode(), json.loads(match["data"]))


class Follower:
    """One connection. Iterating gives the events, and ends where the stream ends properly; a stream that is cut raises
    http.client.IncompleteRead or ConnectionError.

    Args:
        last: Last-Event-ID, to go on behind that event.
        begin: `from` in the query.
    """

    def __init__(
        self, port: int, token: str, eid: str, epoch: str, *, last: str | None = None, begin: str | None = None, address: str = "127.0.0.1"
    ) -> None:
        self.connection = http.client.HTTPConnection(address, port, timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {token}", EPOCH_HEADER: epoch}
        if last is not None:
            headers["Last-Event-ID"] = last
        query = "" if begin is None else f"?from={begin}"
        self.connection.request("GET", f"/v1/executions/{eid}/events{query}", headers=headers)
        self.response = self.connection.getresponse()
        self.status = self.response.status
        self.headers = self.response.headers
        self.last = last
        self._buffer = b""

    def __iter__(self) -> Iterator[Said]:
        return self

    def __next__(self) -> Said:
        while b"\n\n" not in self._buffer:
            piece = self.response.read1(1 << 20)
            if not piece:
                assert not self._buffer, "the stream ended within an event"
                raise StopIteration
            self._buffer += piece
        block, _, self._buffer = self._buffer.partition(b"\n\n")
        said = parse(block)
        if said.id is not None:
            self.last = said.id
        return said

    def until(self, name: str) -> list[Said]:
        """All events up to and with the first of this name."""
        found = []
        for said in self:
            found.append(said)
            if said.name == name:
                return found
        raise AssertionError(f"the stream ended without {name!r}: {[each.name for each in found]}")

    def close(self) -> None:
        self.response.close()
        self.connection.close()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def output(events: list[Said], start: int = 0, stream: str = "merged") -> bytes:
    """The bytes of one stream, which must follow each other from `start` on without a gap."""
    content = b""
    for said in events:
        assert said.name != "gap", said
        if said.name == "output" and said.data["stream"] == stream:
            assert said.data["offset"] == start + len(content), f"expected byte {start + len(content)}: {said}"
            content += said.bytes
    return content
