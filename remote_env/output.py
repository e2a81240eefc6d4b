"""The bytes that a command wrote, whole or not at all: fetched by Range in pieces, checked against their sha256."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from remote_env.carrier import Reply
from remote_env.correlation import About
from remote_env.errors import LinkLost, NotRunError, OutcomeUnknownError, OutputIncomplete
from remote_env.events import StreamName
from remote_env.exchange import BrokenAnswer, Exchange, Refused, wait_value
from remote_env.partial import PartialFile
from remote_env.protocol import EPOCH_HEADER, Output

PIECE_BYTES = 4 << 20
SAVED_PIECE_BYTES = 1 << 20  # on the way into a file: of many at a time, all are in memory
SAVED_MODE = 0o644
STATE_HEADER = "X-Remote-Env-State"
TRIES = 3  # of the whole, when its checksum is wrong

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

log = logging.getLogger("remote_env")


@dataclass(frozen=True)
class Piece:
    """Kept bytes of an output, and the execution's state when they were read. `last`: the output ends with them."""

    data: bytes
    state: str
    last: bool


async def fetch_piece(exchange: Exchange, about: About, stream: StreamName, start: int, end: int | None, wait_s: float = 0.0) -> Piece:
    """Kept bytes from `start` to `end` (exclusive) or to what there is: asked for once. Where there are none yet, the server
    waits for some for `wait_s` seconds.

    Raises NotSent, MaybeSent, Refused, ProtocolMismatch, EpochChanged.
    """
    query = [] if stream == "merged" else [f"stream={stream}"]
    if wait_s:
        query.append(f"wait={wait_value(wait_s)}")
    path = f"/v1/executions/{about.execution_id}/output" + (f"?{'&'.join(query)}" if query else "")
    headers = {EPOCH_HEADER: about.epoch or "", "Range": f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"}
    try:
        return _read_piece(await exchange.piece(path, headers, wait_s=wait_s, about=about), start, end)
    except Refused as refusal:
        if refusal.problem.code == "range_not_satisfiable":
            return Piece(b"", "ended", last=True)
        raise


def _read_piece(reply: Reply, start: int, end: int | None) -> Piece:
    state = reply.headers.get(STATE_HEADER, "")
    over = state in ("ended", "abandoned")
    if reply.status == 204:
        return Piece(b"", state, last=over)
    if reply.status == 200:
        if start:
            raise BrokenAnswer("asked for a part of the output, got all of it")
        return Piece(reply.body[:end], state, last=over and (end is None or len(reply.body) <= end))
    span = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if span is None or int(span[1]) != start or int(span[2]) - start + 1 != len(reply.body) or (end is not None and int(span[2]) >= end):
        raise BrokenAnswer(f"asked for output from byte {start}, got {reply.headers.get('Content-Range')!r}")
    return Piece(reply.body, state, last=over and span[3] == str(int(span[2]) + 1))


class OutputReader:
    """The kept output of one execution, or of one of its streams."""

    def __init__(self, exchange: Exchange, about: About, stream: StreamName = "merged") -> None:
        self._exchange = exchange
        self._about = about
        self._stream = stream

    async def whole(self, output: Output) -> bytes:
        """All kept bytes of an ended execution, whose `output` it is. Raises OutputIncomplete, OutcomeUnknownError."""
        inline = output.inline()
        if inline is not None and _is_whole(output, inline):
            return inline
        if output.purged:
            raise self._incomplete("it was purged")
        for _ in range(TRIES):
            try:
                data = await self._pieces(output.kept_bytes)
            except (LinkLost, NotRunError) as error:  # of the request for the output: the command's own fate is known
                raise self._incomplete(str(error)) from error
            if _is_whole(output, data):
                return data
            self._fetch_again()
        raise self._incomplete(f"length or sha256 was wrong {TRIES} times")

    async def save(self, output: Output, target: Path) -> None:
        """`whole`, into a file that has its name only once it is whole. Raises as that, and OSError."""
        if output.purged:
            raise self._incomplete("it was purged")
        with PartialFile(target, resume=False) as partial:
            for _ in range(TRIES):
                digest = hashlib.sha256()
                size = 0
                async for data in self._saved_pieces(output):
                    digest.update(data)
                    size += len(data)
                    partial.write(data)
                if size == output.kept_bytes and output.sha256 in (None, digest.hexdigest()):
                    partial.settle(SAVED_MODE)
                    return
                self._fetch_again()
                partial.restart()
        raise self._incomplete(f"length or sha256 was wrong {TRIES} times")

    async def _saved_pieces(self, output: Output) -> AsyncIterator[bytes]:
        inline = output.inline()
        if inline is not None and _is_whole(output, inline):
            yield inline
            return
        start = 0
        while start < output.kept_bytes:
            try:
                piece = await self._piece(start, min(output.kept_bytes, start + SAVED_PIECE_BYTES))
            except (LinkLost, NotRunError) as error:
                raise self._incomplete(str(error)) from error
            if not piece:
                return
            start += len(piece)
            yield piece

    async def so_far(self) -> bytes:
        """What a running execution has written and the server keeps, up to now."""
        data = bytearray()
        while piece := await self._piece(len(data), None):
            data += piece
        return bytes(data)

    def _fetch_again(self) -> None:
        self._exchange.transport.stats.add(corrupted=1, retries=1)
        self._exchange.transport.drop_connections()
        log.warning("execution %s: its output came with a wrong length or sha256; fetching it again", self._about.execution_id)

    async def _pieces(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = await self._piece(len(data), min(size, len(data) + PIECE_BYTES))
            if not piece:
                break
            data += piece
        return bytes(data)

    async def _piece(self, start: int, end: int | None) -> bytes:
        async def attempt() -> bytes:
            return (await fetch_piece(self._exchange, self._about, self._stream, start, end)).data

        what = f"GET /v1/executions/{self._about.execution_id}/output"
        try:
            return await self._exchange.persist(attempt, what, budget_s=self._exchange.transport.timings.reconnect_budget_s)
        except Refused as refusal:
            if refusal.problem.code == "gone":
                raise self._incomplete("it was purged") from refusal
            if refusal.problem.code in ("not_found", "epoch_mismatch"):
                raise OutcomeUnknownError(
                    f"The server knows execution {self._about.execution_id} no more ({refusal}).", execution_id=self._about.execution_id
                ) from refusal
            raise refusal.error(execution_id=self._about.execution_id) from refusal

    def _incomplete(self, why: str) -> OutputIncomplete:
        return OutputIncomplete(
            f"The output of execution {self._about.execution_id} could not be fetched whole: {why}. The command itself ran; do not send "
            "it again for this.",
            execution_id=self._about.execution_id,
        )


def _is_whole(output: Output, data: bytes) -> bool:
    return len(data) == output.kept_bytes and (output.sha256 is None or hashlib.sha256(data).hexdigest() == output.sha256)
