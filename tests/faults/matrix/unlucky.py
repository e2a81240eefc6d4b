"""A wrong clock and a failing disk for one server: `unlucky.c`, preloaded into its process."""

from __future__ import annotations

import importlib.util
import mmap
import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
FIELDS = ("offset_ns", "writes", "syncs", "failed_writes", "failed_syncs")
_SIZE = 8 * len(FIELDS)


class Unlucky:
    """Args:
    directory: where the library and its control block are put.
    path_part: what the path of a file that fails contains.

    Attributes:
        environ: what the server's process needs in its environment.
    """

    def __init__(self, directory: Path, path_part: str = "no such file") -> None:
        library, control = directory / "unlucky.so", directory / "unlucky.control"
        subprocess.run([*_compiler(), "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl"], check=True)
        control.write_bytes(bytes(_SIZE))
        with open(control, "r+b") as file:
            self._block = mmap.mmap(file.fileno(), _SIZE)
        self.environ = {"LD_PRELOAD": str(library), "UNLUCKY_FILE": str(control), "UNLUCKY_PATH": path_part}

    def __getitem__(self, field: str) -> int:
        return int(struct.unpack_from("=q", self._block, 8 * FIELDS.index(field))[0])

    def __setitem__(self, field: str, value: int) -> None:
        struct.pack_into("=q", self._block, 8 * FIELDS.index(field), value)


def _compiler() -> list[str]:
    found = shutil.which("cc")
    if found is not None:
        return [found]
    assert importlib.util.find_spec("ziglang") is not None, "a C compiler is needed: cc, or the package ziglang"
    return [sys.executable, "-m", "ziglang", "cc"]
