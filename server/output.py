"""From the command's pipes into the spool, as it comes: the reader of one pipe, and the stream that it belongs to."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from server.spool import TAKE, Kept, SpoolFile, Stream, digest, waiting

log = logging.getLogger("server.output")

FACTS: dict[Stream, str] = {"merged": "output", "stdout": "output", "stderr": "stderr"}
"""Where a final row has what is kept of a stream."""


class OutputReader:
    """A pipe has one reader, this one (ONEREADER): a read end that is handed over again replaces the old one after that
    reader has stopped.

    Args:
        pipe: the read end; this object owns it.
        spool_file: where the bytes go.
        on_output: called after bytes have come.
        on_failure: called when the spool can take none, though there is room: what is read no more waits in the pipe.
    """

    __slots__ = ("_file", "_loop", "_on_failure", "_on_output", "_pipe", "_watching")

    def __init__(
        self, pipe: int, spool_file: SpoolFile, on_output: Callable[[], None], on_failure: Callable[[BaseException], None]
    ) -> None:
        self._pipe = pipe
        self._file = spool_file
        self._on_output = on_output
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe, False)
        self._watching = True
        self._loop.add_reader(pipe, self._readable)

    def _readable(self) -> None:
        try:
            taken = self._file.take(self._pipe)
        except OSError as error:
            self._unwatch()
            self._on_failure(error)
            return
        if taken:
            self._on_output()
        elif taken == 0:
            self._unwatch()  # no writer is left; the ending comes over the link

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._pipe)

    async def linger(self, seconds: float) -> None:
        """Read on until the end of the pipe, or for so long: descendants may still have something to say, as in
        `cmd > >(tee f)`."""
        self._unwatch()
        deadline = self._loop.time() + seconds
        while self._pipe >= 0 and (remaining := deadline - self._loop.time()) > 0:
            taken = self._file.take(self._pipe)
            if taken == 0:
                return
            if taken is None:
                await self._more(remaining)
            else:
                await asyncio.sleep(0)  # a flood must not hold the loop

    async def _more(self, seconds: float) -> None:
        arrived = asyncio.Event()
        self._loop.add_reader(self._pipe, arrived.set)
        try:
            await asyncio.wait_for(arrived.wait(), seconds)
        except asyncio.TimeoutError:
            pass
        finally:
            if self._pipe >= 0:
                self._loop.remove_reader(self._pipe)

    def drain(self) -> None:
        """Take what the pipe holds now, once and no more: a child may keep writing for ever (DRAINN)."""
        if self._pipe < 0:
            return
        self._unwatch()
        left = waiting(self._pipe)
        while left > 0:
            taken = self._file.take(self._pipe, min(left, TAKE))
            if not taken:
                return
            left -= taken

    def close(self) -> None:
        """Let go of the read end. The init keeps one until the ack, the runner one after it."""
        if self._pipe >= 0:
            self._watching = False
            self._loop.remove_reader(self._pipe)  # `linger` may be waiting for it
            os.close(self._pipe)
            self._pipe = -1


class LiveOutput:
    """One stream of an execution that has not ended: the file that it goes to and, while there is one, the reader of its pipe.

    Args:
        stream: "merged", or one of two where they are apart.
        spool_file: what an earlier server wrote to it counts.
    """

    __slots__ = ("reader", "spool_file", "stream")

    def __init__(self, stream: Stream, spool_file: SpoolFile) -> None:
        self.stream = stream
        self.spool_file = spool_file
        self.reader: OutputReader | None = None

    def attach(self, pipe: int, on_output: Callable[[], None], on_failure: Callable[[BaseException], None]) -> None:
        """Read from this read end from now on, in place of an older one, which is let go first (ONEREADER)."""
        self.detach()
        self.reader = OutputReader(pipe, self.spool_file, on_output, on_failure)

    def detach(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    async def linger(self, seconds: float) -> None:
        """See `OutputReader.linger`."""
        if self.reader is not None:
            await self.reader.linger(seconds)

    def finish(self) -> dict[str, Any]:
        """Take what the pipe holds, once (DRAINN), let go of it, close the file. Returns what is kept; its "sha256" is None
        where it is still to be computed: see `add_digest`. May be called again."""
        if self.reader is not None:
            self.reader.drain()
            self.detach()
        kept, sha256 = self.spool_file.finish()
        return {"total": kept.total, "head": kept.head, "tail": kept.tail, "truncated": kept.truncated, "sha256": sha256}

    async def add_digest(self, facts: dict[str, Any]) -> None:
        """Compute the sha256 of what is kept, off the event loop."""
        if facts["sha256"] is None:
            kept = Kept(facts["total"], facts["head"], facts["tail"], facts["truncated"])
            facts["sha256"] = await asyncio.to_thread(digest, self.spool_file.path, kept)

    def close(self) -> None:
        """Let go of pipe and file as they are."""
        self.detach()
        self.spool_file.close()
