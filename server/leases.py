"""Leases: keeps the terms of all live sandboxes and has those removed whose lease is over. The rules: machines/lease.py."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from server.live import LiveSandbox
from server.machines.lease import Term
from server.machines.sandbox import State

log = logging.getLogger("server.leases")

_LOOK_S = 1.0  # seconds between looks; a lease may run over by this much
_SUSPENDED_S = 5.0  # seconds that a look must be late, or the clocks drift apart, to call it a suspend


class Leases:
    """Args:
    live: the sandboxes, by id.
    expire: begins a sandbox's removal.
    """

    def __init__(self, live: dict[str, LiveSandbox], expire: Callable[[LiveSandbox], None]) -> None:
        self._live = live
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._renewed: dict[str, float] = {}
        self._began = self._loop.time()  # FRESHLEASE: nobody could renew before
        self._slept = _suspended_s()
        self._looked = self._began
        self._timer = self._loop.call_later(_LOOK_S, self._look)

    def renew(self, run_id: str) -> None:
        """A full new term for every sandbox of the run."""
        self._renewed[run_id] = self._loop.time()

    def term(self, sandbox: LiveSandbox) -> Term:
        # What has no timeout holds no lease: whoever wants it to go on speaks for it.
        busy = max((live.deadline for live in sandbox.executions.values() if live.deadline is not None), default=None)
        renewed_at = self._renewed.get(sandbox.run_id)
        return Term(float(sandbox.spec["lease_s"]), sandbox.spec["on_lease_end"], renewed_at, self._began, busy)

    def left_s(self, sandbox: LiveSandbox) -> float:
        """Seconds until its lease is over."""
        return self.term(sandbox).ends_at() - self._loop.time()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK_S, self._look)
        slept, now = _suspended_s(), self._loop.time()
        away = max(slept - self._slept, now - self._looked - _LOOK_S)  # this process alone may have been stopped, too
        if away > _SUSPENDED_S:
            log.info("nobody could renew a lease for %.0f s; every lease gets a new term", away)
            self._began = now
        self._slept, self._looked = slept, now
        for sandbox in list(self._live.values()):
            if sandbox.state is State.RUNNING and self.term(sandbox).over(now):
                log.info("lease over", extra={"sandbox_id": sandbox.id, "run_id": sandbox.run_id})
                self._expire(sandbox)
        runs = {sandbox.run_id for sandbox in self._live.values()}
        for run_id in [run for run in self._renewed if run not in runs]:
            del self._renewed[run_id]

    def close(self) -> None:
        self._timer.cancel()


def _suspended_s() -> float:
    """How long the machine has been suspended since its boot (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
