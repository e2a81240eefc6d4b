"""The one sandbox that POST /execute shares among callers who name none; made at its first use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from remote_env.protocol import Sandbox, SandboxSpec, new_id
from server.live import LiveSandbox
from server.problems import ProblemError

_FOR_EVER_S = 10 * 365 * 86400.0  # it has no harness that could renew a lease


class DefaultSandbox:
    """Args:
    image: None: there is none.
    instance_id: its run is named after the instance, so that a restarted server finds it again.
    live: all live sandboxes, by id.
    create: makes a sandbox and waits until it runs or failed.
    """

    def __init__(
        self,
        image: str | None,
        instance_id: str,
        live: Mapping[str, LiveSandbox],
        create: Callable[[SandboxSpec], Awaitable[Sandbox]],
    ) -> None:
        self._image = image
        self._run_id = f"default-{instance_id}"
        self._live = live
        self._create = create
        self._making: asyncio.Task[tuple[str, str]] | None = None

    async def get(self) -> tuple[str, str]:
        """Its id and epoch. Raises ProblemError where there is none or it cannot be made."""
        if self._image is None:
            raise ProblemError("invalid", "sandbox: name one, or start the server with --default-image IMAGE")
        for live in self._live.values():
            if live.run_id == self._run_id and live.image == self._image and live.takes_work and live.epoch is not None:
                return live.id, live.epoch
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make(self._image))
        return await asyncio.shield(self._making)

    async def _make(self, image: str) -> tuple[str, str]:
        sandbox = await self._create(SandboxSpec(id=new_id(), image=image, run_id=self._run_id, lease_s=_FOR_EVER_S))
        if sandbox.epoch is None:
            code, _, detail = (sandbox.reason or "internal: it was not made").partition(": ")
            raise ProblemError(code if code in ("image_not_found", "engine_unavailable") else "internal", detail, id=sandbox.id)
        return sandbox.id, sandbox.epoch
