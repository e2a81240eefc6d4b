"""Releases of other projects that do not fit beside the ones that are installed: each in a directory of its own, made at the first need."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

_CACHE = Path(__file__).resolve().parents[2] / ".cache"


def package_directory(requirement: str) -> Path:
    """Where this release lies without what it depends on: to be put at the front of PYTHONPATH."""
    directory = _CACHE / "packages" / requirement
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(_CACHE / "packages.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            partial = directory.with_name(f"{directory.name}.partial")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
            subprocess.run([*pip, "--target", partial, requirement], check=True)
            partial.rename(directory)
    return directory
