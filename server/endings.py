"""How a sandbox's container ends: what ran in it is ended, its last words are read, what said nothing is lost, the container
is removed. In this order, and each step until the engine has done it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from server.engine import Container, Engine, EngineError
from server.executions import Executions
from server.live import LiveSandbox
from server.machines import execution as execution_rules

log = logging.getLogger("server.endings")

_RETRY_S = (0.05, 10.0)  # seconds between tries while the engine does not do it, first and most
_LAST_WORDS_S = 5.0  # seconds for a link to end after its container was removed
_GRACE_S = 2.0  # seconds that a command is given where its spec does not say
_ENGINE_BREAK_S = 1.0  # seconds in which an engine that stops its containers goes away itself


class Endings:
    """Carries endings out; that the sandbox is over then is for the caller to say.

    Args:
        engine_broke: answers whether the engine itself went away about now.
    """

    def __init__(self, engine: Engine, executions: Executions, engine_broke: Callable[[float], Awaitable[bool]]) -> None:
        self._engine = engine
        self._executions = executions
        self._engine_broke = engine_broke
        self._loop = asyncio.get_running_loop()

    async def of_the_dead(self, sandbox: LiveSandbox, reason: str) -> str:
        """It is dead, or has to be: end the container, keep what it said, and only then call the rest lost. Returns why, which
        may be more than `reason` knew."""
        if reason == "sandbox_died" and await self._engine_broke(_ENGINE_BREAK_S):
            reason = "engine_restarted"
        await self._end(sandbox, reason)
        return reason

    async def of_the_removed(self, sandbox: LiveSandbox, rehello_s: float) -> None:
        """End what runs in it, by its init where there is one, then the container.

        Args:
            rehello_s: seconds for its init to come back, where there is no link.
        """
        if rehello_s and sandbox.listener is not None and sandbox.executions:
            await _happens(sandbox.linked, rehello_s)
        for live in list(sandbox.executions.values()):
            self._executions.apply(live, execution_rules.CancelRequested())
        if sandbox.executions and sandbox.link is not None:
            grace_s = max(float((live.spec or {}).get("grace_s", _GRACE_S)) for live in sandbox.executions.values())
            await _happens(sandbox.idle, grace_s + _LAST_WORDS_S)
        await self._end(sandbox, "sandbox_removed")

    async def remove_container(self, sandbox: LiveSandbox) -> None:
        """Returns when there is none any more."""
        await _until_done(lambda: self._remove_container(sandbox))

    async def _end(self, sandbox: LiveSandbox, reason: str) -> None:
        await _until_done(lambda: self._end_container(sandbox))
        await self._last_words(sandbox)
        for live in list(sandbox.executions.values()):
            await self._executions.lose(live, reason)
        await self.remove_container(sandbox)

    async def _last_words(self, sandbox: LiveSandbox) -> None:
        """Read the link on until its end: an ending may still be in it, even after a reset."""
        deadline = self._loop.time() + _LAST_WORDS_S
        while sandbox.link is not None and self._loop.time() < deadline:
            sandbox.link.read(1 << 16)
            await asyncio.sleep(0.005)
        if sandbox.link is not None:
            sandbox.link.close("its container is gone")

    async def _end_container(self, sandbox: LiveSandbox) -> None:
        """Nothing runs in it any more: that is enough for those who wait. Its removal may fail for long after that (a mount
        that is busy, say)."""
        found = await self._container(sandbox)
        if found is None or not found.running:
            return
        try:
            await self._engine.remove(found.id)
        except EngineError:
            found = await self._engine.inspect(found.id)
            if found is not None and found.running:
                raise

    async def _remove_container(self, sandbox: LiveSandbox) -> None:
        if (found := await self._container(sandbox)) is not None:
            await self._engine.remove(found.id)

    async def _container(self, sandbox: LiveSandbox) -> Container | None:
        found = None if sandbox.container_id is None else await self._engine.inspect(sandbox.container_id)
        return found or await self._engine.find(sandbox.id)  # made by a call whose answer was lost, say


async def _until_done(attempt: Callable[[], Awaitable[None]]) -> None:
    """Try again for as long as the engine does not answer: what must go must go."""
    pause, most = _RETRY_S
    while True:
        try:
            await attempt()
            return
        except EngineError as error:
            log.warning("engine: %s; trying again", error.detail)
            await asyncio.sleep(pause)
            pause = min(pause * 2, most)


async def _happens(event: asyncio.Event, within_s: float) -> None:
    """Waits for it, for so many seconds at the most."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), within_s)
