"""The whole server without HTTP and engine: what it does once a commit has failed, and when it stops."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from server.engine import EngineError
from server.journal import CommitFailed, Journal
from server.lifetime import Lifetime
from server.messages import Ended
from tests.unit.core.bench import Command
from tests.unit.core.fake_init import PATIENCE_S, FakeInit, exited
from tests.unit.core.world_stage import EPOCH, SANDBOX, Stage, play


def refuse(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def refused(*_: object) -> None:
        raise CommitFailed("disk is full")

    monkeypatch.setattr(Journal, method, refused)


def test_an_ending_whose_commit_failed_is_not_acknowledged_however_often_the_init_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        init, command = await stage.link(), Command()
        await stage.started(init, command)
        with monkeypatch.context() as broken:
            refuse(broken, "end")
            init.say(Ended("execution-1", 1, exited(3)))
            assert await init.closed()
        await asyncio.wait_for(stage.failed.wait(), PATIENCE_S)
        with pytest.raises(ConnectionRefusedError):
            FakeInit(stage.mounted)  # until there is a server that knows only what the journal says
        assert stage.column("ended_at") is None
        command.gone()

    play(tmp_path, scene)


def test_after_a_failed_commit_a_removal_under_way_does_not_call_the_sandbox_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        init, command = await stage.link(), Command()
        await stage.started(init, command)
        assert (await stage.world.remove_sandbox(SANDBOX, False, 0)).state == "removing"
        refuse(monkeypatch, "end")
        init.say(Ended("execution-1", 1, exited(3)))
        assert await init.closed()
        for _ in range(100):
            await asyncio.sleep(0)
        assert [task for task in asyncio.all_tasks() if "_remove" in repr(task.get_coro())] == []
        with sqlite3.connect(stage.journal) as db:
            assert db.execute("SELECT state FROM sandboxes").fetchone() == ("removing",)
        command.gone()

    play(tmp_path, scene)


def test_a_server_that_stops_just_after_a_start_wipes_secrets_and_stays_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.wiping._WIPE_S", 0.05)

    async def scene(stage: Stage) -> None:
        init, command = await stage.link(), Command()
        await stage.started(init, command, env={"KEY": "geheim"})
        await stage.world.stop(False)
        await asyncio.sleep(0.1)  # the time at which it would have been wiped
        assert stage.fatal == []
        assert stage.column("secrets") is None
        command.gone()
        init.close()

    play(tmp_path, scene)


@pytest.mark.parametrize("method", ["expirable", "expire", "checkpoint"])
def test_retention_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    async def scene(stage: Stage) -> None:
        tried = asyncio.Event()
        tries = 0

        def refused(*_: object) -> None:
            nonlocal tries
            tries += 1
            if tries == 3:
                tried.set()
            raise CommitFailed("disk is full")

        monkeypatch.setattr(Journal, method, refused)
        if method == "expire":
            monkeypatch.setattr(Journal, "expirable", lambda *_: ["execution-0"])
        object.__setattr__(stage.world._settings, "sweep_every_s", 0.01)
        await asyncio.wait_for(tried.wait(), PATIENCE_S)
        assert stage.fatal == []
        await stage.world.stop(False)

    play(tmp_path, scene)


def test_sweeps_do_not_end_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        def surprise(*_: object) -> None:
            raise KeyError("nobody thought of this")

        monkeypatch.setattr(Journal, "expirable", surprise)
        await asyncio.wait_for(stage.failed.wait(), PATIENCE_S)
        assert isinstance(stage.fatal[0], KeyError)

    play(tmp_path, scene)


def test_output_of_a_life_that_no_journal_knows_is_not_mixed_into_a_new_one(tmp_path: Path) -> None:
    old = tmp_path / "spool" / "-1" / "execution-1"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of another life\n")

    async def scene(stage: Stage) -> None:
        init, command = await stage.link(), Command()
        await stage.started(init, command)
        command.prints(b"of this one\n")
        init.say(Ended("execution-1", 1, exited()))
        answer = await stage.world.get_execution("execution-1", EPOCH, PATIENCE_S)
        assert answer.output.text == "begun\nof this one\n"
        command.gone()
        init.close()
        await stage.world.stop(False)

    play(tmp_path, scene)


def test_directories_that_a_dead_server_left_go_with_a_sweep_and_live_ones_stay(tmp_path: Path) -> None:
    left = tmp_path / "sandboxes" / "sandbox-0"

    async def scene(stage: Stage) -> None:
        (left / "init").parent.mkdir()
        (left / "init").write_bytes(b"\x7fELF")
        with pytest.raises(EngineError):  # there is none: what needs no engine is done all the same
            await stage.world._sandboxes.sweep()
        assert not left.exists()
        assert stage.mounted.is_dir()
        await stage.world.stop(False)

    play(tmp_path, scene)


def test_a_server_that_was_told_to_stop_does_not_start_again_for_what_fails_meanwhile() -> None:
    lifetime = Lifetime()
    lifetime.stop()
    lifetime.restart("disk is full")
    assert lifetime.restart_reason is None
