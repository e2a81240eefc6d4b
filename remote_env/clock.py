"""Time, from two sides: how long this process was awake, and how long it really took."""

from __future__ import annotations

import time

# Linux's, else macOS's: there time.monotonic() is the one that stands still. Windows' goes on by itself.
_ELAPSED: int | None = getattr(time, "CLOCK_BOOTTIME", None) or getattr(time, "CLOCK_MONOTONIC", None)


class Clock:
    """The machine's clocks. Neither is set back or forward by anybody."""

    def awake(self) -> float:
        """Seconds that stand still while the machine sleeps: what timeouts are counted in."""
        return time.monotonic()

    def elapsed(self) -> float:
        """Seconds that go on while the machine sleeps: what leases and downtimes are counted in."""
        return time.monotonic() if _ELAPSED is None else time.clock_gettime(_ELAPSED)


CLOCK = Clock()
