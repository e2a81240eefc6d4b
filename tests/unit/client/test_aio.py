"""What is asyncio's own: cancellation, event loops, listeners. What holds for both faces: see `faces`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from remote_env import Client, Ended, OutputPiece
from remote_env.aio import AsyncClient
from remote_env.aio.transport import AsyncTransport
from remote_env.config import Endpoint
from remote_env.errors import InvalidSpec, LinkLost, MisuseError, RemoteEnvError
from remote_env.heartbeat import HEARTBEATS
from remote_env.protocol import Outcome
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import TOKEN, FakeServer, Fault

START = r"/v1/sandboxes/[^/]+/executions$"
CANCELLED = Outcome(kind="cancelled", ran=True)


def in_loop(act: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(act, 60))


def transport(url: str, **options: Any) -> AsyncTransport:
    return AsyncTransport(Endpoint(url, **options), FAST)


# ------------------------------------------------------------------------------------------------------- cancellation


def test_a_cancelled_task_cancels_its_command_and_is_cancelled(fake: FakeServer) -> None:
    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=FAST) as client:
            sandbox = await client.create_sandbox("image")
            task = asyncio.create_task(sandbox.run("hang"))
            await asyncio.to_thread(fake.wait_until, lambda: fake.started["hang"])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [kept.record.outcome for kept in fake.executions.values()] == [CANCELLED]

    in_loop(act())


def test_a_timeout_of_asyncios_cancels_the_command(fake: FakeServer) -> None:
    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=FAST) as client:
            sandbox = await client.create_sandbox("image")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sandbox.run("hang"), 0.2)
            assert [kept.record.outcome for kept in fake.executions.values()] == [CANCELLED]

    in_loop(act())


def test_a_task_that_is_cancelled_before_delivery_fences_the_id(fake: FakeServer) -> None:
    """The copy that a proxy still holds starts nothing when it comes."""
    held = threading.Event()
    fake.on("POST", START, Fault(before=lambda: (held.wait(20), None)[1]))

    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=FAST) as client:
            sandbox = await client.create_sandbox("image")
            task = asyncio.create_task(sandbox.run("touch x"))
            await asyncio.to_thread(fake.wait_until, lambda: fake.seen("POST", START))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    in_loop(act())
    held.set()
    fake.handle(fake.seen("POST", START)[0])
    assert not fake.started
    assert [kept.record.state for kept in fake.executions.values()] == ["abandoned"]


def test_cancelling_one_of_many_cancels_that_one_alone(fake: FakeServer) -> None:
    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=FAST) as client:
            sandbox = await client.create_sandbox("image")
            tasks = [asyncio.create_task(sandbox.run("hang", id=f"command-{number}")) for number in range(5)]
            await asyncio.to_thread(fake.wait_until, lambda: fake.started["hang"] == 5)
            tasks[2].cancel()
            await asyncio.wait({tasks[2]})
            states = {name: kept.record.state for name, kept in fake.executions.items()}
            assert states == {f"command-{number}": "ended" if number == 2 else "running" for number in range(5)}
            for number in (0, 1, 3, 4):
                fake.finish(f"command-{number}", Outcome(kind="exited", ran=True, code=number))
            codes = [execution.returncode for execution in await asyncio.gather(*tasks[:2], *tasks[3:])]
            assert codes == [0, 1, 3, 4]

    in_loop(act())


def test_a_task_that_only_waits_cancels_nothing(fake: FakeServer) -> None:
    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=FAST) as client:
            sandbox = await client.create_sandbox("image")
            execution = await sandbox.start("hang")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(execution.wait(), 0.1)
            with pytest.raises(TimeoutError, match="goes on"):
                await execution.wait(0.05)
            assert (await execution.refresh()).record.state == "running"

    in_loop(act())


# -------------------------------------------------------------------------------------------------------- event loops


def test_another_event_loop_is_refused_before_anything_is_sent(fake: FakeServer) -> None:
    client = AsyncClient(fake.url, TOKEN, timings=FAST)

    async def act() -> None:
        await client.health()

    in_loop(act())
    seen = len(fake.requests)
    with pytest.raises(MisuseError, match="event loop"):
        in_loop(act())
    assert len(fake.requests) == seen


def test_the_process_has_one_heartbeat_for_clients_of_both_faces(fake: FakeServer) -> None:
    def beating() -> int:
        """How many threads beat to this server. Clients of other tests may have theirs."""
        return sum(endpoint.url == fake.url for endpoint in HEARTBEATS._beats)

    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=FAST) as client:
            await client.create_sandbox("image")
            assert beating() == 1

    with Client(fake.url, TOKEN, timings=FAST) as other:
        other.create_sandbox("image")
        in_loop(act())
        assert beating() == 1
    assert beating() == 0


def test_the_lease_is_renewed_while_the_event_loop_is_busy(fake: FakeServer) -> None:
    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=replace(FAST, first_beat_s=0.01, heartbeat_s=0.02)) as client:
            await client.create_sandbox("image")
            before = len(fake.seen("POST", "/v1/leases"))
            # Nothing is awaited here: the loop stands still until three beats have come.
            fake.wait_until(lambda: len(fake.seen("POST", "/v1/leases")) >= before + 3)

    in_loop(act())


def test_a_sandbox_that_the_heartbeat_finds_gone_refuses_commands(fake: FakeServer) -> None:
    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=replace(FAST, first_beat_s=0.01, heartbeat_s=0.02)) as client:
            sandbox = await client.create_sandbox("image")
            with fake.changed:
                fake.sandboxes[sandbox.id] = fake.sandboxes[sandbox.id].model_copy(update={"state": "removed", "reason": "lease_over"})
            told = asyncio.Event()
            loop = asyncio.get_running_loop()
            mark_gone = sandbox.mark_gone
            sandbox.mark_gone = lambda reason: (mark_gone(reason), loop.call_soon_threadsafe(told.set))[0]  # type: ignore[method-assign]
            await told.wait()
            with pytest.raises(RemoteEnvError, match="gone"):
                await sandbox.run("true")

    in_loop(act())


def test_closing_wakes_a_call_that_is_under_way_and_the_command_goes_on(fake: FakeServer) -> None:
    async def act() -> None:
        client = AsyncClient(fake.url, TOKEN, timings=FAST)
        sandbox = await client.create_sandbox("image")
        task = asyncio.create_task(sandbox.run("hang"))
        await asyncio.to_thread(fake.wait_until, lambda: fake.started["hang"])
        await client.close()
        await client.close()
        with pytest.raises(LinkLost):
            await task

    in_loop(act())
    assert [kept.record.state for kept in fake.executions.values()] == ["running"]


# ---------------------------------------------------------------------------------------------------------- listeners


def test_on_output_may_be_a_function_or_a_coroutine_function(fake: FakeServer) -> None:
    async def act() -> None:
        heard: list[str] = []

        async def hear(piece: OutputPiece) -> None:
            await asyncio.sleep(0)
            heard.append(piece.text)

        async with AsyncClient(fake.url, TOKEN, timings=FAST) as client:
            sandbox = await client.create_sandbox("image")
            await sandbox.run("echo one", on_output=hear)
            await sandbox.run("echo two", on_output=lambda piece: heard.append(piece.text))
            await sandbox.run("echo three", on_output=lambda piece: 1 / 0)
        assert heard == ["one\n", "two\n"]

    in_loop(act())


def test_a_listener_that_never_returns_holds_up_the_result_for_its_grace_alone(fake: FakeServer) -> None:
    async def act() -> None:
        forever = asyncio.Event()

        async def hang(piece: OutputPiece) -> None:
            await forever.wait()

        async with AsyncClient(fake.url, TOKEN, timings=replace(FAST, listener_grace_s=0.02)) as client:
            sandbox = await client.create_sandbox("image")
            assert await (await sandbox.run("echo one", on_output=hang)).text() == "one\n"
            forever.set()

    in_loop(act())


def test_a_stream_sends_its_command_when_it_is_entered_and_once(fake: FakeServer) -> None:
    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=FAST) as client:
            sandbox = await client.create_sandbox("image")
            stream = sandbox.stream("echo once")
            with pytest.raises(InvalidSpec, match="sent when"):
                stream.execution  # noqa: B018
            assert not fake.started
            async with stream:
                assert fake.started["echo once"] == 1
                events = [event async for event in stream]
            assert isinstance(events[-1], Ended)
            assert events[-1].result is stream.execution
            assert fake.started["echo once"] == 1

    in_loop(act())
