"""A server's process that was stopped for a while: nobody could renew a lease in that time."""

from __future__ import annotations

import asyncio

import pytest

from server import leases as module
from server.leases import Leases
from server.live import LiveSandbox
from server.machines.sandbox import State
from server.waits import Bell, WaitRoom
from tests.unit.core.jumping_clock import JumpingLoop, run


def test_a_process_that_was_stopped_gives_every_lease_a_new_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_suspended_s", lambda: 0.0)  # the machine went on

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        sandbox = LiveSandbox(
            id="sandbox-1", run_id="run-00001", image="busybox", spec={"lease_s": 300, "on_lease_end": "wait"}, spec_hash=b"",
            state=State.RUNNING, created_at=0.0, memory_bytes=0, changed=Bell(WaitRoom()),
        )  # fmt: skip
        expired: list[float] = []
        leases = Leases({"sandbox-1": sandbox}, lambda _: expired.append(loop.time()))
        await asyncio.sleep(10)
        loop.clock.now += 3600  # SIGSTOP, and SIGCONT an hour later
        again = loop.time()
        await asyncio.sleep(298)
        assert expired == []
        await asyncio.sleep(4)
        assert expired[0] == pytest.approx(again + 300, abs=2)
        leases.close()

    run(main())
