"""Sandboxes whose making fails, is overtaken by their removal or by their init, with an engine that answers when told to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from remote_env.protocol import ExecutionSpec
from server import making
from server import sandboxes as module
from server.engine import Container, EngineError, Image
from server.executions import Executions
from server.initbuild import InitUnavailable
from server.live import LiveExecution, LiveSandbox
from server.machines.sandbox import State
from tests.unit.core.fake_init import PATIENCE_S, FakeInit, hello
from tests.unit.core.sandbox_stage import SANDBOX, Stage, play, without_an_init


@pytest.fixture(autouse=True)
def an_init_that_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_an_init(monkeypatch, tmp_path)


def test_an_init_that_comes_after_its_sandbox_failed_is_not_taken(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.engine.running = False  # as a slow engine may say it
        stage.engine.may_remove.clear()
        sandbox = stage.create()
        await stage.engine.removing.wait()
        init = FakeInit(stage.sandboxes.link_directory(SANDBOX))
        init.say(hello())
        assert await init.closed()
        stage.engine.may_remove.set()
        await stage.over(sandbox)
        row = stage.journal.sandbox(SANDBOX)
        assert row is not None and (row.state, row.epoch) == ("failed", None)
        init.close()

    play(tmp_path, scene)


def test_a_sandbox_whose_init_came_while_the_engine_stumbled_is_made(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        asked, answers = asyncio.Event(), asyncio.Event()

        async def inspect(container_id: str) -> Container | None:
            asked.set()
            await answers.wait()
            raise EngineError("engine_unavailable", "it is being restarted")

        stage.engine.inspect = inspect  # type: ignore[method-assign]
        sandbox = stage.create()
        await asked.wait()
        init = FakeInit(stage.sandboxes.link_directory(SANDBOX))
        init.say(hello())
        await asyncio.wait_for(sandbox.linked.wait(), PATIENCE_S)
        answers.set()
        assert sandbox.work is not None
        await sandbox.work
        assert (sandbox.state, sandbox.reason, sandbox.takes_work) == (State.RUNNING, None, True)
        init.close()

    play(tmp_path, scene)


def test_a_sandbox_removed_while_its_failure_is_tidied_up_is_over_once(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.engine.running = False
        stage.engine.may_remove.clear()
        sandbox = stage.create()
        await stage.engine.removing.wait()
        stage.sandboxes.remove(sandbox, "removed")
        overs: list[str] = []
        over = stage.journal.sandbox_over

        def watched(sid: str, state: str, reason: str | None, at: float) -> None:
            overs.append(state)
            over(sid, state, reason, at)

        stage.journal.sandbox_over = watched  # type: ignore[method-assign]
        stage.engine.may_remove.set()
        await stage.over(sandbox)
        assert sandbox.work is not None
        await sandbox.work
        assert overs == ["removed"]

    play(tmp_path, scene)


def test_a_sandbox_whose_turn_has_not_come_is_removed_without_waiting_for_it(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        first = stage.create()
        await stage.engine.started.wait()  # and goes on for as long as its init does not come
        second = stage.create("sandbox-2")
        for _ in range(100):  # turns of the event loop, for it to stand in line
            await asyncio.sleep(0)
        assert (first.progress, second.progress) == ("starting the container", "waiting for its turn")
        stage.sandboxes.remove(second, "removed")
        await stage.over(second)
        assert (second.state, first.state) == (State.REMOVED, State.CREATING)
        init = FakeInit(stage.sandboxes.link_directory(SANDBOX))
        init.say(hello())
        assert first.work is not None
        await first.work
        assert first.takes_work
        init.close()

    play(tmp_path, scene, max_creations=1)


def test_a_sandbox_is_removed_without_waiting_for_what_the_engine_says_of_its_image(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        asked = asyncio.Event()

        async def image(name: str) -> Image:
            asked.set()
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nobody answers")

        stage.engine.image = image  # type: ignore[method-assign]
        sandbox = stage.create()
        await asked.wait()
        stage.sandboxes.remove(sandbox, "removed")
        await stage.over(sandbox)
        assert (sandbox.state, stage.engine.exists) == (State.REMOVED, False)

    play(tmp_path, scene)


def test_a_purge_asked_for_during_a_removal_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    purged: list[str] = []

    async def noted(_: Executions, sid: str) -> None:
        purged.append(sid)

    monkeypatch.setattr(Executions, "purge", noted)

    async def scene(stage: Stage) -> None:
        sandbox = stage.create()
        stage.sandboxes.remove(sandbox, "lease_over")
        stage.sandboxes.remove(sandbox, "removed", purge=True)
        await stage.over(sandbox)
        assert purged == [SANDBOX]

    play(tmp_path, scene)


def test_a_machine_that_there_is_no_init_for_fails_the_sandbox_not_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(_: str) -> Path:
        raise InitUnavailable("there is no init for riscv64")

    monkeypatch.setattr(making, "init_path", unavailable)

    async def scene(stage: Stage) -> None:
        await stage.over(stage.create())
        row = stage.journal.sandbox(SANDBOX)
        assert row is not None and (row.state, row.reason) == ("failed", "internal: there is no init for riscv64")

    play(tmp_path, scene)


def test_one_container_that_cannot_be_removed_does_not_hold_up_the_other_orphans(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.engine.found = {"one": "sandbox-a", "two": "sandbox-b", "three": "sandbox-c"}
        stage.engine.stuck = {"one"}
        await stage.sandboxes.sweep()
        assert stage.engine.removed == ["two", "three"]

    play(tmp_path, scene)


def test_a_stop_that_takes_sandboxes_along_is_not_held_for_ever_by_an_engine_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOP_S", 0.05)

    async def scene(stage: Stage) -> None:
        stage.engine.running = False
        stage.engine.may_remove.clear()
        stage.create()
        await stage.engine.removing.wait()
        await stage.sandboxes.stop(True)
        row = stage.journal.sandbox(SANDBOX)
        assert row is not None and row.state == "removing"  # the next server goes on with it

    play(tmp_path, scene)


def test_a_container_that_was_given_another_name_is_removed_all_the_same(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        async def find(sandbox_id: str) -> Container | None:
            return None

        stage.engine.find = find  # type: ignore[method-assign]
        sandbox = stage.create()
        await stage.engine.started.wait()
        stage.sandboxes.remove(sandbox, "removed")
        await stage.over(sandbox)
        assert stage.engine.removed == ["c0ffee"]

    play(tmp_path, scene)


async def running(stage: Stage) -> tuple[LiveSandbox, LiveExecution, FakeInit]:
    """A sandbox whose init has come, with one command that was sent to it."""
    sandbox = stage.create()
    await stage.engine.started.wait()
    init = FakeInit(stage.sandboxes.link_directory(SANDBOX))
    init.say(hello())
    await asyncio.wait_for(sandbox.linked.wait(), PATIENCE_S)
    assert sandbox.work is not None
    await sandbox.work
    return sandbox, stage.executions.accept(sandbox, ExecutionSpec(id="execution-1", command="true")), init


def test_a_container_that_has_ended_and_cannot_be_removed_does_not_hold_up_who_waits_for_its_commands(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        sandbox, live, init = await running(stage)
        stage.engine.running = False
        stage.engine.stuck = {"c0ffee"}
        init.close()
        while live.ended_at is None:
            await live.ended.wait(PATIENCE_S)
        row = stage.journal.execution("execution-1")
        assert row is not None and row.final is not None and row.final["outcome"]["reason"] == "sandbox_died"
        assert stage.engine.exists and sandbox.id in stage.sandboxes.live and not sandbox.takes_work
        stage.engine.stuck.clear()
        await stage.over(sandbox)
        assert stage.engine.removed == ["c0ffee"]

    play(tmp_path, scene)


def test_a_container_that_cannot_be_ended_is_not_called_lost(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        sandbox, live, init = await running(stage)
        stage.engine.stuck = {"c0ffee"}
        stage.sandboxes.give_up(sandbox, "journal_set_back")
        await stage.engine.removing.wait()
        stage.engine.removing.clear()
        await asyncio.wait_for(stage.engine.removing.wait(), PATIENCE_S)  # it is tried again
        assert live.ended_at is None
        init.close()  # as it does when its container is ended
        stage.engine.stuck.clear()
        await stage.over(sandbox)
        assert live.ended_at is not None

    play(tmp_path, scene)


def test_a_sandbox_that_cannot_be_made_is_told_so_though_the_engine_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FAIL_S", 0.05)

    async def scene(stage: Stage) -> None:
        stage.engine.running = False
        stage.engine.may_remove.clear()
        sandbox = stage.create()
        await stage.over(sandbox)
        assert (sandbox.state, stage.engine.exists) == (State.FAILED, True)
        stage.engine.may_remove.set()
        await asyncio.wait_for(stage.engine.gone.wait(), PATIENCE_S)

    play(tmp_path, scene)


def test_a_purge_outlives_the_server_that_it_was_asked_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    purged: list[str] = []

    async def noted(_: Executions, sid: str) -> None:
        purged.append(sid)

    monkeypatch.setattr(Executions, "purge", noted)
    monkeypatch.setattr(module, "_REHELLO_S", 0.01)

    async def asked(stage: Stage) -> None:
        stage.engine.may_remove.clear()
        sandbox, _, init = await running(stage)
        stage.sandboxes.remove(sandbox, "lease_over")
        stage.sandboxes.remove(sandbox, "removed", purge=True)
        init.close()
        await stage.engine.removing.wait()

    async def next_server(stage: Stage) -> None:
        (row,) = stage.journal.live_sandboxes()
        assert (row.state, row.reason) == ("removing", "lease_over")
        stage.sandboxes.restore(row, host_restarted=False)
        await stage.over(stage.sandboxes.live[SANDBOX])
        assert purged == [SANDBOX]

    play(tmp_path, asked)
    assert purged == []
    play(tmp_path, next_server)


def test_a_socket_that_cannot_be_bound_costs_its_own_sandbox_the_link_and_not_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before(stage: Stage) -> None:
        sandbox = (await running(stage))[0]
        assert sandbox.takes_work

    async def next_server(stage: Stage) -> None:
        stage.engine.exists = True
        (row,) = stage.journal.live_sandboxes()
        listen, bound = stage.sandboxes.listen, asyncio.Event()
        failures = [OSError(28, "No space left on device")] * 2

        def full_disk(sandbox: LiveSandbox) -> None:
            if failures:
                raise failures.pop()
            listen(sandbox)
            bound.set()

        stage.sandboxes.listen = full_disk  # type: ignore[method-assign]
        stage.sandboxes.restore(row, host_restarted=False)
        sandbox = stage.sandboxes.live[SANDBOX]
        assert (sandbox.listener, sandbox.takes_work) == (None, True)
        await asyncio.wait_for(bound.wait(), PATIENCE_S)
        assert sandbox.listener is not None and not failures

    play(tmp_path, before)
    play(tmp_path, next_server)
