"""Which file systems hold files, and which hold what the kernel makes up while it is read."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_STATFS_SIZE = 256  # bytes; struct statfs has 120 on 64-bit Linux, and its first word is f_type

# statfs(2): proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf, binfmt_misc, configfs, efivarfs, selinuxfs, devpts
_MADE_UP = frozenset({
    0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x64626720, 0x74726163, 0x73636673, 0xCAFE4A11, 0x42494E4D, 0x62656570, 0xDE5E81E4,
    0xF97CFF8C, 0x1CD1,
})  # fmt: skip


def is_made_up(fd: int) -> bool:
    """Whether the file lies on a pseudo file system, whose files do things when they are read or written. Raises OSError."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.fstatfs(fd, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int.from_bytes(buffer.raw[:8], "little", signed=True) & 0xFFFFFFFF in _MADE_UP
