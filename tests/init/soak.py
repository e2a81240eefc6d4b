"""`python -m tests.init.soak [N]`: N executions one after another (default 100,000) on one init, as root; it must not grow."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from server import initbuild
from tests.init.harness import Init

WARM_UP = 500


def soak(init: Init, count: int) -> None:
    """Raises AssertionError where the init holds more descriptors, memory or executions afterwards than before."""
    server = init.server
    server.connect()
    for _ in range(WARM_UP):
        server.do(["true"])
    server.all_said()
    files, resident = _open_files(init.pid), _resident_bytes(init.pid)
    for _ in range(count - WARM_UP):
        assert server.do(["true"]).exit_code == 0
    server.all_said()
    assert _open_files(init.pid) == files
    assert _resident_bytes(init.pid) <= resident + (64 << 10)
    server.hang_up()
    assert server.connect().entries == ()


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    init = Init(initbuild.init_path(initbuild.host_arch()))
    began = time.monotonic()
    try:
        soak(init, count)
    finally:
        init.close()
    sys.stdout.write(f"{count} executions in a row in {time.monotonic() - began:.0f} s: nothing grew\n")


if __name__ == "__main__":
    main()
