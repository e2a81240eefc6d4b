"""`client` for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from remote_env import protocol
from remote_env.aio.execution import AsyncExecution
from remote_env.aio.sandbox import AsyncSandbox
from remote_env.aio.transport import AsyncTransport
from remote_env.answer import execute_answer
from remote_env.client_base import ClientBase, OnLeaseEnd
from remote_env.config import Endpoint
from remote_env.heartbeat import HEARTBEATS
from remote_env.idempotency import ReadCommands
from remote_env.link import OnDisconnected, OnReconnected
from remote_env.protocol import ExecuteAnswer, Health
from remote_env.sandbox_base import OnUndelivered
from remote_env.timings import Timings


class AsyncClient(ClientBase[AsyncSandbox, AsyncExecution]):
    """A client of one server, for the tasks of one event loop: the first that it is used in. A thousand commands at once are
    a thousand connections; nothing waits for one. What each method raises: see `Client`.

    Args:
        url, token, token_file, ca_file, fingerprint, timings, run_id, on_lease_end, on_undelivered, reads: see `Client`.
        on_disconnected, on_reconnected: see `Client`: called in a thread of their own, not in the event loop
            (`loop.call_soon_threadsafe` leads there).

    The lease is renewed by the process's heartbeat thread, which all clients of a server share: an event loop that is busy
    for long loses no sandbox.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        fingerprint: str | None = None,
        timings: Timings | None = None,
        run_id: str | None = None,
        on_lease_end: OnLeaseEnd = "wait",
        on_undelivered: OnUndelivered = "raise",
        reads: ReadCommands | None = None,
        on_disconnected: OnDisconnected | None = None,
        on_reconnected: OnReconnected | None = None,
    ) -> None:
        endpoint = Endpoint.resolve(url, token, token_file=token_file, ca_file=ca_file, fingerprint=fingerprint)
        self._transport = AsyncTransport(endpoint, timings)
        super().__init__(
            self._transport,
            run_id=run_id,
            on_lease_end=on_lease_end,
            on_undelivered=on_undelivered,
            reads=reads,
            on_disconnected=on_disconnected,
            on_reconnected=on_reconnected,
        )

    async def create_sandbox(self, image: str, *, queue_s: float | None = None, **options: Any) -> AsyncSandbox:
        """Makes a sandbox and returns when commands can run in it; pulls the image where it is missing. `queue_s` and
        `options` are what `Client.create_sandbox` takes. Cancelling the task that awaits this removes what
        was made."""
        return await self._create_sandbox(image, options, queue_s)

    async def sandbox(self, sandbox_id: str) -> AsyncSandbox:
        """A sandbox that somebody made, this process or another. Its lease stays its run's affair."""
        return await self._find_sandbox(sandbox_id)

    async def sandboxes(self, *, run_id: str | None = None, state: str | None = None) -> list[AsyncSandbox]:
        """The live sandboxes of the server, of one run or of all. `state="all"`: those that are gone, too."""
        return await self._list_sandboxes(run_id, state)

    async def sandbox_record(self, sandbox_id: str) -> protocol.Sandbox:
        """The server's answer about a sandbox, once it is no longer being created."""
        return await self.ask_sandbox(sandbox_id)

    async def execution(self, execution_id: str) -> AsyncExecution:
        """A command that somebody sent, this process or another."""
        return await self._find_execution(execution_id)

    async def executions(self, **filters: str | int | None) -> list[AsyncExecution]:
        """The server's executions, newest first, without output: filtered as `Client.executions`."""
        return await self._list_executions(filters)

    async def execute(self, sandbox_id: str, command: str | Sequence[str], **spec: Any) -> ExecuteAnswer:
        """`AsyncSandbox.run` with the answer of POST /execute: output, returncode, exception_info, extra."""
        execution = await (await self.sandbox(sandbox_id)).run(command, **spec)
        stderr = await execution.stderr() if execution.streams == "split" else None
        return execute_answer(execution.record, await execution.output(), stderr)

    async def health(self) -> Health:
        """The server's version, protocol, instance id, engine and capacity."""
        return await self._health()

    async def close(self) -> None:
        """Ends the heartbeat of this client and its connections. Sandboxes stay, until their lease runs out. A call of
        another task that is under way raises; its command goes on. May be repeated."""
        self._closed.set()
        self._link.close()
        await self._transport.close()
        # Both wait for a thread's end, which the event loop must not.
        await asyncio.to_thread(HEARTBEATS.leave, self, self._endpoint)
        await asyncio.to_thread(self._link.join_callbacks, self.timings.farewell_s)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _sandbox(self, record: protocol.Sandbox) -> AsyncSandbox:
        return AsyncSandbox(self, record)

    def _execution(self, record: protocol.Execution) -> AsyncExecution:
        return AsyncExecution(self, record)
