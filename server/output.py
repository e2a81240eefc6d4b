"""The reader of one execution's pipe: from the command into the spool, as it comes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from server.spool import TAKE, SpoolFile, waiting

log = logging.getLogger("server.output")


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
