"""From when results are beyond retention (KEEP), though the wall clock may jump: what ended an hour ago by a clock that was then
put forward by a day has not been kept for a day.

Rows carry wall time, which alone outlives a reboot. Within one boot, wall time and the time since boot drift apart only by
a jump. A jump forwards makes all that ended before look that much older: until one retention has passed since, that
much is added to it. A jump backwards makes it look younger, so that it is kept longer, which breaks no promise.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from server.journal import Journal

log = logging.getLogger("server.retention")

_META = "clock"  # the journal's word for what is known of the clock
_JUMP_S = 5.0  # seconds; less than this is the clock being kept right


class Retention:
    """Args:
    retention_s: how long results are kept, in seconds.
    boot_id: of this boot of the machine; what was seen in another one says nothing.
    """

    def __init__(
        self, journal: Journal, retention_s: float, boot_id: str, *, wall: Callable[[], float] = time.time,
        since_boot: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:  # fmt: skip
        self._journal = journal
        self._retention_s = retention_s
        self._boot_id = boot_id
        self._wall = wall
        self._since_boot = since_boot
        seen: dict[str, Any] = json.loads(journal.meta(_META) or "{}")
        self._jumps: list[tuple[float, float]] = [(at, by) for at, by in seen.get("jumps", [])]
        self._offset = float(seen["offset"]) if seen.get("boot_id") == boot_id else None

    def horizon(self) -> float:
        """Seconds since 1970: what was over before then is beyond retention. Raises CommitFailed."""
        now = self._wall()
        offset = now - self._since_boot()
        if self._offset is None or abs(offset - self._offset) > _JUMP_S:
            self._learn(now, offset)
        return now - self._retention_s - sum(by for at, by in self._jumps if now - at < self._retention_s)

    def _learn(self, now: float, offset: float) -> None:
        jumps = [(at, by) for at, by in self._jumps if now - at < self._retention_s]
        if self._offset is not None:
            by = offset - self._offset
            log.warning("the wall clock jumped", extra={"by_s": round(by, 1)})
            if by > 0:
                jumps.append((now, by))
        self._journal.set_meta(_META, json.dumps({"boot_id": self._boot_id, "offset": offset, "jumps": jumps}))
        self._offset, self._jumps = offset, jumps
