"""A small disk of its own for a part of a server's data directory, to be filled up."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path


class SmallDisk:
    """A tmpfs, mounted at `at`.

    Args:
        at: made where missing, with mode 0700.
        size_bytes: of the disk.
    """

    def __init__(self, at: Path, size_bytes: int) -> None:
        at.mkdir(mode=0o700, parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "remote-env-fault", str(at)], check=True)
        self._at = at
        self._filler = at / "filler"

    def fill(self) -> None:
        """Take every byte that is left."""
        with open(self._filler, "ab", buffering=0) as file:
            for size in (1 << 20, 4096):  # what is left in the end is less than a page
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._at)], check=True)
