"""Keeps leases alive and watches the link: one daemon thread per process and server, for all clients of it here.

A thread ends when its last client has closed or was forgotten. After a fork the child starts a thread of its own with its
first call; the parent's goes on in the parent alone.

Between beats the thread waits on its own idle connection: a peer that closes it is noticed at once, one that falls silent by
the beats that it misses. A link that is lost is tried again by this thread alone, `Spread` over time; calls under way keep to
rules of their own (`delivery`, `exchange`).
"""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Protocol

from remote_env.backoff import Spread
from remote_env.carrier import TransportError
from remote_env.clock import CLOCK, Clock
from remote_env.config import Endpoint
from remote_env.driving import drive
from remote_env.errors import RemoteEnvError
from remote_env.exchange import JSON_BODY, Exchange, Refused
from remote_env.forks import tell_in_child
from remote_env.linkstate import Answered, Disconnected, LinkEvent, LinkMachine, LinkState, Missed, PeerClosed, Reconnected
from remote_env.peerwatch import PeerWatch, Waited
from remote_env.protocol import LeaseAnswer, LeaseRenewal, Sandbox
from remote_env.timings import Timings
from remote_env.trace import trace
from remote_env.transport import Transport

RUNS_IN_A_CALL = 1000
SUSPENDED_S = 5.0  # by so much the clocks must drift apart to call it a sleep of the machine
OVER = ("removing", "removed", "dead", "failed")

log = logging.getLogger("remote_env")


class Member(Protocol):
    """A client whose runs' leases are renewed."""

    @property
    def run_ids(self) -> Iterable[str]:
        """The runs whose sandboxes it keeps alive."""

    @property
    def beat_s(self) -> float:
        """The longest time between two renewals, in seconds."""

    def sandbox_ids(self) -> Iterable[str]:
        """The sandboxes of these runs that it takes to be alive."""

    def learn_gone(self, gone: dict[str, str]) -> None:
        """Sandbox ids that are no more, each with the reason."""

    def learn_link(self, event: LinkEvent) -> None:
        """What happened to the link."""

    def retire_connections(self) -> None:
        """Its idle connections are not worth trying any more."""


class Heartbeat:
    """The thread of one server. Made and ended by `Heartbeats`.

    Args:
        timings: of the first client; the time between beats is the shortest that any client wants.
        clock, draw: for tests.
    """

    def __init__(
        self, endpoint: Endpoint, timings: Timings, first: Member, *, clock: Clock = CLOCK, draw: Callable[[], float] = random.random
    ) -> None:
        self._timings = timings
        self._clock = clock
        self._draw = draw
        self._transport = Transport(endpoint, timings, pool_size=1)
        self._exchange = Exchange(self._transport)
        self._url = endpoint.url
        self._members = [weakref.ref(first)]
        self._lock = threading.RLock()  # guards _members and _stopping
        self._stopping = False
        self._watch = PeerWatch()
        self._link = LinkMachine(timings.heartbeat_misses, clock.elapsed())
        self._spread = Spread(timings.reconnect_first_s, timings.reconnect_most_s, timings.rebuild_s, draw)
        self._slept = self._drift()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="remote-env-heartbeat", daemon=True)
        self._thread.start()

    def add(self, member: Member) -> bool:
        """False when the thread is ending: the member needs another one."""
        with self._lock:
            if self._stopping:
                return False
            if all(reference() is not member for reference in self._members):
                self._members.append(weakref.ref(member))
            self._watch.wake()  # within the lock: the thread closes its watch when nobody can wake it any more
        return True

    def discard(self, member: Member) -> None:
        with self._lock:
            self._members = [reference for reference in self._members if reference() not in (None, member)]
            self._stop_if_alone()
            stopping = self._stopping
            if stopping:
                self._watch.wake()
        if stopping:
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

    # -------------------------------------------------------------------------------------------------- the thread

    def _beat_until_stopped(self) -> None:
        # No local of this loop may name a member: it would never be collected.
        try:
            beaten_at = self._clock.awake()
            next_at = beaten_at + self._draw() * min(self._timings.first_beat_s, self._interval_s())
            reconnected_at = float("-inf")
            watching = False
            while not self._is_over():
                waited = self._watch.wait(self._transport.sockets() if watching else [], next_at - self._clock.awake())
                if self._stopping:
                    break
                self._notice_sleep()
                now = self._clock.awake()
                if waited is Waited.WOKEN:
                    # Counted from the last beat: clients that keep coming must not put the next one off.
                    next_at = min(next_at, max(now, beaten_at + self._interval_s()))
                elif waited is Waited.CLOSED:
                    watching = False  # until there is another connection
                    self._tell(PeerClosed(self._clock.elapsed(), "the server has closed the connection"))
                    self._transport.drop_connections()
                    spread_s = self._draw() * self._timings.reconnect_first_s
                    next_at = max(now + spread_s, reconnected_at + self._timings.rebuild_s)
                else:
                    beaten_at = now
                    if self._link.state in (LinkState.DEGRADED, LinkState.DISCONNECTED):
                        reconnected_at = now
                    watching = self._beat()
                    next_at = beaten_at + self._pause_s()
        finally:
            with self._lock:
                self._stopping = True
                self._watch.close()
            self._transport.close()

    def _is_over(self) -> bool:
        self._stop_if_alone()
        return self._stopping

    def _interval_s(self) -> float:
        return min((member.beat_s for member in self._living()), default=0.0)

    def _pause_s(self) -> float:
        """From the beginning of the last beat to the next one."""
        if self._link.state is LinkState.CONNECTED:
            self._spread.reset()
            return self._interval_s() * (1.0 - 0.1 * self._draw())
        pause_s = self._spread.next_s()
        return pause_s if self._link.state is LinkState.DISCONNECTED else min(pause_s, self._interval_s())

    def _beat(self) -> bool:
        """Renews every run's lease; False when the server did not take it."""
        runs = sorted({run_id for member in self._living() for run_id in member.run_ids})
        gone: dict[str, str] = {}
        live: set[str] = set()
        try:
            for first in range(0, len(runs), RUNS_IN_A_CALL):
                answer = self._renew(runs[first : first + RUNS_IN_A_CALL])
                gone.update(answer.gone)
                live.update(answer.live)
            gone.update(self._missing(live | gone.keys()))
        except (TransportError, Refused, RemoteEnvError) as error:
            self._missed(str(error))
            return False
        except Exception as error:  # without this thread every lease would run out, and nobody would know why
            log.exception("heartbeat of %s: unexpected", self._url)
            self._missed(f"{type(error).__name__}: {error}")
            return False
        self._tell(Answered(self._clock.elapsed(), self._exchange.instance_id))
        if gone:
            for member in self._living():
                member.learn_gone(gone)
        return True

    def _renew(self, runs: list[str]) -> LeaseAnswer:
        def wrong(answer: LeaseAnswer) -> str | None:
            renewed = {answer.run_id, *answer.run_ids}
            return None if renewed == set(runs) else f"asked to renew {len(runs)} runs, the answer is about {sorted(renewed)}"

        renewal = LeaseRenewal(run_id=runs[0], run_ids=tuple(runs[1:]))
        body = renewal.model_dump_json(exclude_defaults=True).encode()
        read_s = self._timings.heartbeat_answer_s
        return drive(self._exchange.once(LeaseAnswer, "POST", "/v1/leases", body, dict(JSON_BODY), read_s=read_s, check=wrong))

    def _missing(self, known: set[str]) -> dict[str, str]:
        """What became of the sandboxes that clients here take to be alive and the server has not named: it tells of those
        that ended lately, and this machine may have slept for longer."""
        gone: dict[str, str] = {}
        missing = sorted({sandbox_id for member in self._living() for sandbox_id in member.sandbox_ids()} - known)
        for sandbox_id in missing:
            try:
                asked = self._exchange.once(Sandbox, "GET", f"/v1/sandboxes/{sandbox_id}", read_s=self._timings.heartbeat_answer_s)
                record = drive(asked)
            except Refused as refusal:
                if refusal.problem.code == "gone":
                    gone[sandbox_id] = refusal.problem.detail
                continue  # unknown here may be another server's doing: the next call about it will tell
            if record.state in OVER:
                gone[sandbox_id] = record.reason or record.state
        return gone

    # ---------------------------------------------------------------------------------------------------- the link

    def _missed(self, reason: str) -> None:
        if not self._stopping:
            self._tell(Missed(self._clock.elapsed(), reason))

    def _tell(self, event: LinkEvent) -> None:
        machine = self._link
        before = machine.state
        instance_id = machine.instance_id
        news = machine.handle(event)
        trace("heartbeat", "%s: %s -> %s (%s)", self._url, before.value, machine.state.value, event)
        if isinstance(event, Missed) and machine.misses == 1:
            log.warning("heartbeat of %s: missed (%s)", self._url, event.reason)
        if isinstance(news, Disconnected):
            log.warning("heartbeat of %s: disconnected, %d beats were missed (%s)", self._url, machine.misses, news.reason)
        elif isinstance(news, Reconnected):
            log.info("heartbeat of %s: connected again after %.1f s", self._url, news.downtime_s)
        if None is not instance_id != machine.instance_id:
            log.warning("heartbeat of %s: another server answers there: instance %s, not %s", self._url, machine.instance_id, instance_id)
        for member in self._living():
            if isinstance(news, Disconnected):
                member.retire_connections()
            member.learn_link(event)

    def _drift(self) -> float:
        return self._clock.elapsed() - self._clock.awake()

    def _notice_sleep(self) -> None:
        drift = self._drift()
        slept_s, self._slept = drift - self._slept, drift
        if slept_s > SUSPENDED_S:
            log.info("this machine has slept for %.0f s: connections are made anew, leases may have run out", slept_s)
            self._transport.drop_connections()
            for member in self._living():
                member.retire_connections()


class Heartbeats:
    """The heartbeats of this process, one per server."""

    def __init__(self) -> None:
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """The parent's threads are not here, and another thread may have held the lock."""
        self._lock = threading.RLock()
        self._beats: dict[Endpoint, Heartbeat] = {}

    def join(self, member: Member, endpoint: Endpoint, timings: Timings) -> None:
        """Renews the member's runs from now on, for as long as the member exists. May be repeated."""
        tell_in_child(self)
        with self._lock:
            beat = self._beats.get(endpoint)
            if beat is None or not beat.add(member):
                self._beats[endpoint] = Heartbeat(endpoint, timings, member)

    def leave(self, member: Member, endpoint: Endpoint) -> None:
        """Ends the thread when this was the last member, and waits for its end."""
        with self._lock:
            beat = self._beats.get(endpoint)
            if beat is None:
                return
            # Under the lock: who joins meanwhile waits, and then gets a thread that lives.
            beat.discard(member)
            if beat.stopping:
                del self._beats[endpoint]


HEARTBEATS = Heartbeats()
