"""`eventstream` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

from remote_env import protocol
from remote_env.errors import InvalidSpec
from remote_env.events import Ended, Happened
from remote_env.exchange import Exchange
from remote_env.following import Following

if TYPE_CHECKING:
    from remote_env.aio.execution import AsyncExecution

AsyncEvent = Happened | Ended["AsyncExecution"]


class AsyncEventStream:
    """An asynchronous iterator of `Accepted`, `Started`, `OutputPiece` and `Gap`, and at last `Ended`; one task iterates.

    A stream of `AsyncSandbox.stream` sends its command when it is entered (`async with`), or with its first event. Closing it, as
    `async with` does at its end, leaving the loop, or cancelling the task that iterates does not cancel a command that is under
    way: `cancel()` does, and what is written until its end still comes. What iterating raises: see `EventStream`.
    """

    def __init__(self, begin: Callable[[], Awaitable[AsyncExecution]], exchange: Exchange, from_: str | int = "start") -> None:
        self._begin = begin
        self._exchange = exchange
        self._from = from_
        self._execution: AsyncExecution | None = None
        self._following: _Following | None = None
        self._closed = False

    @classmethod
    def of(cls, execution: AsyncExecution, exchange: Exchange, from_: str | int = "start", *, counted: bool = True) -> AsyncEventStream:
        """The events of a command that was sent. Raises InvalidSpec for what is no position."""

        async def begin() -> AsyncExecution:
            return execution

        stream = cls(begin, exchange, from_)
        stream._follow(execution, counted=counted)
        return stream

    @property
    def execution(self) -> AsyncExecution:
        """The command's handle. Raises InvalidSpec before it was sent."""
        if self._execution is None:
            raise InvalidSpec("This stream's command is sent when the stream is entered, or with its first event.")
        return self._execution

    @property
    def position(self) -> str | None:
        """Where to go on later, after the events that were had so far: for `AsyncExecution.stream`. None while that is not known."""
        return None if self._following is None else self._following.position

    async def cancel(self) -> None:
        """Has the command ended, as `AsyncExecution.cancel`; the stream goes on to its end. Raises OutcomeUnknownError."""
        await self.execution.cancel()

    def conclude(self, record: protocol.Execution) -> None:
        """Tells a stream that another task reads how the execution has ended: it need not wait for anything any more."""
        if self._following is not None:
            self._following.conclude(record)

    def close(self) -> None:
        """Ends the iteration, in another task, too; the command goes on. May be repeated."""
        self._closed = True
        if self._following is not None:
            self._following.close()

    async def aclose(self) -> None:
        """`close`, for `contextlib.aclosing` and its like."""
        self.close()

    def __aiter__(self) -> AsyncEventStream:
        return self

    async def __anext__(self) -> AsyncEvent:
        following = await self._begun()
        event = None if following is None else await following.next_event()
        if event is None:
            raise StopAsyncIteration
        return Ended(self.execution.learn(event)) if isinstance(event, protocol.Execution) else event

    async def __aenter__(self) -> AsyncEventStream:
        await self._begun()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def _begun(self) -> _Following | None:
        if self._following is None and not self._closed:
            self._follow(await self._begin(), counted=True)
        return self._following

    def _follow(self, execution: AsyncExecution, *, counted: bool) -> None:
        self._execution = execution
        self._following = _Following(self._exchange, execution.record, self._from, counted=counted)


class _Following(Following):
    def __init__(self, exchange: Exchange, record: protocol.Execution, from_: str | int, *, counted: bool) -> None:
        super().__init__(exchange, record, from_, counted=counted)
        self._woken = False
        self._pausing: asyncio.Task[bool] | None = None
        self._reading = False

    async def next_event(self) -> Happened | protocol.Execution | None:
        self._reading = True
        try:
            return await self._next_event()
        finally:
            self._reading = False

    def close(self) -> None:
        self._closed = True
        self._wake()
        if not self._reading:  # else the task that reads cleans up
            self._hang_up()

    async def _pause(self, seconds: float) -> None:
        if self._woken or seconds <= 0:
            return
        pausing = self._pausing = asyncio.get_running_loop().create_task(self._transport.pause(seconds))
        try:
            await asyncio.wait({pausing})
        finally:
            pausing.cancel()
            self._pausing = None

    def _signal_woken(self, woken: bool) -> None:
        self._woken = woken
        if woken and self._pausing is not None:
            self._pausing.cancel()
