"""What a process takes of the machine, as the kernel tells it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Footprint:
    """Memory in bytes: resident, and the part of it that is this process's own."""

    rss_bytes: int
    private_bytes: int
    fds: int
    threads: int


def footprint(pid: int) -> Footprint:
    """Of this process now. Raises OSError where there is none."""
    proc = Path(f"/proc/{pid}")
    rollup = dict(line.split(None, 1) for line in (proc / "smaps_rollup").read_text().splitlines()[1:])
    private = sum(_kib(rollup[name]) for name in ("Private_Clean:", "Private_Dirty:"))
    return Footprint(_kib(rollup["Rss:"]) * 1024, private * 1024, len(os.listdir(proc / "fd")), len(os.listdir(proc / "task")))


def _kib(text: str) -> int:
    return int(text.split()[0])
