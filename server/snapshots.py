"""Images made of sandboxes, and what changed in a sandbox against its image. The sandbox goes on meanwhile.

It is not paused (the engine's default for a commit): its init would stand still with it, and so every clock, every link and every
command. So a file that is being written at that moment may be in the image half written, as after a power cut.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from remote_env.filemodels import Change, Changes, Snapshot, SnapshotRequest
from remote_env.protocol import new_id
from server.engine import MOUNT_POINT, Engine, EngineError
from server.live import LiveSandbox
from server.problems import ProblemError

log = logging.getLogger("server.snapshots")

_REMEMBERED = 1000  # snapshots, so that a request whose answer was lost is answered when it comes again
_KINDS = ("modified", "added", "deleted")  # by the engine's numbers


class Snapshots:
    """All methods raise ProblemError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._taken: OrderedDict[str, _Taking] = OrderedDict()

    async def diff(self, sandbox: LiveSandbox) -> Changes:
        """What is otherwise than in the image, by path; without the one thing that is mounted into every sandbox."""
        try:
            found = await self._engine.diff(await self._container(sandbox))
        except EngineError as error:
            raise ProblemError(error.code, error.detail, id=sandbox.id) from error
        changes = [Change(path=each["Path"], kind=_KINDS[each["Kind"]]) for each in found if not _is_ours(each["Path"])]
        return Changes(changes=sorted(changes, key=lambda change: change.path))

    async def take(self, sandbox: LiveSandbox, request: SnapshotRequest, wait_s: float) -> Snapshot:
        """The snapshot, or, after so many seconds, that it is being taken. The same id again is the same snapshot."""
        id = request.id or new_id()
        taking = self._taken.get(id)
        if taking is None:
            container_id = await self._container(sandbox)
            work = asyncio.create_task(self._engine.snapshot(container_id, request.image))
            taking = self._taken[id] = _Taking(sandbox.id, request.image, work)
            while len(self._taken) > _REMEMBERED:
                self._taken.popitem(last=False)
            log.info("snapshot", extra={"sandbox_id": sandbox.id, "image": request.image})
        elif (taking.sandbox_id, taking.image) != (sandbox.id, request.image):
            raise ProblemError("id_conflict", f"snapshot {id} is another one", id=sandbox.id)
        await asyncio.wait({taking.work}, timeout=wait_s)
        if not taking.work.done():
            return Snapshot(id=id, image=request.image, state="creating")
        try:
            image_id, size_bytes = taking.work.result()
        except EngineError as error:
            self._taken.pop(id, None)  # asked for again, it is tried again
            raise ProblemError(error.code, error.detail, id=sandbox.id) from error
        return Snapshot(id=id, image=request.image, state="ready", image_id=image_id, size_bytes=size_bytes)

    async def _container(self, sandbox: LiveSandbox) -> str:
        """Its container's id, once the engine has said that it is there and ours."""
        try:
            found = None if sandbox.container_id is None else await self._engine.inspect(sandbox.container_id)
        except EngineError as error:
            raise ProblemError(error.code, error.detail, id=sandbox.id) from error
        if found is None:
            raise ProblemError("gone", f"sandbox {sandbox.id} has no container any more", id=sandbox.id)
        return found.id


class _Taking:
    def __init__(self, sandbox_id: str, image: str, work: asyncio.Task[tuple[str, int]]) -> None:
        self.sandbox_id = sandbox_id
        self.image = image
        self.work = work
        # Whoever asked may have gone: an error that nobody fetches is no news.
        work.add_done_callback(lambda done: done.cancelled() or done.exception())


def _is_ours(path: str) -> bool:
    return path == MOUNT_POINT or path.startswith(f"{MOUNT_POINT}/")
