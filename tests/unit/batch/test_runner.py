"""A batch's threads: what goes wrong in one of them ends the batch, or the one job, and is told; nothing waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from remote_env.batch import runner
from remote_env.batch.directory import BatchDirectory, read_results
from remote_env.batch.events import BatchEnded, BatchEvent, JobFinished, ServerState
from remote_env.batch.job import Finished, JobRun
from remote_env.batch.placing import Health, Room
from remote_env.batch.resume import resume
from remote_env.batch.runner import Batch, Options
from remote_env.batch.servers import Address, Server
from remote_env.notifier import Notifier
from remote_env.timings import Timings
from tests.unit.batch.builders import job, result


class FakeServer:
    """Tells of its link in a thread of the link's own, as a client does."""

    url = "http://a:1"
    reason = "nothing can be removed there"
    trouble_since = memory_bytes = None
    silent = False

    def __init__(self, address: object, *, on_health: Callable[..., None], **options: object) -> None:
        self.room = Room(self.url)
        self.client = SimpleNamespace(close=lambda: None, run_id="run-0000")
        self._link = Notifier("link")
        self._on_health = on_health

    def probe(self) -> bool:
        self._link.tell(lambda: self._on_health(self, Health.CONNECTED, None, False))
        return True

    def learn(self, health: Health, reason: str | None, silent: bool) -> bool:
        self.room.health = health
        return True

    def may_hold(self, job: object) -> bool:
        return True

    def remove_all(self, keep: object) -> None:
        """There are none."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[BatchEvent]]:
    """Runs two jobs, each carried out by this function; what was told."""
    monkeypatch.setattr(runner, "Server", FakeServer)

    def run(carry_out: Callable[[JobRun], Any], *listeners: Callable[[BatchEvent], None]) -> list[BatchEvent]:
        monkeypatch.setattr(JobRun, "carry_out", carry_out)
        told: list[BatchEvent] = []
        with BatchDirectory(tmp_path) as directory:
            jobs = [job("a"), job("b")]
            Batch(directory, "run-0000", resume(jobs, [], []), tmp_path, Options(2), [*listeners, told.append]).run()
        return told

    return run


def passing(self: JobRun) -> Finished:
    return Finished(result(self._job.id))


def test_what_a_listener_raises_ends_the_batch_whoever_called_it(run: Callable[..., list[BatchEvent]]) -> None:
    for kind in (ServerState, JobFinished, BatchEnded):

        def listener(event: BatchEvent, kind: type = kind) -> None:
            if isinstance(event, kind):
                raise BrokenPipeError("nobody reads it")

        with pytest.raises(BrokenPipeError, match="nobody reads it"):
            run(passing, listener)


def test_an_error_that_nobody_has_foreseen_is_its_jobs_alone(run: Callable[..., list[BatchEvent]], tmp_path: Path) -> None:
    def carry_out(self: JobRun) -> Finished:
        if self._job.id == "a":
            raise ValueError("what is this?")
        return passing(self)

    told = run(carry_out)
    outcomes = {each.result.id: (each.result.outcome, each.result.reason) for each in told if isinstance(each, JobFinished)}
    assert outcomes == {"a": ("error", "unexpected ValueError: what is this?"), "b": ("passed", None)}
    assert [each.id for each in read_results(tmp_path)] == ["a"]


def test_jobs_begin_while_what_earlier_runs_have_left_is_still_removed(
    run: Callable[..., list[BatchEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Semaphore(0)

    def slow(self: FakeServer, keep: object) -> None:
        if threading.current_thread() is not threading.main_thread():  # which removes the rest in the end
            assert all(ended.acquire(timeout=60) for _ in range(2))

    monkeypatch.setattr(FakeServer, "remove_all", slow)
    run(passing, lambda event: ended.release() if isinstance(event, JobFinished) else None)


def test_a_sandbox_that_is_asked_for_while_the_left_over_ones_are_listed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    keep = {"of an earlier run"}

    def listed(run_id: str) -> list[SimpleNamespace]:
        keep.add("just made")
        return [SimpleNamespace(id=id, remove=lambda id=id: removed.append(id)) for id in ("just made", "of an earlier run", "left over")]

    server = Server(Address("http://127.0.0.1:1"), run_id="run-0000", timings=Timings(), workers=1, open=True, on_health=lambda *_: None)
    with server.client as client:
        monkeypatch.setattr(client, "sandboxes", listed)
        server.remove_all(keep)
    assert removed == ["left over"]


def test_what_any_of_its_threads_raises_ends_the_batch(run: Callable[..., list[BatchEvent]], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> bool:
        raise RuntimeError("this thread is no more")

    for name in ("probe", "remove_all", "learn"):
        with monkeypatch.context() as patch:
            patch.setattr(FakeServer, name, broken)
            with pytest.raises(RuntimeError, match="no more"):
                run(passing)


def test_a_directory_that_cannot_be_written_ends_the_batch(run: Callable[..., list[BatchEvent]]) -> None:
    def carry_out(self: JobRun) -> Finished:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        run(carry_out)
