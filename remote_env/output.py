"""The bytes that a command wrote, whole or not at all: fetched by Range in pieces, checked against their sha256."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator

from remote_env.errors import LinkLost, NotRunError, OutcomeUnknownError, OutputIncomplete
from remote_env.exchange import BrokenAnswer, Exchange, Refused, wait_value
from remote_env.protocol import EPOCH_HEADER, Execution
from remote_env.transport import Reply

PIECE_BYTES = 4 << 20
TRIES = 3  # of the whole, when its checksum is wrong

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

log = logging.getLogger("remote_env")


class OutputReader:
    """The kept output of one execution."""

    def __init__(self, exchange: Exchange, execution_id: str, epoch: str) -> None:
        self._exchange = exchange
        self._execution_id = execution_id
        self._path = f"/v1/executions/{execution_id}/output"
        self._epoch_header = {EPOCH_HEADER: epoch}

    def whole(self, execution: Execution) -> bytes:
        """All kept bytes of an ended execution. Raises OutputIncomplete, OutcomeUnknownError (link lost)."""
        inline = execution.output.inline()
        if inline is not None and self._is_whole(execution, inline):
            return inline
        if execution.output.purged:
            raise self._incomplete("it was purged")
        for _ in range(TRIES):
            try:
                data = self._pieces(execution.output.kept_bytes)
            except (LinkLost, NotRunError) as error:  # of the request for the output: the command's own fate is known
                raise self._incomplete(str(error)) from error
            if self._is_whole(execution, data):
                return data
            self._exchange.transport.stats.add(mismatches=1, retries=1)
            self._exchange.transport.drop_connections()
            log.warning("execution %s: its output came with a wrong length or sha256; fetching it again", self._execution_id)
        raise self._incomplete(f"length or sha256 was wrong {TRIES} times")

    def so_far(self) -> bytes:
        """What a running execution has written and the server keeps, up to now."""
        data = bytearray()
        while piece := self._piece(len(data), None, 0.0)[0]:
            data += piece
        return bytes(data)

    def follow(self, result: Callable[[], Execution]) -> Iterator[bytes]:
        """The output as it comes, to its end, in pieces. `result` is asked for the ended execution, to check the
        sha256 of what went by. Raises OutputIncomplete, OutcomeUnknownError."""
        digest = hashlib.sha256()
        position = 0
        over = False
        while not over:
            piece, over = self._piece(position, None, self._exchange.transport.timings.poll_slice_s)
            if piece:
                digest.update(piece)
                position += len(piece)
                yield piece
        output = result().output
        if output.purged or position != output.kept_bytes or output.sha256 not in (None, digest.hexdigest()):
            raise self._incomplete(f"{position} bytes went by, {output.kept_bytes} are kept, or their sha256 differs")

    def _pieces(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece, _ = self._piece(len(data), min(size, len(data) + PIECE_BYTES), 0.0)
            if not piece:
                break
            data += piece
        return bytes(data)

    def _piece(self, start: int, end: int | None, wait_s: float) -> tuple[bytes, bool]:
        """Bytes from `start` to `end` (exclusive) or to what there is; and whether the output ends with them."""
        span = {"Range": f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"}
        path = f"{self._path}?wait={wait_value(wait_s)}" if wait_s else self._path

        def attempt() -> tuple[bytes, bool]:
            return _check_piece(self._exchange.piece(path, {**self._epoch_header, **span}, wait_s=wait_s), start)

        try:
            return self._exchange.persist(attempt, f"GET {self._path}", budget_s=self._exchange.transport.timings.reconnect_budget_s)
        except Refused as refusal:
            if refusal.problem.code == "range_not_satisfiable":
                return b"", True
            if refusal.problem.code == "gone":
                raise self._incomplete("it was purged") from refusal
            if refusal.problem.code in ("not_found", "epoch_mismatch"):
                raise OutcomeUnknownError(
                    f"The server knows execution {self._execution_id} no more ({refusal}).", execution_id=self._execution_id
                ) from refusal
            raise refusal.error(execution_id=self._execution_id) from refusal

    def _is_whole(self, execution: Execution, data: bytes) -> bool:
        kept = execution.output
        return len(data) == kept.kept_bytes and (kept.sha256 is None or hashlib.sha256(data).hexdigest() == kept.sha256)

    def _incomplete(self, why: str) -> OutputIncomplete:
        return OutputIncomplete(
            f"The output of execution {self._execution_id} could not be fetched whole: {why}. The command itself ran; do not send it "
            "again for this.",
            execution_id=self._execution_id,
        )


def _check_piece(reply: Reply, start: int) -> tuple[bytes, bool]:
    over = reply.headers.get("X-Remote-Env-State") in ("ended", "abandoned")
    if reply.status == 204:
        return b"", over
    if reply.status == 200:
        if start:
            raise BrokenAnswer("asked for a part of the output, got all of it")
        return reply.body, over
    span = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if span is None or int(span[1]) != start or int(span[2]) - start + 1 != len(reply.body):
        raise BrokenAnswer(f"asked for output from byte {start}, got {reply.headers.get('Content-Range')!r}")
    return reply.body, over and span[3] == str(int(span[2]) + 1)
