"""Counters of one transport, safe to raise from many threads."""

from __future__ import annotations

import threading

COUNTERS = (
    "connections_opened",
    "connections_reused",
    "calls",
    "bytes_sent",
    "bytes_received",
    "retries",
    "pool_rebuilds",
    "mismatches",
    "sent",
    "completed",
    "reattached",
    "undelivered",
    "redelivered",
    "timed_out",
)
"""calls: HTTP requests tried. sent, completed, undelivered, redelivered, timed_out: executions. mismatches: answers that
were not ours, or spoke of another id or epoch. reattached: executions found again by id after their link broke."""


class Stats:
    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a finalizer may run, and count, in the middle of add()
        self._counts = dict.fromkeys(COUNTERS, 0)

    def add(self, **increments: int) -> None:
        with self._lock:
            for name, increment in increments.items():
                self._counts[name] += increment

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def reset_lock_after_fork(self) -> None:
        """Another thread of the parent may have held the lock at the moment of the fork."""
        self._lock = threading.RLock()
