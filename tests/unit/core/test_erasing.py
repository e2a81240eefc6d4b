"""What goes when results are erased: every file of an execution's output, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from remote_env.protocol import ExecutionSpec
from server.messages import Ended, Started, Type
from server.problems import ProblemError
from tests.unit.core.bench import Command
from tests.unit.core.fake_init import PATIENCE_S, FakeInit, exited
from tests.unit.core.world_stage import EPOCH, SANDBOX, Stage, play


async def ran(stage: Stage, init: FakeInit, number: int, *, ends: bool = True) -> str:
    """A command with stdout and stderr apart, and both of them said something."""
    eid = f"execution-{number}"
    commands = Command(), Command()
    await stage.world.start_execution(SANDBOX, ExecutionSpec(id=eid, command="true", streams="split"), EPOCH, 0)
    assert await init.heard_id() == (Type.RUN, eid)
    init.say(Started(eid, number, 5), [command.read_end() for command in commands])
    for command, stream in zip(commands, ("stdout", "stderr"), strict=True):
        command.prints(b"said\n")
        await stage.world.output(eid, EPOCH, 0, None, PATIENCE_S, stream)
    if ends:
        init.say(Ended(eid, number, exited()))
        assert (await stage.world.get_execution(eid, EPOCH, PATIENCE_S)).over
        assert await init.heard_id() == (Type.ACK, eid)
    for command in commands:
        command.gone()
    return eid


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "spool").glob("*/*"))


def test_a_purge_takes_both_streams_of_what_has_ended_and_leaves_what_runs(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        init = await stage.link()
        ended, running = await ran(stage, init, 1), await ran(stage, init, 2, ends=False)
        assert files(tmp_path) == [ended, f"{ended}.err", running, f"{running}.err"]
        await stage.world._executions.purge(SANDBOX)
        assert files(tmp_path) == [running, f"{running}.err"]
        answer = await stage.world.get_execution(ended, EPOCH, 0)
        assert answer.stderr is not None
        assert (answer.output.purged, answer.stderr.purged, answer.output.total_bytes) == (True, True, 5)
        init.close()
        await stage.world.stop(False)

    play(tmp_path, scene)


def test_beyond_retention_both_streams_go_and_the_id_stays_taken(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        init = await stage.link()
        eid = await ran(stage, init, 1)
        stage.world._journal.sandbox_over(SANDBOX, "removed", "removed", 1.0)  # in 1970
        await stage.world._retire()
        assert files(tmp_path) == []
        with pytest.raises(ProblemError) as refused:
            await stage.world.get_execution(eid, EPOCH, 0)
        assert refused.value.problem.code == "gone"
        init.close()
        await stage.world.stop(False)

    play(tmp_path, scene)
