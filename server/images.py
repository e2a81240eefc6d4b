"""The images that sandboxes are made of: pulled where they are missing, once for however many wait for the same one."""

from __future__ import annotations

import asyncio
import logging

from remote_env.protocol import SandboxSpec
from server.engine import Engine, EngineError, Image
from server.live import LiveSandbox

log = logging.getLogger("server.images")

_PULL_LOG_S = 5.0  # seconds between lines of the log about one pull


class Images:
    """Args:
    pull_timeout_s: seconds that one pull may take.
    """

    def __init__(self, engine: Engine, pull_timeout_s: float) -> None:
        self._engine = engine
        self._pull_timeout_s = pull_timeout_s
        self._loop = asyncio.get_running_loop()
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, LiveSandbox] = {}  # the sandboxes that wait for a pull, by id

    async def get(self, sandbox: LiveSandbox, spec: SandboxSpec) -> Image:
        """The image of a sandbox that is being made; its `progress` tells of a pull. Raises EngineError."""
        if spec.pull != "always":
            try:
                return await self._engine.image(spec.image)
            except EngineError as error:
                if spec.pull == "never" or error.code != "image_not_found":
                    raise
        log.info("pulling image", extra={"sandbox_id": sandbox.id, "image": spec.image})
        await self._pull(sandbox, spec)
        return await self._engine.image(spec.image)

    def awaited_by(self, sandbox: LiveSandbox) -> bool:
        """Whether it waits for a pull: its making can be broken off then, and the pull goes on for others."""
        return sandbox.id in self._waiting

    async def _pull(self, sandbox: LiveSandbox, spec: SandboxSpec) -> None:
        key = f"{spec.image} {spec.platform}"
        task = self._pulls.get(key)
        told = self._loop.time()

        def progress(words: str) -> None:
            nonlocal told
            if self._loop.time() - told > _PULL_LOG_S:
                told = self._loop.time()
                log.info("pulling image", extra={"image": spec.image, "progress": words})
            for waiting in self._waiting.values():
                if waiting.image == spec.image:
                    waiting.progress = f"pulling {spec.image}: {words}"

        if task is None:
            pull = self._engine.pull(spec.image, spec.platform, self._pull_timeout_s, progress)
            task = self._pulls[key] = self._loop.create_task(pull)
            task.add_done_callback(lambda _: self._pulls.pop(key, None))
        sandbox.progress = f"pulling {spec.image}"
        self._waiting[sandbox.id] = sandbox
        try:
            await asyncio.shield(task)
        finally:
            del self._waiting[sandbox.id]
