"""What processes cost, from /proc."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
Pid = int


def _pid(process: subprocess.Popen[bytes] | Pid | None) -> Pid:
    assert process is not None
    return process if isinstance(process, int) else process.pid


@dataclass(frozen=True)
class Cpu:
    """Seconds in user space and in the kernel."""

    user_s: float
    system_s: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s - other.user_s, self.system_s - other.system_s)

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s + other.user_s, self.system_s + other.system_s)

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s


def cpu(process: subprocess.Popen[bytes] | Pid | None, *, children: bool = False) -> Cpu:
    """What a process has cost; with `children` also those that ended and that it has waited for (proc(5), stat)."""
    fields = Path(f"/proc/{_pid(process)}/stat").read_text().rpartition(")")[2].split()
    user, system, user_children, system_children = (int(value) / _TICKS for value in fields[11:15])
    return Cpu(user + user_children, system + system_children) if children else Cpu(user, system)


def cpu_seconds(process: subprocess.Popen[bytes] | Pid | None) -> float:
    return cpu(process).total_s


def commands() -> dict[Pid, list[str]]:
    """Every process of the machine with its command line. Kernel threads have none."""
    found = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            except OSError:
                continue  # ended meanwhile
            if words:
                found[int(directory.name)] = words
    return found


def running(*programs: str) -> list[Pid]:
    """Processes that run one of these programs, by its file name."""
    return [pid for pid, words in commands().items() if words[0].rpartition("/")[2] in programs]


@dataclass(frozen=True)
class Footprint:
    """What a process holds: resident bytes, the most that it ever held since `reset_peak`, descriptors, threads."""

    rss_bytes: int
    peak_bytes: int
    fds: int
    threads: int


def footprint(process: subprocess.Popen[bytes] | Pid | None) -> Footprint:
    pid = _pid(process)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Footprint(
        rss_bytes=int(status["VmRSS"].split()[0]) << 10,
        peak_bytes=int(status["VmHWM"].split()[0]) << 10,
        fds=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
    )


def pss_bytes(pid: Pid) -> int:
    """Memory of a process, pages that it shares counted in parts."""
    rollup = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(rollup["Pss"].split()[0]) << 10


def reset_peak(process: subprocess.Popen[bytes] | Pid | None) -> None:
    """From here on `peak_bytes` begins anew (proc(5), clear_refs)."""
    Path(f"/proc/{_pid(process)}/clear_refs").write_text("5")
