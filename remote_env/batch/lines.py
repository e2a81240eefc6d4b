"""Files of lines to which whole lines are appended: what a crash tears is the last line, and only that."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType


class LineFile:
    """Appends lines, each of them on the disk when `append` returns. Threads may share it: those that append at the same time
    share one flush.

    A last line without its end was torn by a crash: it is removed when the file is opened, as if it had never been written.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
        self._writing = threading.Lock()
        self._flushing = threading.Lock()
        self._written = self._cut()
        self._flushed = self._written
        self._broken: OSError | None = None

    def append(self, line: str) -> None:
        """Raises OSError: then nobody knows whether it is there, and nothing can be appended any more."""
        data = line.encode("utf-8", "surrogateescape") + b"\n"
        with self._writing:
            self._require_whole()
            left = memoryview(data)
            try:
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError as error:
                self._broken = error
                raise
            self._written += len(data)
            mine = self._written
        with self._flushing:
            if self._flushed >= mine:
                return
            self._require_whole()
            upto = self._written
            try:
                os.fsync(self._file)
            except OSError as error:
                self._broken = error  # what it could not write the kernel may forget: the next flush would tell a lie
                raise
            self._flushed = upto

    def close(self) -> None:
        with self._flushing, self._writing:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _require_whole(self) -> None:
        if self._broken is not None:
            raise OSError(*self._broken.args)
        if self._file < 0:
            raise OSError("the file is closed")

    def _cut(self) -> int:
        """Removes a torn last line; the size of what stays."""
        size = end = os.fstat(self._file).st_size
        while end:
            start = max(0, end - (1 << 16))
            os.lseek(self._file, start, os.SEEK_SET)
            newline = os.read(self._file, end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._file, end)
        return end


def whole_lines(path: Path) -> Iterator[str]:
    """The lines that have their end; no lines where there is no such file."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1].decode("utf-8", "surrogateescape")
