"""Holds one thread of a process still, or a dead one from being reaped, as the kernel does where memory is short."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_RECVMSG = {"x86_64": 47, "aarch64": 212}.get(platform.machine())
_WALL = 0x40000000
_SEIZE, _INTERRUPT, _SYSCALL, _DETACH = 0x4206, 0x4207, 24, 17
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, tid: int) -> None:
    if _libc.ptrace(request, tid, None, None) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace request {request:#x}")


@contextmanager
def halted(tid: int, send: Callable[[], object]) -> Iterator[None]:
    """The thread halts where it is about to receive the message that `send` sends it, and goes on after the body."""
    _ptrace(_SEIZE, tid)
    _ptrace(_INTERRUPT, tid)
    os.waitpid(tid, _WALL)
    send()
    while _entered(tid) != _RECVMSG:
        _ptrace(_SYSCALL, tid)
        os.waitpid(tid, _WALL)
    try:
        yield
    finally:
        _ptrace(_DETACH, tid)


@contextmanager
def undead(pid: int) -> Iterator[None]:
    """The process can be killed, but is a zombie that nobody can reap until the end of the body, before which it must be killed."""
    _ptrace(_SEIZE, pid)
    try:
        yield
    finally:
        os.waitpid(pid, _WALL)


def _entered(tid: int) -> int:
    """The system call that the halted thread is in."""
    with open(f"/proc/{tid}/syscall") as file:
        return int(file.read().split()[0])
