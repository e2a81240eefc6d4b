"""A signal to a command, through a link that may not stand just now: it is sent, or refused, and the answer says which."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from remote_env.protocol import ExecutionSpec
from server import world as module
from server.messages import Entry, Started, Type
from server.problems import ProblemError
from tests.unit.core.bench import Command
from tests.unit.core.fake_init import PATIENCE_S, exited
from tests.unit.core.world_stage import EPOCH, SANDBOX, Stage, play

EXECUTION = "execution-1"
RUNS = Entry(EXECUTION, 1, 5, None)


async def cut_off(stage: Stage) -> Command:
    """A command that runs, and there is no link to its init."""
    init, command = await stage.link(), Command()
    await stage.started(init, command)
    down = asyncio.Event()
    stage.world._sandboxes.look_at = lambda sandbox: down.set()  # type: ignore[method-assign]
    init.close()
    await asyncio.wait_for(down.wait(), PATIENCE_S)
    return command


async def signalled(stage: Stage) -> asyncio.Task[object]:
    """A signal whose request waits."""
    asked: asyncio.Task[object] = asyncio.ensure_future(stage.world.signal(EXECUTION, EPOCH, 15))
    await asyncio.sleep(0)
    assert not asked.done()
    return asked


def test_a_signal_goes_out_as_soon_as_the_init_is_back(tmp_path: Path) -> None:
    """As it is just after a server has begun: the command runs, and its init is on its way here."""

    async def scene(stage: Stage) -> None:
        command = await cut_off(stage)
        asked = await signalled(stage)
        init = await stage.link(1, (RUNS,), ((EXECUTION, command.read_end()),))
        assert await init.heard_id() == (Type.SIGNAL, EXECUTION)
        await asyncio.wait_for(asked, PATIENCE_S)
        command.gone()
        init.close()
        await stage.world.stop(False)

    play(tmp_path, scene)


def test_a_signal_to_a_command_that_has_not_started_yet_waits_for_its_start(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        init, command = await stage.link(), Command()
        await stage.world.start_execution(SANDBOX, ExecutionSpec(id=EXECUTION, command="true"), EPOCH, 0)
        assert await init.heard_id() == (Type.RUN, EXECUTION)
        asked = await signalled(stage)
        init.say(Started(EXECUTION, 1, 5), [command.read_end()])
        assert await init.heard_id() == (Type.SIGNAL, EXECUTION)
        await asyncio.wait_for(asked, PATIENCE_S)
        command.gone()
        init.close()
        await stage.world.stop(False)

    play(tmp_path, scene)


def test_a_signal_for_which_no_link_comes_is_refused_and_the_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SIGNAL_S", 0.02)

    async def scene(stage: Stage) -> None:
        command = await cut_off(stage)
        with pytest.raises(ProblemError, match="cannot be reached") as refused:
            await stage.world.signal(EXECUTION, EPOCH, 15)
        assert refused.value.problem.code == "wrong_state"
        assert (await stage.world.get_execution(EXECUTION, EPOCH, 0)).state == "running"
        command.gone()
        await stage.world.stop(False)

    play(tmp_path, scene)


def test_a_signal_that_the_end_of_the_command_overtakes_is_refused_as_over(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        command = await cut_off(stage)
        asked = await signalled(stage)
        init = await stage.link(1, (Entry(EXECUTION, 1, 5, exited(3)),), ((EXECUTION, command.read_end()),))
        with pytest.raises(ProblemError, match="is over") as refused:
            await asyncio.wait_for(asked, PATIENCE_S)
        assert refused.value.problem.code == "wrong_state"
        assert (await stage.world.get_execution(EXECUTION, EPOCH, 0)).over
        assert await init.heard_id() == (Type.ACK, EXECUTION)
        command.gone()
        init.close()
        await stage.world.stop(False)

    play(tmp_path, scene)


def test_a_signal_that_waits_does_not_hold_up_a_server_that_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SIGNAL_S", 3600.0)

    async def scene(stage: Stage) -> None:
        command = await cut_off(stage)
        asked = await signalled(stage)
        stage.world.end_waits()
        with pytest.raises(ProblemError, match="cannot be reached"):
            await asyncio.wait_for(asked, PATIENCE_S)
        command.gone()
        await stage.world.stop(False)

    play(tmp_path, scene)
