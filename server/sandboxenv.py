"""The environment of sandboxes whose container was made without it: given with every command. It is kept for the next server in a
file that only this one's user can read, as the engine keeps a container's; the journal never has it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger("server.sandboxenv")


class SandboxEnv:
    """Args:
    directory: one file for each sandbox lies in it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, sandbox_id: str, env: dict[str, str]) -> None:
        """Whole or not at all, also where this process dies meanwhile. Raises OSError."""
        if not env:
            return
        fresh = self._directory / f".{sandbox_id}"
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(env))
        fresh.rename(self._directory / sandbox_id)

    def of(self, sandbox_id: str) -> dict[str, str]:
        """What was kept, empty where nothing was. Raises OSError."""
        try:
            env: dict[str, str] = json.loads((self._directory / sandbox_id).read_text())
        except FileNotFoundError:
            return {}
        except ValueError:  # it never reached the disk: the host went down, and the container with it
            log.warning("an environment is cut short", extra={"sandbox_id": sandbox_id})
            return {}
        return env

    def drop(self, sandbox_id: str) -> None:
        with contextlib.suppress(OSError):  # the next sweep finds it
            (self._directory / sandbox_id).unlink(missing_ok=True)

    def drop_all_but(self, live: Iterable[str]) -> None:
        """What a server that died left of others."""
        wanted = set(live)
        for file in self._directory.iterdir():
            if file.name not in wanted:
                self.drop(file.name)
