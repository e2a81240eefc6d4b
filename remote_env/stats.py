"""Counters of one transport, safe to raise from many threads."""

from __future__ import annotations

import threading

COUNTERS = (
    "sent",
    "completed",
    "timed_out",
    "reattached",
    "not_delivered",
    "redelivered",
    "mismatched",
    "not_ours",
    "corrupted",
    "calls",
    "retries",
    "bytes_sent",
    "bytes_received",
    "connections_opened",
    "connections_reused",
    "pool_rebuilds",
)
"""Of executions: sent; completed: their end came; timed_out: the call's own deadline came first; reattached: found again by
id after the link broke; not_delivered: the request got lost and its id was fenced; redelivered: run again as a new execution.
Of answers: mismatched: of another request, sandbox, epoch or execution; not_ours: no answer of a remote-env server; corrupted:
output whose length or sha256 was wrong. Of HTTP: calls: requests tried; retries; bytes and connections."""


class Stats:
    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a finalizer may run, and count, in the middle of add()
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._completed_s = 0.0

    def add(self, **increments: int) -> None:
        with self._lock:
            for name, increment in increments.items():
                self._counts[name] += increment

    def complete(self, seconds: float) -> None:
        """An execution that was sent here has ended, so long after its call began."""
        with self._lock:
            self._counts["completed"] += 1
            self._completed_s += seconds

    def snapshot(self) -> dict[str, int | float]:
        """Every counter, and `mean_s`: the seconds from a call's beginning to its execution's end, over all completed ones."""
        with self._lock:
            completed = self._counts["completed"]
            return {**self._counts, "mean_s": self._completed_s / completed if completed else 0.0}

    def reset_lock_after_fork(self) -> None:
        """Another thread of the parent may have held the lock at the moment of the fork."""
        self._lock = threading.RLock()
