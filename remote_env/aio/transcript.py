"""`transcript` for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from remote_env.aio.eventstream import AsyncEventStream
from remote_env.errors import RemoteEnvError
from remote_env.transcript import Found, TranscriptBase


class AsyncTranscript(TranscriptBase):
    """Reads the stream from the first look on, in a task of its own. Tasks may share it; they look one after the other."""

    def __init__(self, stream: AsyncEventStream, errors: str = "replace") -> None:
        super().__init__(errors)
        self._stream = stream
        self._changed = asyncio.Event()  # set, and replaced, at each change
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def text(self) -> str:
        return self._expecter.text

    def close(self) -> None:
        self._closed = True
        self._tell()
        self._stream.close()

    def abandon(self) -> None:
        """As `close`, of any thread: for a finalizer. Nothing is left to close where the event loop is."""
        loop = None if self._task is None else self._task.get_loop()
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.close)

    async def _look(self, begin: Callable[[], Callable[[], Found | None]], timeout_s: float | None) -> Found | None:
        async with self._looking:
            find = begin()
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            if self._task is None:
                self._task = asyncio.create_task(self._listen(), name="remote-env-transcript")
            self._looked_at = True
            self._tell()
            try:
                while (found := self._see(find)) is None:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    try:
                        await asyncio.wait_for(self._changed.wait(), left)
                    except asyncio.TimeoutError:
                        continue  # what has come at the last moment counts
                return found
            finally:
                self._looked_at = False

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # ---------------------------------------------------------------------------------------------------- the task

    async def _listen(self) -> None:
        try:
            async for event in self._stream:
                while self._full:
                    await self._changed.wait()
                self._hear(event)
                self._tell()
            self._hear_end()
        except (RemoteEnvError, UnicodeError) as error:
            self._fail(error)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._stream.close()
            self._tell()
