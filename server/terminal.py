"""The terminal that an execution runs on: what is typed into it, counted, and its size."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import termios

_TYPISTS = 64  # whose input is counted: one that was not seen for longer than so many others is no longer known
_AGAIN_S = 0.1  # a terminal that has room again may say so to nobody: it is looked at so often


class TerminalClosed(Exception):
    """Nothing can be typed into it: it is not there yet, or not any more."""


class Terminal:
    """Args:
    counted: whether this server has seen all of its input, from the first byte on.

    Attributes:
        count: bytes of input it was given; None where nobody knows, since a server before this one may have given it some.
        turn: who types holds it, so that the bytes of two requests never mix.
    """

    def __init__(self, counted: bool) -> None:
        self.count: int | None = 0 if counted else None
        self._typists: dict[str, int] = {}  # bytes of input that each has given it, the latest to come last
        self._typists_known = counted  # whether one that is not among them has given it none
        self._size: tuple[int, int] | None = None  # that it is to have when it is there
        self.turn = asyncio.Lock()
        self._fd = -1
        self._waiting: asyncio.Event | None = None

    @property
    def open(self) -> bool:
        return self._fd >= 0

    def attach(self, master: int) -> None:
        """This is its other end, in place of an older one; what is handed over stays the caller's."""
        self.detach()
        self._fd = os.dup(master)
        os.set_blocking(self._fd, False)
        if self._size is not None:
            self.resize(*self._size)

    def detach(self) -> None:
        if self._fd >= 0:
            self._rest()
            os.close(self._fd)
            self._fd = -1

    def _rest(self) -> None:
        if self._waiting is not None:
            asyncio.get_running_loop().remove_writer(self._fd)
            self._waiting.set()
            self._waiting = None

    def seat(self, typist: str) -> int | None:
        """Somebody comes, or comes again. How many bytes of input they have given it; None where that is not known any more: then
        their count begins anew."""
        known = typist in self._typists or self._typists_known
        had = self._typists[typist] = self._typists.pop(typist, 0)
        while len(self._typists) > _TYPISTS:
            del self._typists[next(iter(self._typists))]
            self._typists_known = False
        return had if known else None

    def typed_by(self, typist: str) -> int:
        """How many bytes of input they have given it since their count began."""
        return self._typists.get(typist, 0)

    async def type_in(self, data: bytes, within_s: float, typist: str | None = None) -> int:
        """Give it these bytes, as fast as the program reads them. For whoever holds `turn`.

        Args:
            typist: whose they are, and are counted for.
        Returns:
            How many it took within that time, in seconds.
        Raises:
            TerminalClosed: it is not there (any more); `count` says how much it took.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        left = memoryview(data)
        in_vain = False
        while left:
            if self._fd < 0:
                raise TerminalClosed
            try:
                taken = os.write(self._fd, left)
            except BlockingIOError:
                if loop.time() >= deadline:
                    break
                if in_vain:  # some kernels call it writable and take nothing: that must not become a busy loop
                    await asyncio.sleep(min(deadline - loop.time(), _AGAIN_S))
                else:
                    await self._room(deadline - loop.time())
                in_vain = True
                continue
            except OSError as error:
                if error.errno == errno.EIO:
                    raise TerminalClosed from None
                raise
            in_vain = False
            left = left[taken:]
            if self.count is not None:
                self.count += taken
            if typist is not None:
                self._typists[typist] = self._typists.get(typist, 0) + taken
        return len(data) - len(left)

    async def _room(self, seconds: float) -> None:
        """Return when it may take more, has gone, or that time is over."""
        waiting = self._waiting = asyncio.Event()
        asyncio.get_running_loop().add_writer(self._fd, waiting.set)
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(waiting.wait(), min(seconds, _AGAIN_S))
        finally:
            if self._waiting is waiting:
                self._rest()

    def resize(self, rows: int, cols: int) -> None:
        """Its size in characters, from now on, or as soon as it is there; what runs on it gets SIGWINCH."""
        self._size = None if self.open else (rows, cols)
        if not self.open:
            return
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
