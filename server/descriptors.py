"""Descriptors that travel over the link: memory files that are sent, and what is checked of those that come."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import stat
from collections.abc import Sequence

from server.messages import BadMessage

_PTMX = os.makedev(5, 2)  # what every pty's master was opened from (pts(4))


def memfd(name: str, content: bytes) -> int:
    """A descriptor to read `content` from, at its beginning."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def receive(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int], int]:
    """One packet of at most `size` bytes: (content, descriptors, recvmsg's flags). The descriptors close on exec, which those of
    `socket.recv_fds` do not: it ignores its flags (CPython 3.9 to 3.14 at least), and a server that starts itself again would keep
    them open for ever."""
    fds = array.array("i")
    data, ancillary, flags, _ = sock.recvmsg(size, socket.CMSG_LEN(most * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, type_, content in ancillary:
        if level == socket.SOL_SOCKET and type_ == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds), flags


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
    """A pipe's read end, or a terminal's other side. A write end, or a descriptor that only names a FIFO, would fail at the
    first read; any other device could be anything."""
    flags, facts = fcntl.fcntl(fd, fcntl.F_GETFL), os.fstat(fd)
    if flags & os.O_PATH:
        return False
    if stat.S_ISCHR(facts.st_mode):
        return facts.st_rdev == _PTMX and flags & os.O_ACCMODE == os.O_RDWR
    return stat.S_ISFIFO(facts.st_mode) and flags & os.O_ACCMODE == os.O_RDONLY
