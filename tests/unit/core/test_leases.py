"""Leases: who is removed, when, and who is spared."""

from __future__ import annotations

import asyncio

import pytest

from server import leases as module
from server.leases import Leases
from server.live import LiveExecution, LiveSandbox
from server.machines.execution import ExecutionMachine
from server.machines.sandbox import State
from server.waits import Bell, WaitRoom
from tests.unit.core.jumping_clock import run

LOOK_S = 1.0  # a lease may run over by so much


def sandbox(
    sid: str, run_id: str = "run-00001", *, on_end: str = "wait", lease_s: float = 300, state: State = State.RUNNING
) -> LiveSandbox:
    return LiveSandbox(
        id=sid, run_id=run_id, image="busybox", spec={"lease_s": lease_s, "on_lease_end": on_end}, spec_hash=b"", state=state,
        created_at=0.0, memory_bytes=0, changed=Bell(WaitRoom()),
    )  # fmt: skip


def busy_until(owner: LiveSandbox, deadline: float | None) -> None:
    room = WaitRoom()
    execution = LiveExecution(
        id="execution-1", number=1, sandbox=owner, machine=ExecutionMachine("run"), spec={}, spec_hash=b"", secrets=None,
        accepted_at=0.0, deadline=deadline, outputs=(), ended=Bell(room), moved=Bell(room),
    )  # fmt: skip
    owner.executions[execution.id] = execution


class Watched:
    """Leases over some sandboxes, and when each was expired, in seconds since the start. An expired one is not live."""

    def __init__(self, *sandboxes: LiveSandbox) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.live = {one.id: one for one in sandboxes}
        self.expired: dict[str, float] = {}
        self.leases = Leases(self.live, self._expire)

    def _expire(self, one: LiveSandbox) -> None:
        self.expired[one.id] = self.loop.time() - self.began
        del self.live[one.id]

    def assert_expired(self, expected: dict[str, float]) -> None:
        assert set(self.expired) == set(expected)
        for sid, at in expected.items():
            assert at <= self.expired[sid] <= at + LOOK_S + 0.01, sid


@pytest.fixture(autouse=True)
def never_suspended(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The machine has slept for so many seconds, all told."""
    slept = {"s": 0.0}
    monkeypatch.setattr(module, "_suspended_s", lambda: slept["s"])
    return slept


def test_each_lease_begins_anew_when_the_server_starts() -> None:
    """FRESHLEASE: while no server was there nobody could renew."""

    async def main() -> None:
        watched = Watched(sandbox("short-1", lease_s=100), sandbox("long-1", lease_s=200))
        await asyncio.sleep(500)
        watched.assert_expired({"short-1": 100, "long-1": 200})

    run(main())


def test_a_renewal_gives_every_sandbox_of_the_run_a_full_new_term_and_no_other() -> None:
    async def main() -> None:
        watched = Watched(sandbox("mine-1"), sandbox("mine-2"), sandbox("other-1", "run-00002"))
        await asyncio.sleep(200)
        watched.leases.renew("run-00001")
        assert watched.leases.left_s(watched.live["mine-1"]) == 300
        assert watched.leases.left_s(watched.live["other-1"]) == pytest.approx(100)
        await asyncio.sleep(500)
        watched.assert_expired({"mine-1": 500, "mine-2": 500, "other-1": 300})

    run(main())


def test_a_heartbeat_keeps_a_sandbox_for_as_long_as_it_beats() -> None:
    async def main() -> None:
        watched = Watched(sandbox("mine-1", lease_s=30))
        for _ in range(100):
            await asyncio.sleep(10)
            watched.leases.renew("run-00001")
        assert watched.expired == {}
        await asyncio.sleep(100)
        watched.assert_expired({"mine-1": 1030})

    run(main())


def test_a_running_command_holds_the_lease_to_its_own_deadline_and_no_further() -> None:
    async def main() -> None:
        waits, kills = sandbox("waits-1"), sandbox("kills-1", on_end="kill")
        watched = Watched(waits, kills)
        for one in (waits, kills):
            busy_until(one, watched.began + 1000)
        await asyncio.sleep(2000)
        watched.assert_expired({"waits-1": 1000, "kills-1": 300})

    run(main())


def test_what_has_no_timeout_holds_no_lease() -> None:
    """A session, a terminal: somebody has to speak for it."""

    async def main() -> None:
        one = sandbox("waits-1")
        watched = Watched(one)
        busy_until(one, None)
        await asyncio.sleep(2000)
        watched.assert_expired({"waits-1": 300})

    run(main())


def test_a_lease_is_over_at_once_when_the_command_that_held_it_ends() -> None:
    async def main() -> None:
        waits = sandbox("waits-1")
        watched = Watched(waits)
        busy_until(waits, watched.began + 1000)
        await asyncio.sleep(600)
        waits.executions.clear()
        await asyncio.sleep(100)
        watched.assert_expired({"waits-1": 600})

    run(main())


def test_a_suspended_machine_gives_every_lease_a_new_term(never_suspended: dict[str, float]) -> None:
    async def main() -> None:
        watched = Watched(sandbox("mine-1"))
        await asyncio.sleep(200)
        never_suspended["s"] = 3600
        await asyncio.sleep(1000)
        watched.assert_expired({"mine-1": 500})

    run(main())


def test_clocks_that_drift_apart_a_little_are_no_suspend(never_suspended: dict[str, float]) -> None:
    async def main() -> None:
        watched = Watched(sandbox("mine-1"))
        for _ in range(100):
            await asyncio.sleep(2)
            never_suspended["s"] += 0.01
        await asyncio.sleep(1000)
        watched.assert_expired({"mine-1": 300})

    run(main())


@pytest.mark.parametrize("state", [state for state in State if state is not State.RUNNING], ids=lambda state: state.value)
def test_only_a_running_sandbox_is_expired(state: State) -> None:
    """One that is being made has its own clocks; one that is being removed needs no second removal."""

    async def main() -> None:
        watched = Watched(sandbox("other-1", state=state))
        await asyncio.sleep(1000)
        assert watched.expired == {}

    run(main())


def test_nothing_expires_after_the_leases_are_closed() -> None:
    async def main() -> None:
        watched = Watched(sandbox("mine-1"))
        watched.leases.close()
        await asyncio.sleep(1000)
        assert watched.expired == {}

    run(main())


def test_a_run_that_renewed_before_its_sandbox_was_made_starts_with_a_full_term() -> None:
    """POST /v1/sandboxes renews its run, and pulling the image takes a while."""

    async def main() -> None:
        watched = Watched(sandbox("first-1"))
        await asyncio.sleep(250)
        watched.leases.renew("run-00002")
        watched.live["new-1"] = sandbox("new-1", "run-00002")
        await asyncio.sleep(1000)
        watched.assert_expired({"first-1": 300, "new-1": 550})

    run(main())
