"""Wheel hook: compile the sandbox's init for every architecture the engine's host may have, and ship it in the wheel.

An editable install leaves it out: there the server builds the init of its own host on first use.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ARCHITECTURES = ("x86_64", "aarch64")


class InitBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds ``server/init/bin/remote-env-init-<arch>`` to the wheel; any compile error fails the build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        # The isolated build environment does not have the project on its path, and initbuild needs only the standard library.
        sys.path.insert(0, self.root)
        try:
            from server.initbuild import build
        finally:
            sys.path.remove(self.root)
        for arch in ARCHITECTURES:
            binary = build(arch)
            self.app.display_info(f"init for {arch}: {binary.stat().st_size} bytes")
            build_data["force_include"][str(binary)] = str(Path("server/init/bin") / binary.name)
