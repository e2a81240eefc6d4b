"""`listener` for asyncio: somebody is told of a command's output while it runs, and the command never waits for them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable

from remote_env import protocol
from remote_env.aio.eventstream import AsyncEventStream
from remote_env.errors import RemoteEnvError
from remote_env.events import OutputPiece

OnOutput = Callable[[OutputPiece], object]
"""A function, called in the event loop, or a coroutine function, awaited in a task of its own."""

log = logging.getLogger("remote_env")


class AsyncListener:
    """Reads the stream and calls `on_output`, both in a task of its own: what a slow listener has not heard waits in the
    server's spool, but for the one piece that it is busy with.

    An exception of `on_output` is logged once and ends the listening, nothing else.
    """

    def __init__(self, stream: AsyncEventStream, on_output: OnOutput) -> None:
        self._stream = stream
        self._on_output = on_output
        self._deaf = False
        self._heard = 0  # bytes
        self._task = asyncio.get_running_loop().create_task(self._listen(), name="remote-env-listener")

    async def conclude(self, record: protocol.Execution, grace_s: float) -> None:
        self._stream.conclude(record)
        try:
            await asyncio.wait({self._task}, timeout=grace_s)
            if not self._task.done():
                log.warning(
                    "execution %s in sandbox %s: on_output is slow: its result is returned, %d bytes of its output were told of",
                    record.id, record.sandbox_id, self._heard,
                )  # fmt: skip
        finally:
            self.stop()

    def stop(self) -> None:
        """It hears nothing any more. The call that it may be busy with is not waited for."""
        self._deaf = True
        self._stream.close()

    async def _listen(self) -> None:
        execution = self._stream.execution
        try:
            async for event in self._stream:
                if self._deaf:
                    return
                if isinstance(event, OutputPiece) and not await self._tell(event):
                    return
        except RemoteEnvError as error:
            # The call itself tells of it where it matters there.
            log.warning("execution %s in sandbox %s: on_output hears no more: %s", execution.id, execution.sandbox_id, error)
        finally:
            self._stream.close()

    async def _tell(self, piece: OutputPiece) -> bool:
        """Whether more is wanted."""
        try:
            told = self._on_output(piece)
            if inspect.isawaitable(told):
                await told
        except Exception:
            execution = self._stream.execution
            log.exception("execution %s in sandbox %s: on_output failed and is not called again", execution.id, execution.sandbox_id)
            return False
        self._heard += len(piece.data)
        return True
