"""`execution` for asyncio."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from remote_env import protocol
from remote_env.aio.eventstream import AsyncEventStream
from remote_env.events import OutputPiece
from remote_env.execution_base import ExecutionBase

if TYPE_CHECKING:
    from remote_env.aio.client import AsyncClient


class AsyncExecution(ExecutionBase):
    """A command in a sandbox, running or ended. Tasks may share it. What each method raises: see `Execution`.

    `record` is the server's latest answer about it; `refresh()` and `wait()` renew it.
    """

    def __init__(self, client: AsyncClient, record: protocol.Execution) -> None:
        super().__init__(client.exchange, record)

    async def text(self) -> str:
        """`output()` as UTF-8; what is not UTF-8 is replaced by U+FFFD."""
        return (await self.output()).decode("utf-8", "replace")

    async def refresh(self) -> AsyncExecution:
        """Asks the server how it stands now."""
        return await self._refresh()

    async def wait(self, timeout: float | None = None) -> AsyncExecution:
        """Waits for its end, for ever or for `timeout` seconds. Raises TimeoutError (it goes on), OutcomeUnknownError.

        Cancelling the task that waits does not cancel the command: `cancel()` does.
        """
        return await self._wait(timeout)

    async def output(self) -> bytes:
        """The kept bytes of its output (of stdout, where streams are split): all of them once it is over, else what there
        is by now."""
        return await self._fetch_output()

    async def stderr(self) -> bytes:
        """As `output`, of stderr."""
        return await self._fetch_stderr()

    async def save(self, local: str | os.PathLike[str], *, stderr: bool = False) -> None:
        """`output()`, or `stderr()`, of a command that has ended into a local file, a piece at a time."""
        await self._save(local, stderr)

    def stream(self, from_: str | int = "start") -> AsyncEventStream:
        """Follows it, whether it runs or is over: `async for event in execution.stream()`. `from_`: see `Execution.stream`."""
        return AsyncEventStream.of(self, self._exchange, from_)

    async def follow(self) -> AsyncIterator[bytes]:
        """The output (of stdout, where streams are split) from its beginning, as it comes, until the command has ended
        (`record` is then the final one)."""
        async with self.stream() as events:
            async for event in events:
                if isinstance(event, OutputPiece) and event.stream != "stderr":
                    yield event.data

    async def cancel(self) -> AsyncExecution:
        """Has everything the command started ended: SIGTERM, and SIGKILL after its grace. Does not wait for it; may be
        repeated. An end of its own that comes first stays the end."""
        return await self._cancel()

    async def signal(self, number: int) -> AsyncExecution:
        """Sends the signal to the command's process group; nothing where it is over."""
        return await self._signal(number)
