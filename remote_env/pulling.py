"""Fetching a file's content in ranges, each of them checked by its own SHA-256 before it counts.

A range that broke off, or came damaged, is asked for again; those before it stay. All of them are of one version of the file:
from the second on each says which (`If-Match`), and the server refuses when it is another one by then. How much is asked for at
once follows from how fast it comes: some seconds' worth, so that little is lost when a link breaks.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Protocol

from remote_env.carrier import StreamedReply
from remote_env.errors import Damaged, FileChanged
from remote_env.exchange import BrokenAnswer, Refused
from remote_env.filemodels import MODE_HEADER
from remote_env.filerequests import FileRequests, Path
from remote_env.hashed import CutShort, Damage, Piece, Unframer
from remote_env.intake import Intake

FIRST_RANGE = 8 << 20  # bytes
_LEAST_RANGE, _MOST_RANGE = 1 << 20, 256 << 20
_QUICK_S, _SLOW_S = 1.0, 8.0  # a range that comes quicker is followed by a larger one, a slower one by a smaller
_TRIES = 3  # of a damaged range, and of a file that changes while it is read

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

log = logging.getLogger("remote_env")


class Sink(Protocol):
    """Where content goes."""

    etag: str | None  # of the version that what is in it is of; None: nothing is in it
    kept: int  # bytes that are checked and stay
    apart: bool  # it may wait for a disk: it is used aside (see `lanes.Aside`), by one thread at a time

    def write(self, data: Piece) -> None:
        """Behind what is there, checked or not."""

    def rewind(self) -> None:
        """Forget what is not checked."""

    def commit(self, etag: str | None, sha256: str, whole: bool) -> None:
        """What was written since the last time is checked, and has this SHA-256. `whole`: it is all."""

    def restart(self) -> None:
        """Forget everything: the file is another one by now. Raises FileChanged where that cannot be."""


class Pull:
    """One file's content, or a stretch of it, on its way to a sink. `mode`: the file's permission bits, once something came."""

    def __init__(
        self, requests: FileRequests, path: Path, sink: Sink, *, user: str | None, offset: int = 0, length: int | None = None,
        most: int = _MOST_RANGE, on_bytes: Callable[[int], object] = lambda count: None,
    ) -> None:  # fmt: skip
        self._requests = requests
        self._path = path
        self._url = requests.url(path, digest=True, user=user)
        self._sink = sink
        self._offset = offset
        self._end = None if length is None else offset + length
        self._range = min(FIRST_RANGE, most)
        self._most = most
        self._on_bytes = on_bytes
        self._aside = requests.transport.aside
        self._damaged = 0
        self.mode: int | None = None
        self.total: int | None = None  # bytes of the whole file; None: not known, or one that has no size of its own

    async def run(self) -> None:
        """To the end. Raises FileError and its kinds, and what any request raises."""
        changed = 0
        whole = self._end is not None and self._end <= self._offset
        while not whole:
            try:
                began = time.monotonic()
                whole = await self._requests.persist(self._attempt, "GET", self._path)
                self._adapt(time.monotonic() - began)
            except FileChanged:
                changed += 1
                if changed == _TRIES:
                    raise
                log.warning("%s: the file is another one by now: from its beginning again", self._path)
                await self._on_sink(self._sink.restart)

    def _adapt(self, seconds: float) -> None:
        if seconds < _QUICK_S:
            self._range = min(self._range * 2, self._most)
        elif seconds > _SLOW_S:
            self._range = max(self._range // 2, _LEAST_RANGE)

    async def _attempt(self) -> bool:
        """One range. Whether it was the last."""
        sink = self._sink
        at = self._offset + sink.kept
        end = at + self._range if self._end is None else min(at + self._range, self._end)
        headers = {"Range": f"bytes={at}-{end - 1}"}
        if sink.etag is not None:
            headers["If-Match"] = sink.etag
        done = False
        try:
            whole = await self._requests.receive_once(self._url, headers, lambda reply: self._take(reply, at, end))
            done = True
            return whole
        except Refused as refusal:
            # An empty file has no first byte; and a file that has become shorter is refused by its ETag before this.
            if refusal.problem.code != "range_not_satisfiable":
                raise
            return True
        except Damage as damage:
            self._damaged += 1
            self._requests.transport.stats.add(corrupted=1)
            self._requests.transport.drop_connections()
            if self._damaged == _TRIES:
                raise Damaged(f"{self._path}: {damage}, {_TRIES} times.", path=str(self._path)) from damage
            raise BrokenAnswer(str(damage)) from damage
        finally:
            if not done:
                await self._on_sink(sink.rewind)
                self._range = max(self._range // 2, min(_LEAST_RANGE, self._range))

    async def _take(self, reply: StreamedReply, at: int, end: int) -> bool:
        size, whole = self._expected(reply, at, end)
        unframer = Unframer(size)
        sink = self._sink
        # What comes without having been asked for, of a file that is sent as a whole, goes nowhere.
        position = 0 if reply.status == 200 else at

        def write(piece: Piece) -> None:
            nonlocal position
            wanted = memoryview(piece)[max(0, at - position) : None if self._end is None else max(0, self._end - position)]
            position += len(piece)
            if wanted:
                sink.write(wanted)

        begun = position
        async with Intake(unframer, self._aside, apart=sink.apart) as intake:
            while data := await reply.read():
                await intake.take(data, write)
                come = begun + unframer.size
                if come > at:
                    self._on_bytes((come if self._end is None else min(come, self._end)) - self._offset)
            try:
                sha256 = await intake.finish()
            except CutShort as cut:
                raise BrokenAnswer(f"the answer was cut: {cut}") from cut
        self._damaged = 0
        mode = reply.headers.get(MODE_HEADER, "")
        if re.fullmatch("[0-7]{1,5}", mode):
            self.mode = int(mode, 8) & 0o777
        await self._on_sink(lambda: sink.commit(reply.headers.get("ETag"), sha256, whole))
        return whole

    async def _on_sink(self, function: Callable[[], None]) -> None:
        if self._sink.apart:
            await self._aside.run(function)
        else:
            function()

    def _expected(self, reply: StreamedReply, at: int, end: int) -> tuple[int | None, bool]:
        """The size of the content that comes, None where it is not said, and whether it is the last."""
        if reply.status == 200:  # a file without a size of its own, below /proc say: all of it at once
            if self._sink.kept:
                raise BrokenAnswer("asked for a part of the file, got all of it")
            return None, True
        span = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
        if reply.status != 206 or span is None or int(span[1]) != at or int(span[2]) >= end:
            raise BrokenAnswer(f"asked for bytes from {at}, got HTTP {reply.status} {reply.headers.get('Content-Range')!r}")
        self.total = int(span[3])
        last = int(span[2]) + 1
        return last - at, last == self.total or last == self._end
