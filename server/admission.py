"""Whether there is room for more work: asked before anything is journaled, so that a refusal leaves nothing behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

from remote_env.protocol import ExecutionSpec, SandboxSpec
from server.executions import Executions
from server.problems import ProblemError
from server.runs import too_long_for_the_kernel
from server.sandboxes import Sandboxes
from server.settings import Settings
from server.spool import Spool
from server.waits import WaitRoom

_DISK_LOOK_S = 1.0  # how long one look at the disk holds good
_BUSY_RETRY_S = 1.0
_DISK_RETRY_S = 10.0


class Admission:
    """All methods raise ProblemError for what cannot be taken."""

    def __init__(self, settings: Settings, sandboxes: Sandboxes, executions: Executions, spool: Spool, room: WaitRoom) -> None:
        self._settings = settings
        self._sandboxes = sandboxes
        self._executions = executions
        self._spool = spool
        self._room = room
        self._disk_at, self._disk_free = -1e9, 0

    def sandbox(self, spec: SandboxSpec) -> None:
        """invalid, forbidden, stopping, capacity, disk_full."""
        memory_bytes = self._sandboxes.limits(spec).memory_bytes
        most = min(self._settings.max_sandbox_memory_bytes, self._settings.capacity_memory_bytes)  # for more, one would wait for ever
        if memory_bytes > most:
            raise ProblemError("invalid", f"memory_bytes: at most {most} on this server, not {memory_bytes}", id=spec.id)
        for bind in spec.binds:
            source = Path(os.path.realpath(bind.source))
            if not any(source.is_relative_to(allowed) for allowed in self._settings.bind_allow):
                raise ProblemError("forbidden", f"binds: {bind.source} is not below a path that --bind-allow names", id=spec.id)
        self._work()
        taken, capacity = self._sandboxes.roster.memory_bytes, self._settings.capacity_memory_bytes
        if taken + memory_bytes > capacity:
            detail = f"{len(self._sandboxes.live)} sandboxes may use {taken} of {capacity} bytes of memory"
            raise ProblemError("capacity", detail, _BUSY_RETRY_S, spec.id)
        self._sandboxes.warm.give_way(taken + memory_bytes + self._sandboxes.warm.memory_bytes - capacity, spec)

    def execution(self, spec: ExecutionSpec) -> None:
        """invalid, stopping, capacity, disk_full."""
        clock_s = spec.clock_s
        if clock_s is not None and clock_s > self._settings.max_timeout_s:
            raise ProblemError("invalid", f"timeout_s: at most {self._settings.max_timeout_s:g} on this server", id=spec.id)
        too_long = too_long_for_the_kernel(spec)
        if too_long is not None:
            raise ProblemError("invalid", too_long, id=spec.id)
        self._work()

    def _work(self) -> None:
        if self._room.closed:
            raise ProblemError("stopping", "the server is stopping", _BUSY_RETRY_S)
        if len(self._executions.live) >= self._settings.max_executions:
            raise ProblemError("capacity", f"{self._settings.max_executions} executions are under way", _BUSY_RETRY_S)
        now = time.monotonic()
        if now - self._disk_at > _DISK_LOOK_S:
            self._disk_at, self._disk_free = now, self._spool.free_bytes()
        if self._disk_free < self._settings.min_free_disk_bytes:
            detail = f"{self._disk_free} bytes are free in the data directory, {self._settings.min_free_disk_bytes} are wanted"
            raise ProblemError("disk_full", detail, _DISK_RETRY_S)
