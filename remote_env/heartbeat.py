"""Keeps leases alive: one daemon thread per process and server renews those of every run that a client here has.

A thread ends when its last client has closed or was forgotten. After a fork the child starts a thread of its own with its
first call; the parent's goes on in the parent alone.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import Protocol

from remote_env.config import Endpoint
from remote_env.errors import ProtocolMismatch
from remote_env.exchange import JSON_BODY, Exchange, Refused, dump
from remote_env.forks import tell_in_child
from remote_env.protocol import LeaseAnswer, LeaseRenewal
from remote_env.timings import Timings
from remote_env.transport import Transport, TransportError

MISSES_UNTIL_DISCONNECTED = 3

log = logging.getLogger("remote_env")


class Member(Protocol):
    """A client whose run's lease is renewed."""

    @property
    def run_id(self) -> str: ...

    @property
    def beat_s(self) -> float:
        """The longest time between two renewals, in seconds."""

    def learn_gone(self, gone: dict[str, str]) -> None:
        """Sandbox ids of the run that are no more, each with the reason."""


class Heartbeat:
    """The thread of one server. Made and ended by `Heartbeats`."""

    def __init__(self, endpoint: Endpoint, timings: Timings, first: Member) -> None:
        self._transport = Transport(endpoint, timings, pool_size=1)
        self._exchange = Exchange(self._transport)
        self._members = [weakref.ref(first)]
        self._lock = threading.RLock()  # guards _members and _stopping
        self._changed = threading.Event()
        self._stopping = False
        self._misses: dict[str, int] = {}
        self._thread = threading.Thread(target=self._beat_until_stopped, name="remote-env-heartbeat", daemon=True)
        self._thread.start()

    def add(self, member: Member) -> bool:
        """False when the thread is ending: the member needs another one."""
        with self._lock:
            if self._stopping:
                return False
            if all(reference() is not member for reference in self._members):
                self._members.append(weakref.ref(member))
        self._changed.set()
        return True

    def discard(self, member: Member) -> None:
        with self._lock:
            self._members = [reference for reference in self._members if reference() not in (None, member)]
            self._stop_if_alone()
        if self._stopping:
            self._changed.set()
            self._transport.close()
            if self._thread is not threading.current_thread():
                self._thread.join()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def _living(self) -> list[Member]:
        with self._lock:
            return [member for reference in self._members if (member := reference()) is not None]

    def _stop_if_alone(self) -> None:
        with self._lock:
            self._stopping = self._stopping or not self._living()

    def _beat_until_stopped(self) -> None:
        # No local of this loop may name a member: it would never be collected.
        beaten_at = time.monotonic()
        while not self._stopping:
            interval_s = min((member.beat_s for member in self._living()), default=0.0)
            # Counted from the last beat: clients that keep coming must not put the next one off.
            if self._changed.wait(max(0.0, beaten_at + interval_s - time.monotonic())):
                self._changed.clear()
            else:
                beaten_at = time.monotonic()
                for run_id in sorted({member.run_id for member in self._living()}):
                    if not self._stopping:
                        self._renew(run_id)
            self._stop_if_alone()
        self._transport.close()

    def _renew(self, run_id: str) -> None:
        def wrong(answer: LeaseAnswer) -> str | None:
            return None if answer.run_id == run_id else f"asked about run {run_id}, the answer is about {answer.run_id}"

        try:
            answer = self._exchange.once(LeaseAnswer, "POST", "/v1/leases", dump(LeaseRenewal(run_id=run_id)), dict(JSON_BODY), check=wrong)
        except (TransportError, Refused, ProtocolMismatch) as error:
            if self._stopping:
                return
            misses = self._misses[run_id] = self._misses.get(run_id, 0) + 1
            if misses in (1, MISSES_UNTIL_DISCONNECTED):
                state = "disconnected" if misses == MISSES_UNTIL_DISCONNECTED else "missed"
                log.warning("heartbeat of run %s: %s (%s)", run_id, state, error)
            return
        if self._misses.pop(run_id, 0):
            log.info("heartbeat of run %s: the server answers again", run_id)
        if answer.gone:
            for member in self._living():
                if member.run_id == run_id:
                    member.learn_gone(answer.gone)


class Heartbeats:
    """The heartbeats of this process, one per server."""

    def __init__(self) -> None:
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """The parent's threads are not here, and another thread may have held the lock."""
        self._lock = threading.RLock()
        self._beats: dict[tuple[Endpoint, Timings], Heartbeat] = {}

    def join(self, member: Member, endpoint: Endpoint, timings: Timings) -> None:
        """Renews the member's run from now on, for as long as the member exists. May be repeated."""
        tell_in_child(self)
        with self._lock:
            key = (endpoint, timings)
            beat = self._beats.get(key)
            if beat is None or not beat.add(member):
                self._beats[key] = Heartbeat(endpoint, timings, member)

    def leave(self, member: Member, endpoint: Endpoint, timings: Timings) -> None:
        """Ends the thread when this was the last member, and waits for its end."""
        with self._lock:
            key = (endpoint, timings)
            beat = self._beats.get(key)
            if beat is None:
                return
            # Under the lock: who joins meanwhile waits, and then gets a thread that lives.
            beat.discard(member)
            if beat.stopping:
                del self._beats[key]


HEARTBEATS = Heartbeats()
