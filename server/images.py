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
        self._waiting: set[str] = set()  # sandboxes
        self._pulls: dict[tuple[str, str | None], _Pull] = {}  # by image and platform

    async def get(self, sandbox: LiveSandbox, spec: SandboxSpec) -> Image:
        """The image of a sandbox that is being made; its `progress` tells of a pull. Raises EngineError."""
        self._waiting.add(sandbox.id)
        try:
            return await self._get(sandbox, spec)
        finally:
            self._waiting.discard(sandbox.id)

    async def _get(self, sandbox: LiveSandbox, spec: SandboxSpec) -> Image:
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
        """Whether it waits for its image: its making can be broken off then, and a pull goes on for others."""
        return sandbox.id in self._waiting

    async def _pull(self, sandbox: LiveSandbox, spec: SandboxSpec) -> None:
        key = spec.image, spec.platform
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = _Pull(spec.image, self._loop.time())
            work = self._engine.pull(spec.image, spec.platform, self._pull_timeout_s, pull.tell)
            pull.task = self._loop.create_task(work)
            pull.task.add_done_callback(lambda task: self._over(key, task))
        assert pull.task is not None
        pull.waiting[sandbox.id] = sandbox
        sandbox.progress = pull.progress  # as far as it is by now
        try:
            await asyncio.shield(pull.task)
        finally:
            del pull.waiting[sandbox.id]

    def _over(self, key: tuple[str, str | None], task: asyncio.Task[None]) -> None:
        del self._pulls[key]
        if not task.cancelled() and (error := task.exception()) is not None:  # all who waited may have gone
            log.warning("image not pulled", extra={"image": key[0], "reason": str(error)})


class _Pull:
    """One pull, and the sandboxes that wait for it, by id."""

    def __init__(self, image: str, now: float) -> None:
        self.image = image
        self.progress = f"pulling {image}"
        self.waiting: dict[str, LiveSandbox] = {}
        self.task: asyncio.Task[None] | None = None
        self._logged_at = now

    def tell(self, words: str) -> None:
        """The engine says how far it is."""
        self.progress = f"pulling {self.image}: {words}"
        for sandbox in self.waiting.values():
            sandbox.progress = self.progress
        now = asyncio.get_running_loop().time()
        if now - self._logged_at > _PULL_LOG_S:
            self._logged_at = now
            log.info("pulling image", extra={"image": self.image, "progress": words})
