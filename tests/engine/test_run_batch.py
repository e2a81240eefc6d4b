"""`run_batch` and its twin for asyncio on a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from remote_env import BatchResult, Client, InvalidSpec, RemoteDockerEnvironment, SandboxGone, run_batch
from remote_env.aio import AsyncClient, AsyncSandbox
from remote_env.aio import run_batch as run_batch_async
from tests.support.outside import docker as engine
from tests.support.server import BUSYBOX, SMALL, Server

OPTIONS: dict[str, Any] = {"image": BUSYBOX, "memory_bytes": SMALL}


@pytest.fixture
def own(server: Server) -> Iterator[Client]:
    """A client whose run is this test's alone, so that its sandboxes can be counted."""
    with server.client() as mine:
        yield mine


def alive(client: Client) -> int:
    return len(client.sandboxes(run_id=client.run_id))


def test_each_job_has_a_sandbox_of_its_own_and_results_come_as_they_are_complete(own: Client) -> None:
    first_is_slow = threading.Event()

    def work(env: RemoteDockerEnvironment, job: int) -> str:
        if job == 0:
            assert first_is_slow.wait(60)
        return str(env.execute(f"echo {job} >> /tmp/x; cat /tmp/x")["output"])

    results: list[BatchResult[int, str]] = []
    for result in run_batch(iter(range(6)), work, workers=2, client=own, **OPTIONS):
        results.append(result)
        first_is_slow.set()
    assert sorted((each.index, each.job, each.value, each.ok) for each in results) == [(n, n, f"{n}\n", True) for n in range(6)]
    assert results[0].job != 0 and len({each.sandbox_id for each in results}) == 6 and alive(own) == 0


def test_exceptions_are_kept_and_infrastructure_is_told_apart(own: Client) -> None:
    def work(env: RemoteDockerEnvironment, job: dict[str, str]) -> Any:
        if job["does"] == "raises":
            raise ValueError("the function's own")
        if job["does"] in ("dies", "dies and goes on"):
            engine("kill", str(env.container_id))
            answer = env.execute("echo never")
            return answer["returncode"] if job["does"] == "dies and goes on" else env.execute("echo never")
        return env.execute("exit 3")["returncode"]

    jobs = [{"does": each} for each in ("ends", "raises", "dies", "dies and goes on")]
    jobs.append({"does": "is never begun", "image": "remote-env/none:nowhere"})
    done = run_batch(jobs, work, client=own, image=lambda job: job.get("image", BUSYBOX), memory_bytes=SMALL, pull="never")
    results = {each.job["does"]: each for each in done}
    assert {name: each.infrastructure for name, each in results.items()} == {
        "ends": False, "raises": False, "dies": True, "dies and goes on": True, "is never begun": True,
    }  # fmt: skip
    assert results["ends"].result() == 3 and results["dies and goes on"].value == -1
    assert isinstance(results["dies"].exception, SandboxGone) and results["is never begun"].sandbox_id is None
    with pytest.raises(ValueError, match="the function's own"):
        results["raises"].result()


def test_leaving_the_loop_ends_what_runs_and_removes_every_sandbox(own: Client) -> None:
    begun = threading.Semaphore(0)

    def work(env: RemoteDockerEnvironment, job: int) -> None:
        begun.release()
        env.execute("sleep 1000" if job else "true")

    results = run_batch(range(100), work, workers=3, client=own, **OPTIONS)
    assert next(results).job == 0
    for _ in range(4):
        assert begun.acquire(timeout=60)
    assert alive(own) == 3
    results.close()
    assert alive(own) == 0


def test_jobs_that_cannot_be_had_are_raised_after_the_results_of_those_before(own: Client) -> None:
    def jobs() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the list broke off")

    seen: list[int] = []
    with pytest.raises(OSError, match="broke off"):
        seen.extend(each.job for each in run_batch(jobs(), lambda env, job: job, workers=2, client=own, **OPTIONS))
    assert sorted(seen) == [1, 2] and alive(own) == 0


def test_without_workers_nothing_begins() -> None:
    with pytest.raises(InvalidSpec, match="workers"):
        run_batch([1], lambda env, job: None, workers=0, image=BUSYBOX)


def test_without_an_image_each_job_says_so(own: Client) -> None:
    (result,) = run_batch([{"name": "x"}], lambda env, job: None, client=own)
    assert isinstance(result.exception, InvalidSpec) and result.infrastructure


def test_coroutines_run_in_sandboxes_of_their_own_too(server: Server) -> None:
    async def work(sandbox: AsyncSandbox, job: int) -> str:
        if job == 3:
            raise ValueError("the function's own")
        return await (await sandbox.run(f"echo {job} >> /tmp/x; cat /tmp/x")).text()

    async def main() -> list[BatchResult[int, str]]:
        async with AsyncClient(server.url, server.token) as client:
            results = [each async for each in run_batch_async(range(6), work, workers=3, client=client, **OPTIONS)]
            assert await client.sandboxes(run_id=client.run_id) == []
            return results

    results = sorted(asyncio.run(main()), key=lambda each: each.index)
    assert [each.value for each in results] == ["0\n", "1\n", "2\n", None, "4\n", "5\n"]
    assert [each.ok for each in results] == [True] * 3 + [False] + [True] * 2 and not results[3].infrastructure


def test_leaving_the_asynchronous_loop_removes_every_sandbox(server: Server) -> None:
    async def main() -> None:
        begun = asyncio.Semaphore(0)

        async def work(sandbox: AsyncSandbox, job: int) -> None:
            begun.release()
            await sandbox.run("sleep 1000" if job else "true")

        async with AsyncClient(server.url, server.token) as client:
            async with aclosing(run_batch_async(range(100), work, workers=3, client=client, **OPTIONS)) as results:
                assert (await anext(results)).job == 0
                for _ in range(4):
                    await asyncio.wait_for(begun.acquire(), 60)
            assert await client.sandboxes(run_id=client.run_id) == []

    asyncio.run(main())


def test_a_cancellation_out_of_a_coroutine_ends_the_batch_and_hangs_nobody(server: Server) -> None:
    async def work(sandbox: AsyncSandbox, job: int) -> None:
        if job == 1:
            raise asyncio.CancelledError
        await sandbox.run("sleep 1000" if job else "true")

    async def main() -> None:
        async with AsyncClient(server.url, server.token) as client:
            results = run_batch_async(iter([0, 1]), work, workers=1, client=client, **OPTIONS)
            assert (await anext(results)).job == 0
            with pytest.raises(asyncio.CancelledError):
                await anext(results)
            assert await client.sandboxes(run_id=client.run_id) == []

    asyncio.run(asyncio.wait_for(main(), 60))


def test_the_example_runs_mini_swe_agent_on_every_instance(server: Server, tmp_path: Path) -> None:
    settings = {"MSWEA_SILENT_STARTUP": "1", "MSWEA_GLOBAL_CONFIG_DIR": str(tmp_path)}
    example = Path(__file__).resolve().parents[2] / "docs" / "examples" / "batch_minisweagent.py"
    done = subprocess.run(
        [sys.executable, str(example), BUSYBOX], env={**os.environ, **server.env, **settings}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = sorted(line.rpartition(" (")[0] for line in done.stdout.splitlines())
    assert answers == [f"sum__{number}: {number * (number + 1) // 2}" for number in range(1, 9)]
