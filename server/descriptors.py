"""Descriptors that travel over the link: memory files that are sent, and what is checked of those that come."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Sequence

from server.messages import BadMessage


def memfd(name: str, content: bytes) -> int:
    """A descriptor to read `content` from, at its beginning."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def read_body(fd: int, length: int) -> bytes:
    """The body of a LARGE message. The descriptor comes from the sandbox: only a memory file is read, and its size is
    checked before, so nothing here can block or grow. Raises BadMessage."""
    try:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:") or os.fstat(fd).st_size != length:
            raise BadMessage("a large message's descriptor is no memory file of its length")
        body = os.pread(fd, length, 0)
    except OSError as error:
        raise BadMessage(f"a large message's descriptor cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)
    if len(body) != length:
        raise BadMessage("a large message's body is shorter than it says")
    return body


def is_read_end(fd: int) -> bool:
    """A read end. A write end, or a descriptor that only names a FIFO, would fail at the first read."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    return stat.S_ISFIFO(os.fstat(fd).st_mode) and flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_PATH
