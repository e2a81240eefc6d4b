"""Secrets leave the journal once the command that they are for has started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_WIPE_S = 1.0  # seconds after the start within which secrets leave the journal


class Wiping:
    """Many commands' secrets go in one commit.

    Args:
        wipe: wipes those of these executions, and has committed when it returns.

    Attributes:
        wiped: something was wiped that the write-ahead log may still hold, perhaps by a server before this one.
    """

    def __init__(self, wipe: Callable[[list[str]], None]) -> None:
        self._wipe = wipe
        self._loop = asyncio.get_running_loop()
        self._ids: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self.wiped = True

    def soon(self, execution_id: str) -> None:
        if not self._ids:
            self._timer = self._loop.call_later(_WIPE_S, self._now)
        self._ids.append(execution_id)

    def _now(self) -> None:
        ids, self._ids = self._ids, []
        self._wipe(ids)
        self.wiped = True

    def close(self) -> None:
        """What is left goes now; nothing is written afterwards."""
        if self._timer is not None:
            self._timer.cancel()
        if self._ids:
            self._now()
