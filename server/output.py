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

_PATIENCE_S = 0.002
"""Seconds before a pipe is watched: most commands are over by then, and what a pipe holds is taken at their end anyway. To
begin and end watching costs them as much as a commit."""


class OutputReader:
    """A pipe has one reader, this one (ONEREADER): a read end that is handed over again replaces the old one after that
    reader has stopped.

    Args:
        pipe: the read end, or a terminal's other end; this object owns it.
        spool_file: where the bytes go.
        on_output: called after bytes have come.
        on_failure: called when the spool can take none, though there is room: what is read no more waits in the pipe.
        watching: False where it begins paused: see `resume`.
    """

    __slots__ = ("_file", "_lingering", "_loop", "_on_failure", "_on_output", "_pipe", "_soon", "_take", "_watched")

    def __init__(
        self, pipe: int, spool_file: SpoolFile, on_output: Callable[[], None], on_failure: Callable[[BaseException], None],
        watching: bool = True,
    ) -> None:  # fmt: skip
        self._pipe = pipe
        self._file = spool_file
        self._on_output = on_output
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe, False)
        self._take = spool_file.copy if os.isatty(pipe) else spool_file.take
        self._soon: asyncio.TimerHandle | None = None
        self._watched = False
        self._lingering = False
        if watching:
            self.resume()

    def _readable(self) -> None:
        try:
            taken = self._take(self._pipe, TAKE)
        except OSError as error:
            self._unwatch()
            self._on_failure(error)
            return
        if taken:
            self._on_output()
        elif taken == 0:
            self._unwatch()  # no writer is left; the ending comes over the link

    def pause(self) -> None:
        """Read no more until `resume`: somebody else reads this pipe, or nobody does."""
        self._unwatch()

    def resume(self) -> None:
        """Read what comes from about now on."""
        if self._soon is None and not self._watched and self._pipe >= 0:
            self._soon = self._loop.call_later(_PATIENCE_S, self._watch)

    def _watch(self) -> None:
        self._soon = None
        self._watched = True
        self._loop.add_reader(self._pipe, self._readable)

    def _unwatch(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        elif self._watched:
            self._watched = False
            self._loop.remove_reader(self._pipe)

    async def linger(self, seconds: float, quiet_s: float | None = None) -> None:
        """Read on until the end of the pipe, or for so long: descendants may still have something to say, as in
        `cmd > >(tee f)`. `quiet_s`: or until nothing has come for so many seconds."""
        self._unwatch()
        deadline = self._loop.time() + seconds
        while self._pipe >= 0 and (remaining := deadline - self._loop.time()) > 0:
            taken = self._take(self._pipe, TAKE)
            if taken == 0:
                return
            if taken is None:
                patience = remaining if quiet_s is None else min(remaining, quiet_s)
                if not await self._more(patience):
                    return
            else:
                await asyncio.sleep(0)  # a flood must not hold the loop

    async def _more(self, seconds: float) -> bool:
        """Whether something came within that time."""
        arrived = asyncio.Event()
        self._lingering = True
        self._loop.add_reader(self._pipe, arrived.set)
        try:
            await asyncio.wait_for(arrived.wait(), seconds)
            return True
        except asyncio.TimeoutError:
            return False
        finally:
            self._end_lingering()

    def _end_lingering(self) -> None:
        if self._lingering:
            self._lingering = False
            self._loop.remove_reader(self._pipe)

    def drain(self) -> None:
        """Take what the pipe holds now, once and no more: a child may keep writing for ever (DRAINN)."""
        if self._pipe < 0:
            return
        self._unwatch()
        left = waiting(self._pipe)
        while left > 0:
            taken = self._take(self._pipe, min(left, TAKE))
            if not taken:
                return
            left -= taken

    def close(self) -> None:
        """Let go of the read end. The init keeps one until the ack, the runner one after it."""
        if self._pipe >= 0:
            self._unwatch()
            self._end_lingering()
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

    def attach(
        self, pipe: int, on_output: Callable[[], None], on_failure: Callable[[BaseException], None], *, paused: bool = False
    ) -> None:
        """Read from this read end from now on, in place of an older one, which is let go first (ONEREADER). `paused`: only
        after `resume`."""
        self.detach()
        self.reader = OutputReader(pipe, self.spool_file, on_output, on_failure, not paused)

    def pause(self, take: bool) -> None:
        """Read no more until `resume`; before that, where `take`, what the pipe holds now, once."""
        if self.reader is not None:
            if take:
                self.reader.drain()
            self.reader.pause()

    def resume(self) -> None:
        if self.reader is not None:
            self.reader.resume()

    def detach(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    async def linger(self, seconds: float, quiet_s: float | None = None) -> None:
        """See `OutputReader.linger`."""
        if self.reader is not None:
            await self.reader.linger(seconds, quiet_s)

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
