"""The asyncio client against real sandboxes: a thousand commands at once, a server that dies, tasks that are cancelled."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest

from remote_env import END, Accepted, Ended, OutputPiece, Started, Tty
from remote_env.aio import AsyncClient, AsyncSandbox
from remote_env.protocol import Outcome
from tests.support.outside import docker, runs, until
from tests.support.server import BUSYBOX, SANDBOX, SMALL, Server

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "async_many.py"


def in_loop(act: Coroutine[Any, Any, None]) -> None:
    asyncio.run(act)


def client_of(server: Server) -> AsyncClient:
    return AsyncClient(server.url, server.token)


async def ran(sandboxes: Iterable[AsyncSandbox]) -> Counter[str]:
    """How often each command ran, as the engine tells it."""
    return sum([await asyncio.to_thread(runs, sandbox) for sandbox in sandboxes], Counter[str]())


async def so(condition: Callable[[], object], what: str) -> None:
    """Waits until it is so."""
    await asyncio.to_thread(until, condition, what)


async def made(client: AsyncClient, count: int) -> list[AsyncSandbox]:
    return list(await asyncio.gather(*(client.create_sandbox(BUSYBOX, memory_bytes=4 * SMALL) for _ in range(count))))


def test_a_thousand_commands_at_once_run_once_each_and_all_results_come(server: Server, busybox_image: str) -> None:
    async def act() -> None:
        async with client_of(server) as client:
            sandboxes = await made(client, 4)
            try:
                # Each waits for a file, so that all of them are under way at one moment.
                script = "while [ ! -e /go ]; do sleep 1; done; echo n{0} >> /ran; echo said-{0}; exit {1}"
                commands = [
                    asyncio.create_task(sandboxes[number % 4].run(script.format(number, number % 7), timeout_s=120))
                    for number in range(1000)
                ]
                await so(lambda: client.stats()["sent"] == 1000, "all are sent")
                running = 0
                while running < 1000:
                    assert not any(command.done() for command in commands)
                    running = sum([len(await client.executions(sandbox_id=each.id, state="running", limit=1000)) for each in sandboxes])
                await asyncio.gather(*(sandbox.run("touch /go") for sandbox in sandboxes))
                executions = await asyncio.gather(*commands)
                assert [execution.returncode for execution in executions] == [number % 7 for number in range(1000)]
                assert [await execution.text() for execution in executions] == [f"said-{number}\n" for number in range(1000)]
                assert await ran(sandboxes) == Counter(f"n{number}" for number in range(1000))
            finally:
                await asyncio.gather(*(sandbox.remove() for sandbox in sandboxes))

    in_loop(act())


def test_a_server_that_is_killed_under_many_commands_loses_no_result_and_repeats_none(
    make_server: Callable[..., Server], busybox_image: str
) -> None:
    server = make_server().start()

    async def act() -> None:
        async with client_of(server) as client:
            sandboxes = await made(client, 3)
            commands = [
                asyncio.create_task(
                    sandboxes[number % 3].run(
                        f"echo n{number} >> /ran; while [ ! -e /go ]; do sleep 0.5; done; echo {number}",
                        on_undelivered="redeliver", timeout_s=120,
                    )
                )
                for number in range(150)
            ]  # fmt: skip
            await so(lambda: sum(sum(runs(sandbox).values()) for sandbox in sandboxes) >= 60, "some have begun")
            await asyncio.to_thread(server.restart)  # SIGKILL, in the middle of posts and long-polls
            await asyncio.gather(*(sandbox.run("touch /go") for sandbox in sandboxes))
            executions = await asyncio.gather(*commands)
            assert [await execution.text() for execution in executions] == [f"{number}\n" for number in range(150)]
            assert await ran(sandboxes) == Counter(f"n{number}" for number in range(150))

    in_loop(act())


def test_cancelled_tasks_end_their_commands_and_no_others(server: Server, busybox_image: str) -> None:
    async def act() -> None:
        async with client_of(server) as client, await client.create_sandbox(BUSYBOX, memory_bytes=SMALL) as sandbox:
            tasks = [asyncio.create_task(sandbox.run(f"echo n{number} >> /ran; exec sleep {500 + number}")) for number in range(6)]
            await so(lambda: len(runs(sandbox)) == 6, "all have begun")
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks[::2], return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)

            def sleeping() -> set[str]:
                lines = docker("top", str(sandbox.container_id), "-eo", "pid,args").splitlines()
                return {line.rpartition(" ")[2] for line in lines if " sleep 50" in line}

            await so(lambda: sleeping() == {"501", "503", "505"}, "the others alone go on")
            outcomes = Counter(execution.outcome and execution.outcome.kind for execution in await client.executions(sandbox_id=sandbox.id))
            assert outcomes["cancelled"] == 3
            for task in tasks[1::2]:
                task.cancel()
            await asyncio.wait(tasks)

    in_loop(act())


def test_a_stream_brings_all_output_over_a_restart_of_the_server(make_server: Callable[..., Server], busybox_image: str) -> None:
    server = make_server().start()

    async def act() -> None:
        async with client_of(server) as client:
            (sandbox,) = await made(client, 1)
            stream = sandbox.stream("for i in 1 2 3; do echo $i; done; while [ ! -e /go ]; do sleep 0.1; done; seq 4 2000; exit 5")
            events: list[Any] = []
            async for event in stream:
                events.append(event)
                if isinstance(event, OutputPiece) and event.end == 6:
                    await asyncio.to_thread(server.restart)
                    await sandbox.run("touch /go")
            assert [type(event) for event in events[:2]] == [Accepted, Started]
            assert "".join(event.text for event in events if isinstance(event, OutputPiece)) == "".join(f"{i}\n" for i in range(1, 2001))
            assert isinstance(events[-1], Ended)
            assert events[-1].result.outcome == Outcome(kind="exited", ran=True, code=5)

    in_loop(act())


def test_a_session_keeps_its_state_and_its_commands_take_turns(server: Server, sandbox_image: str) -> None:
    async def act() -> None:
        async with (
            client_of(server) as client,
            await client.create_sandbox(SANDBOX, memory_bytes=SMALL) as sandbox,
            await sandbox.session() as session,
        ):
            await session.run("cd /tmp; x=0")
            counted = await asyncio.gather(*(session.run("x=$((x+1)); echo $x") for _ in range(20)))
            assert [await execution.text() for execution in counted] == [f"{number}\n" for number in range(1, 21)]
            assert await (await session.run("pwd")).text() == "/tmp\n"
            async with session.stream("seq 3") as events:
                assert b"".join([event.data async for event in events if isinstance(event, OutputPiece)]) == b"1\n2\n3\n"
            assert (await session.run("exit 7")).returncode == 7
            assert not session.alive

    in_loop(act())


def test_a_cancelled_task_interrupts_its_sessions_command_and_the_session_lives_on(server: Server, sandbox_image: str) -> None:
    async def act() -> None:
        async with (
            client_of(server) as client,
            await client.create_sandbox(SANDBOX, memory_bytes=SMALL) as sandbox,
            await sandbox.session() as session,
        ):
            await session.run("cd /tmp")
            task = asyncio.create_task(session.run("echo begun >> /ran; sleep 600"))
            await so(lambda: runs(sandbox)["begun"], "it has begun")
            waiting = asyncio.create_task(session.run("pwd"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await (await waiting).text() == "/tmp\n"
            assert session.alive

    in_loop(act())


def test_files_are_written_read_and_carried(server: Server, sandbox_image: str, tmp_path: Path) -> None:
    async def act() -> None:
        async with client_of(server) as client, await client.create_sandbox(SANDBOX, memory_bytes=SMALL) as sandbox:
            await asyncio.gather(*(sandbox.write(f"/tmp/many/{number}", f"content {number}") for number in range(50)))
            assert await (await sandbox.run("cat /tmp/many/* | wc -l; ls /tmp/many | wc -l")).text() == "0\n50\n"
            assert await asyncio.gather(*(sandbox.read_text(f"/tmp/many/{number}") for number in range(50))) == [
                f"content {number}" for number in range(50)
            ]
            big = tmp_path / "big"
            big.write_bytes(os.urandom(5 << 20))
            await sandbox.upload(big, "/tmp/big")
            await sandbox.download("/tmp/big", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == big.read_bytes()
            assert not await sandbox.exists("/tmp/none")
            await sandbox.remove("/tmp/many", recursive=True)
            assert [info.path.rpartition("/")[2] for info in await sandbox.list("/tmp")] == ["big"]

    in_loop(act())


def test_the_example_runs(server: Server, busybox_image: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE, BUSYBOX, "200"], env={**os.environ, **server.env}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "200 of 200 are right\n"), done.stderr


def test_programs_are_talked_with_side_by_side(server: Server, sandbox_image: str) -> None:
    async def talk(sandbox: AsyncSandbox, number: int) -> str:
        async with await sandbox.session(tty=Tty(echo=False, term="dumb")) as session:
            await session.run("python3 -q", expect=">>> ")
            await session.send("import time; print('be' + 'gun', flush=True); time.sleep(1000)\n", expect="begun")
            await session.interrupt(expect=">>> ")
            answer = await session.send(f"print({number} * 7)\n", expect=r"(\d+)\r\n")
            assert answer is not None
            await session.send("exit()\n", expect=END)
            return f"{answer.groups[0]} {await (await session.run('echo $?')).text()}"

    async def act() -> None:
        async with client_of(server) as client, await client.create_sandbox(SANDBOX, memory_bytes=SMALL) as sandbox:
            assert await asyncio.gather(*(talk(sandbox, number) for number in range(4))) == [f"{number * 7} 0\n" for number in range(4)]
            async with await sandbox.terminal("cat", echo=False) as cat:
                assert (await cat.send_line("hello", expect="hello")) is not None
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(cat.expect("never", None), 0.2)
                assert (await cat.send_line("again", expect="again")) is not None
            assert (await cat.wait(20)).over

    in_loop(act())
