"""Watches the engine: which of our containers die, which names may mean other images, and whether the engine itself goes away."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from server.engine import Engine, EngineError

log = logging.getLogger("server.watch")

_RECONNECT_S = (0.2, 5.0)  # seconds between attempts, first and most
_RECENT_S = 60.0  # a death this soon after the engine came back is the engine's doing


class EngineWatch:
    """A thread that reads the engine's events. They are hints to look sooner: nothing relies on them alone.

    Args:
        on_death: called on the event loop with the container's id.
        on_image: called on the event loop when some image's name may mean another image than before.
        on_back: called on the event loop when the engine answers again after it was away.
    """

    def __init__(
        self, engine: Engine, on_death: Callable[[str], None], on_image: Callable[[], None], on_back: Callable[[], None]
    ) -> None:  # fmt: skip
        self._engine = engine
        self._on_death = on_death
        self._on_image = on_image
        self._on_back = on_back
        self._loop = asyncio.get_running_loop()
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._back_at: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-events", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause, most = _RECONNECT_S
        while not self._stop.is_set():
            try:
                for container_id in self._engine.news(lambda: self._tell(self._is_up)):
                    if container_id is None:
                        self._tell(self._on_image)
                    else:
                        self._tell(self._on_death, container_id)
            except EngineError as error:
                log.debug("engine events ended: %s", error)
            self._tell(self._is_down)
            self._stop.wait(pause)
            pause = min(pause * 2, most) if not self._up.is_set() else _RECONNECT_S[0]

    def _tell(self, function: Callable[..., None], *args: str) -> None:
        if not self._stop.is_set():
            try:
                self._loop.call_soon_threadsafe(function, *args)
            except RuntimeError:  # the loop is closed: nobody listens any more
                self._stop.set()

    def _is_up(self) -> None:
        if self._down.is_set():
            log.info("the engine is back")
            self._back_at = self._loop.time()
            self._on_back()
        self._down.clear()
        self._up.set()

    def _is_down(self) -> None:
        if self._up.is_set():
            log.warning("the engine is away; commands go on")
        self._up.clear()
        self._down.set()

    async def engine_broke(self, within_s: float) -> bool:
        """Whether the engine is away, came back lately, goes away within so many seconds or is about to (it may take its time
        over other containers): then a container that died died of that."""
        if self._back_at is not None and self._loop.time() - self._back_at < _RECENT_S:
            return True
        try:
            await asyncio.wait_for(self._down.wait(), within_s)
        except asyncio.TimeoutError:
            return not await self._engine.takes_connections()
        return True

    def close(self) -> None:
        """Let the thread end by itself: it may hang in a read of the engine's for ever, which nothing waits for."""
        self._stop.set()
