"""Wheel hook: compile the sandbox's init for every architecture that an engine's host may have, and ship it in the wheel.

An editable install leaves it out: there the server builds the init of its own host on first use. REMOTE_ENV_INIT_ARCHS
(words out of x86_64, aarch64 and host) builds fewer; `host` needs no download where the machine has a C compiler.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import PurePosixPath
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ARCHITECTURES = ("x86_64", "aarch64")
VARIABLE = "REMOTE_ENV_INIT_ARCHS"


def wanted() -> list[str]:
    """The architectures to build for, each once."""
    words = os.environ.get(VARIABLE, " ".join(ARCHITECTURES)).split()
    return sorted({platform.machine() if word == "host" else word for word in words})


class InitBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds ``server/init/bin/remote-env-init-<arch>`` to the wheel; any compile error fails the build."""

    def dependencies(self) -> list[str]:
        """Zig compiles for any architecture from any machine; the machine's own compiler only for itself."""
        own_compiler_will_do = wanted() == [platform.machine()] and shutil.which("cc")
        return [] if own_compiler_will_do else ["ziglang>=0.13"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raises what server.initbuild.build raises when the compiler fails."""
        if version == "editable":
            return
        # The isolated build environment does not have the project on its path, and initbuild needs only the standard library.
        sys.path.insert(0, self.root)
        try:
            from server.initbuild import build
        finally:
            sys.path.remove(self.root)
        for arch in wanted():
            binary = build(arch)
            self.app.display_info(f"init for {arch}: {binary.stat().st_size} bytes")
            build_data["force_include"][str(binary)] = str(PurePosixPath("server/init/bin") / binary.name)
