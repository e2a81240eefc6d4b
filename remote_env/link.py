"""The link to the server as its caller sees it: how it stands, and who is told when that changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial

from remote_env.clock import CLOCK, Clock
from remote_env.forks import tell_in_child
from remote_env.linkstate import Answered, ClientClosed, Disconnected, LinkEvent, LinkMachine, LinkNews, LinkState
from remote_env.notifier import Notifier
from remote_env.trace import trace

OnDisconnected = Callable[[str], object]
OnReconnected = Callable[[float], object]


@dataclass(frozen=True)
class LinkSnapshot:
    """How the link stood at one moment.

    Args:
        state: unknown (nothing was tried yet), connected, degraded (after the first missed beat, or a connection closed by
            the peer), disconnected (after `Timings.heartbeat_misses` in a row), closed (for good).
        since: when it came into this state.
        reason: why it is not connected; None when it is.
        misses: beats missed in a row.
        failures: beats missed and connections closed by the peer, in all.
        reconnects: times that the server answered again after a failure.
        instance_id: of the server that answered last; None: none has said so yet.
    """

    state: LinkState
    since: datetime
    reason: str | None
    misses: int
    failures: int
    reconnects: int
    instance_id: str | None


class Link:
    """One client's link. It is watched by the process's heartbeat for that server, from the first sandbox on; until then an
    answer to any call tells that it is connected. Threads may share it."""

    def __init__(
        self,
        misses_allowed: int,
        on_disconnected: OnDisconnected | None = None,
        on_reconnected: OnReconnected | None = None,
        *,
        clock: Clock = CLOCK,
    ) -> None:
        self._misses_allowed = misses_allowed
        self._on_disconnected = on_disconnected
        self._on_reconnected = on_reconnected
        self._clock = clock
        self._notifier = Notifier("remote-env-link-callbacks")
        self._reset()
        tell_in_child(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._machine = LinkMachine(self._misses_allowed, self._clock.elapsed())

    def after_fork_in_child(self) -> None:
        """The child has no connection yet."""
        closed = self._machine.state is LinkState.CLOSED
        self._reset()
        self._notifier.after_fork_in_child()
        if closed:
            self._machine.handle(ClientClosed(self._clock.elapsed()))

    def snapshot(self) -> LinkSnapshot:
        with self._lock:
            machine = self._machine
            age = timedelta(seconds=self._clock.elapsed() - machine.since)
            return LinkSnapshot(
                state=machine.state,
                since=datetime.now(timezone.utc) - age,
                reason=machine.reason,
                misses=machine.misses,
                failures=machine.failures,
                reconnects=machine.reconnects,
                instance_id=machine.instance_id,
            )

    @property
    def state(self) -> LinkState:
        """unknown, connected, degraded, disconnected or closed; equal to these words."""
        return self.snapshot().state

    @property
    def since(self) -> datetime:
        return self.snapshot().since

    @property
    def reason(self) -> str | None:
        return self.snapshot().reason

    @property
    def misses(self) -> int:
        return self.snapshot().misses

    @property
    def failures(self) -> int:
        return self.snapshot().failures

    @property
    def reconnects(self) -> int:
        return self.snapshot().reconnects

    @property
    def instance_id(self) -> str | None:
        return self.snapshot().instance_id

    def __repr__(self) -> str:
        now = self.snapshot()
        return f"<Link {now.state.value} since {now.since:%H:%M:%S}" + (f": {now.reason}>" if now.reason else ">")

    # ------------------------------------------------------------------------------ for the client and its heartbeat

    def handle(self, event: LinkEvent) -> LinkNews | None:
        """Takes what happened; has the callback called that it concerns. Returns what was told."""
        with self._lock:
            before = self._machine.state
            news = self._machine.handle(event)
            after = self._machine.state
            # Under the lock: two threads must not tell in another order than things happened.
            if isinstance(news, Disconnected):
                if self._on_disconnected is not None:
                    self._notifier.tell(partial(self._on_disconnected, news.reason))
            elif news is not None and self._on_reconnected is not None:
                self._notifier.tell(partial(self._on_reconnected, news.downtime_s))
        if before is not after:
            trace("heartbeat", "link: %s -> %s (%s)", before.value, after.value, event)
        return news

    def first_answer(self, instance_id: str | None) -> None:
        """A call was answered before any beat was due."""
        with self._lock:
            if self._machine.state is LinkState.UNKNOWN:
                self._machine.handle(Answered(self._clock.elapsed(), instance_id))

    def close(self) -> None:
        """No callback is begun any more."""
        self.handle(ClientClosed(self._clock.elapsed()))

    def join_callbacks(self, wait_s: float) -> None:
        self._notifier.close(wait_s)
