"""The container that this server is in, where it is in one."""

from __future__ import annotations

import os
import re
from pathlib import Path

from server.engineerror import EngineError

Mounts = list[tuple[Path, Path]]
"""Where something is mounted, and where it lies for the engine."""

# A line of proc(5), mountinfo: … what is mounted (its path in its own file system), where, …
_NAMES = re.compile(r"/containers/([0-9a-f]{64})/\S+ /etc/(?:hostname|hosts|resolv\.conf) ")


def own_container() -> str | None:
    """The id of the container this process is in, as well as it can be known, None on a host."""
    if not Path("/.dockerenv").exists():
        return None
    return container_of(Path("/proc/self/mountinfo").read_text()) or os.uname().nodename


def container_of(mountinfo: str) -> str | None:
    """The id that an engine gave the container with these mounts: of the directory that its /etc/hostname and the like come from.
    Other containers' directories may be mounted, too, where an engine runs in it."""
    found = _NAMES.search(mountinfo)
    return found[1] if found else None


def source_of(path: Path, mounts: Mounts) -> Path:
    """Where a path in a container with these mounts lies for the engine. Raises EngineError where it lies in none."""
    holding = [(target, source) for target, source in mounts if path.is_relative_to(target)]
    if not holding:
        raise EngineError(
            "engine_unavailable",
            f"{path} lies inside this server's own container, where the engine cannot mount it from; put the data directory into a volume",
        )
    target, source = max(holding, key=lambda mount: len(mount[0].parts))
    return source / path.relative_to(target)
