"""How the link to a server stands: the rules, as a machine without I/O and without a clock.

    UNKNOWN        nothing has been tried yet
    CONNECTED      the latest beat was answered
    DEGRADED       a beat was missed, or the peer has closed the connection; the next beats tell which way it goes
    DISCONNECTED   `misses_allowed` beats in a row were missed
    CLOSED         the client was closed; terminal: nothing that comes later changes anything

               Answered      Missed, fewer   Missed, the last one   PeerClosed     ClientClosed
    UNKNOWN    CONNECTED     DEGRADED        DISCONNECTED           DEGRADED       CLOSED
    CONNECTED  CONNECTED     DEGRADED        DISCONNECTED           DEGRADED       CLOSED
    DEGRADED   CONNECTED     DEGRADED        DISCONNECTED           DEGRADED       CLOSED
    DISCONN.   CONNECTED     DISCONNECTED    DISCONNECTED           DISCONNECTED   CLOSED
    CLOSED     CLOSED        CLOSED          CLOSED                 CLOSED         CLOSED

Entering DISCONNECTED is told as `Disconnected`, leaving it for CONNECTED as `Reconnected`; nothing else is told, so the two
alternate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class LinkState(str, Enum):
    UNKNOWN = "unknown"
    CONNECTED = "connected"
    DEGRADED = "degraded"
    DISCONNECTED = "disconnected"
    CLOSED = "closed"


# ---------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True)
class Answered:
    """The server gave an answer of ours. `now`: seconds, on a clock that goes on while the machine sleeps."""

    now: float
    instance_id: str | None = None


@dataclass(frozen=True)
class Missed:
    """A beat had no answer of ours that took it, in time."""

    now: float
    reason: str


@dataclass(frozen=True)
class PeerClosed:
    """The other side has closed or reset the connection while nothing was asked."""

    now: float
    reason: str


@dataclass(frozen=True)
class ClientClosed:
    now: float


LinkEvent = Answered | Missed | PeerClosed | ClientClosed


# ---------------------------------------------------------------------------------------------------- instructions


@dataclass(frozen=True)
class Disconnected:
    reason: str


@dataclass(frozen=True)
class Reconnected:
    """`downtime_s`: from the first sign of trouble to the answer that ended it."""

    downtime_s: float


LinkNews = Disconnected | Reconnected


class LinkMachine:
    """One client's view of its link. Feed it what happened; it answers with what there is to tell.

    Args:
        misses_allowed: this many missed beats in a row are a lost link.
        now: the time of its beginning, on the events' clock.
    """

    def __init__(self, misses_allowed: int, now: float) -> None:
        if misses_allowed < 1:
            raise ValueError("a link needs at least one miss to be lost")
        self.state = LinkState.UNKNOWN
        self.since = now
        self.reason: str | None = None  # why it is not connected
        self.misses = 0  # in a row
        self.failures = 0  # beats missed, and connections that the peer closed, in all
        self.reconnects = 0  # times that an answer came after a failure
        self.instance_id: str | None = None
        self._misses_allowed = misses_allowed
        self._troubled_since: float | None = None

    def handle(self, event: LinkEvent) -> LinkNews | None:
        if self.state is LinkState.CLOSED:
            return None
        if isinstance(event, ClientClosed):
            self._enter(LinkState.CLOSED, event.now, "the client was closed")
            return None
        if isinstance(event, Answered):
            return self._answered(event)
        self.failures += 1
        self.reason = event.reason
        if self._troubled_since is None:
            self._troubled_since = event.now
        if isinstance(event, Missed):
            self.misses += 1
        if self.state is LinkState.DISCONNECTED:
            return None
        if self.misses >= self._misses_allowed:
            self._enter(LinkState.DISCONNECTED, event.now, event.reason)
            return Disconnected(event.reason)
        self._enter(LinkState.DEGRADED, event.now, event.reason)
        return None

    def _answered(self, event: Answered) -> Reconnected | None:
        news = None
        if self._troubled_since is not None:
            self.reconnects += 1
            if self.state is LinkState.DISCONNECTED:
                news = Reconnected(max(0.0, event.now - self._troubled_since))
        self.misses = 0
        self._troubled_since = None
        self.instance_id = event.instance_id or self.instance_id
        self._enter(LinkState.CONNECTED, event.now, None)
        return news

    def _enter(self, state: LinkState, now: float, reason: str | None) -> None:
        if state is not self.state:
            self.state, self.since = state, now
        self.reason = reason
