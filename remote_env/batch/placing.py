"""Where a job goes: to a server that has room. Without I/O and without a clock; whoever uses it holds a lock.

How much room there is, only the server knows: it says no. Then there is room for as many as are there now, and from time to time
for one more, to see.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from remote_env.backoff import Backoff

BUSY_FIRST_S = 0.5
BUSY_MOST_S = 10.0


class Health(str, Enum):
    CONNECTING = "connecting"  # it has not answered yet
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"  # it has answered, and does not now
    DEAD = "dead"  # given up, until it answers again


class Room:
    """One server, as the placing of jobs sees it.

    Args:
        weight: how much it can take compared with others.
        open: False: nothing new goes there; it is asked only about what earlier runs of the batch have left there.
    """

    def __init__(self, name: str, *, open: bool = True, weight: float = 1.0, backoff: Backoff | None = None) -> None:
        self.name = name
        self.open = open
        self.weight = weight
        self.health = Health.CONNECTING
        self.active = 0  # jobs that are there now
        self._limit: int | None = None  # as many as it had when it said no
        self._again_at = 0.0
        self._probing = False  # whether one more than the limit is being tried
        self._backoff = backoff or Backoff(BUSY_FIRST_S, BUSY_MOST_S)

    def has_room(self, now: float) -> bool:
        if not self.open or self.health is not Health.CONNECTED:
            return False
        if self._limit is None or self.active < self._limit:
            return True
        return not self._probing and now >= self._again_at

    def waits_until(self) -> float | None:
        """When it may be tried again; None where time alone changes nothing."""
        waiting = self.open and self.health is Health.CONNECTED and self._limit is not None and not self._probing
        return self._again_at if waiting else None

    def enter(self) -> None:
        """A job goes there."""
        if self._limit is not None and self.active >= self._limit:
            self._probing = True
        self.active += 1

    def taken(self) -> None:
        """The server has made a sandbox for one."""
        if self._limit is not None and self.active > self._limit:
            self._limit = self.active
        self._probing = False
        self._backoff.reset()

    def refused(self, now: float) -> None:
        """It had no room for one, which has left."""
        self._limit = self.active
        self._probing = False
        self._again_at = now + self._backoff.next_s()

    def leave(self) -> None:
        """A job is there no more."""
        self.active -= 1
        if self._limit is not None and self.active <= self._limit:
            self._probing = False


def choose(rooms: Iterable[Room], now: float) -> Room | None:
    """The one with the most room; None where there is none."""
    free = [room for room in rooms if room.has_room(now)]
    return min(free, key=lambda room: (room.active + 1) / room.weight) if free else None
