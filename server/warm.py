"""Warm sandboxes: containers that are ready before anybody asks, so that a sandbox is there in milliseconds.

A warm one has an id of its own, a link directory, a container and an init that has said hello; nobody sees it. Whoever asks for
a sandbox of the same profile gets the container (see `server.acquiring`), and another one is made: one at a time for each
profile, and only while no caller's is being made (see `server.making.Places`). One that was handed out never comes back, and
one whose link breaks, whose image was tagged anew, or that an earlier version made, is thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from remote_env.protocol import SandboxSpec, new_id
from remote_env.version import __version__
from server.endings import Endings
from server.engine import Engine, EngineError, Image, Limits
from server.hellos import LifeCycle, SandboxLink
from server.images import Images
from server.link import Listener
from server.live import LiveSandbox
from server.machines.sandbox import State
from server.making import CreationFailed, Maker
from server.metrics import Stock
from server.profiles import Profile, Warm
from server.waits import Bell, WaitRoom
from server.warmrows import WarmRow, WarmRows

log = logging.getLogger("server.warm")

_RUN = "warm-sandboxes"  # nobody's
_REHELLO_S = 10.0  # seconds for the init of one that an earlier server made to come
_AGAIN_S = (1.0, 300.0)  # seconds between tries while one cannot be made, first and most
_STOP_S = 10.0  # seconds for a stopping server to remove them


class Incarnation(NamedTuple):
    """A container and the init in it."""

    id: str
    pid: int
    epoch: str
    secret: bytes


@dataclass(slots=True, eq=False)
class WarmSandbox:
    """Nobody's."""

    sandbox: LiveSandbox
    owner: SandboxLink
    profile: Profile
    image: Image

    @property
    def container(self) -> Incarnation:
        """Of one whose init has said hello."""
        sandbox = self.sandbox
        assert sandbox.container_id is not None
        assert sandbox.container_pid is not None
        assert sandbox.epoch is not None
        assert sandbox.secret is not None
        return Incarnation(sandbox.container_id, sandbox.container_pid, sandbox.epoch, sandbox.secret)


@dataclass(slots=True, eq=False)
class _Shelf:
    """All of one profile."""

    profile: Profile
    wanted: int
    memory_bytes: int  # of one
    ready: deque[WarmSandbox] = field(default_factory=deque)
    coming: set[WarmSandbox] = field(default_factory=set)  # being made, or taken over from an earlier server
    look: asyncio.Event = field(default_factory=asyncio.Event)
    making: asyncio.Future[None] | None = None
    trouble: str | None = None

    @property
    def missing(self) -> int:
        return self.wanted - len(self.ready) - len(self.coming)


class WarmPool:
    """Args:
    warm: how many of which profile.
    limits: a sandbox's, with the server's defaults filled in.
    owner: makes the owner of a sandbox's links.
    has_room: whether so many bytes of memory are left for one more.
    """

    def __init__(
        self, warm: Iterable[Warm], *, rows: WarmRows, engine: Engine, images: Images, maker: Maker, endings: Endings, room: WaitRoom,
        limits: Callable[[SandboxSpec], Limits], owner: Callable[[LiveSandbox, LifeCycle], SandboxLink],
        has_room: Callable[[int], bool], on_fatal: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        self._rows = rows
        self._engine = engine
        self._images = images
        self._maker = maker
        self._endings = endings
        self._room = room
        self._limits = limits
        self._owner = owner
        self._has_room = has_room
        self._on_fatal = on_fatal
        self._shelves: dict[Profile, _Shelf] = {}
        for each in warm:
            profile, limit = self._filled(each.profile), limits(each.profile.spec("warm-sandbox", _RUN))
            self._shelves[profile] = _Shelf(profile, each.count, limit.memory_bytes)
        self._known: dict[str, WarmSandbox] = {}  # by id; until its container is gone or somebody's
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def _filled(self, profile: Profile) -> Profile:
        limits = self._limits(profile.spec("warm-sandbox", _RUN))
        return profile.filled(limits.memory_bytes, limits.pids, limits.cpus)

    # ----------------------------------------------------------------------------------------------- what there is

    def take(self, spec: SandboxSpec) -> WarmSandbox | None:
        """One that this sandbox can have, and that nobody else gets from here on. None where there is none."""
        shelf = self._shelf(spec)
        while shelf is not None and shelf.ready and _takes_workdir(shelf.ready[0], spec):
            warm = shelf.ready.popleft()
            shelf.look.set()
            if warm.sandbox.link is not None:
                del self._known[warm.sandbox.id]
                return warm
            self._discard(warm, "its link is down")
        return None

    def _shelf(self, spec: SandboxSpec) -> _Shelf | None:
        """Where one for this sandbox would be."""
        profile = Profile.of(spec) if self._shelves else None
        return None if profile is None else self._shelves.get(self._filled(profile))

    def holds(self, sandbox_id: str) -> bool:
        """Whether a container or directory of that name is one of these."""
        return sandbox_id in self._known

    def stock(self) -> list[Stock]:
        return [Stock(shelf.profile.image, len(shelf.ready), shelf.wanted, shelf.trouble) for shelf in self._shelves.values()]

    @property
    def memory_bytes(self) -> int:
        """What they may use. Those that are being thrown away do not count."""
        return sum(shelf.memory_bytes * (len(shelf.ready) + len(shelf.coming)) for shelf in self._shelves.values())

    def give_way(self, memory_bytes: int, spec: SandboxSpec) -> None:
        """Throw away as many as hold so much memory, but one that this sandbox takes anyway: somebody's own comes first."""
        shelf = self._shelf(spec)
        if memory_bytes > 0 and shelf is not None and shelf.ready:
            memory_bytes -= shelf.memory_bytes
        while memory_bytes > 0 and (fullest := self._fullest(but_one_of=shelf)) is not None:
            memory_bytes -= fullest.memory_bytes
            self._discard(fullest.ready.pop(), "its memory is wanted")

    def _fullest(self, but_one_of: _Shelf | None) -> _Shelf | None:
        def spare(shelf: _Shelf) -> int:
            return len(shelf.ready) - (shelf is but_one_of)

        fullest = max(self._shelves.values(), key=spare, default=None)
        return fullest if fullest is not None and spare(fullest) > 0 else None

    # --------------------------------------------------------------------------------------------------- refilling

    def start(self, host_restarted: bool) -> None:
        """Take over what an earlier server left, and keep the shelves full from here on."""
        for row in self._rows.all():
            shelf = self._shelves.get(row.profile)
            usable = shelf is not None and shelf.missing > 0 and row.made_by == __version__ and not host_restarted
            warm = self._restored(row)
            if shelf is None or not usable or not self._listen(warm):
                self._discard(warm, "this server has no use for it")
            else:
                shelf.coming.add(warm)
                self._spawn(self._await_again(shelf, warm))
        for shelf in self._shelves.values():
            shelf.look.set()
            self._spawn(self._keep_full(shelf))

    def refill(self) -> None:
        """It may be possible now."""
        for shelf in self._shelves.values():
            shelf.look.set()

    async def look(self) -> None:
        """Throw away those of an image whose name means another one by now. Raises EngineError."""
        for shelf in self._shelves.values():
            if shelf.ready:
                try:
                    self._keep_only(shelf, (await self._engine.image(shelf.profile.image)).id)
                except EngineError as error:
                    if error.code != "image_not_found":  # then they are the last of it
                        raise
        self.refill()

    def _keep_only(self, shelf: _Shelf, image_id: str) -> None:
        for warm in [each for each in shelf.ready if each.image.id != image_id]:
            shelf.ready.remove(warm)
            self._discard(warm, "its image's name means another image now")

    async def _keep_full(self, shelf: _Shelf) -> None:
        pause, most = _AGAIN_S
        while True:
            await shelf.look.wait()
            shelf.look.clear()
            while shelf.missing > 0:
                if not self._has_room(shelf.memory_bytes):
                    shelf.trouble = "no memory is left for more"
                    break  # looks again when a sandbox goes
                try:
                    # Not cancelled with this: a container that the engine is still making must not be left behind.
                    shelf.making = asyncio.ensure_future(self._make(shelf))
                    await asyncio.shield(shelf.making)
                except (EngineError, OSError, CreationFailed) as error:
                    shelf.trouble = error.detail if isinstance(error, EngineError) else str(error)
                    extra = {"image": shelf.profile.image, "reason": shelf.trouble, "again_in_s": pause}
                    log.warning("no warm sandbox can be made", extra=extra)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, most)
                else:
                    shelf.trouble, pause = None, _AGAIN_S[0]

    async def _make(self, shelf: _Shelf) -> None:
        spec = shelf.profile.spec(new_id(), _RUN)
        sandbox = self._new(spec.id, shelf.profile.image, State.CREATING)
        warm = self._known[spec.id] = WarmSandbox(sandbox, self._owner(sandbox, self), shelf.profile, Image("", (), "", "/"))
        shelf.coming.add(warm)
        try:
            warm.image = await self._images.get(sandbox, spec)
            self._keep_only(shelf, warm.image.id)
            await self._maker.make(
                sandbox, spec, warm.image, self._limits(spec), ahead=True, listen=lambda: self._bind(warm), check=lambda: self._check(warm),
                made=lambda container_id: setattr(sandbox, "container_id", container_id),
            )  # fmt: skip
            if sandbox.link is None:
                raise CreationFailed("internal: its link went down at once")
        except BaseException:
            shelf.coming.discard(warm)
            self._discard(warm, "it was not made")
            raise
        shelf.coming.discard(warm)
        shelf.ready.append(warm)
        log.info("warm sandbox ready", extra={"image": shelf.profile.image, "ready": len(shelf.ready), "wanted": shelf.wanted})

    def _new(self, warm_id: str, image: str, state: State) -> LiveSandbox:
        sandbox = LiveSandbox(
            id=warm_id, run_id=_RUN, image=image, spec={}, spec_hash=b"", state=state, created_at=time.time(), memory_bytes=0,
            changed=Bell(self._room),
        )  # fmt: skip
        sandbox.idle.set()
        return sandbox

    def _bind(self, warm: WarmSandbox) -> None:
        warm.sandbox.listener = Listener(self._maker.link_directory(warm.sandbox.id), warm.owner)

    def _check(self, warm: WarmSandbox) -> None:
        if warm.sandbox.doomed is not None:
            raise CreationFailed(f"internal: {warm.sandbox.doomed}")

    # --------------------------------------------------------------------------------------- of an earlier server

    def _restored(self, row: WarmRow) -> WarmSandbox:
        sandbox = self._new(row.id, row.profile.image, State.RUNNING)
        sandbox.container_id, sandbox.container_pid = row.container_id, row.container_pid
        sandbox.epoch, sandbox.secret = row.epoch, row.secret
        warm = self._known[row.id] = WarmSandbox(sandbox, self._owner(sandbox, self), row.profile, row.image)
        return warm

    def _listen(self, warm: WarmSandbox) -> bool:
        """False: no directory has its name. Then it was about to be somebody's, and is nobody else's."""
        try:
            self._bind(warm)
        except OSError as error:
            log.warning("no link to a warm sandbox: %s", error, extra={"sandbox_id": warm.sandbox.id})
            return False
        assert warm.sandbox.listener is not None
        warm.sandbox.listener.accept()
        return True

    async def _await_again(self, shelf: _Shelf, warm: WarmSandbox) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(warm.sandbox.linked.wait(), _REHELLO_S)
        shelf.coming.discard(warm)
        if warm.sandbox.link is None or warm.sandbox.doomed is not None:
            self._discard(warm, "its init did not come back")
        else:
            shelf.ready.append(warm)
            with contextlib.suppress(EngineError):  # the sweep does
                await self.look()

    # ------------------------------------------------------------------------------------ what their links report

    def running(self, sandbox: LiveSandbox) -> None:
        """Its init has said hello: it goes into the journal, by which a server after this one knows it."""
        warm = self._known[sandbox.id]
        self._rows.add(WarmRow(sandbox.id, warm.profile, warm.image, __version__, *warm.container))

    def look_at(self, sandbox: LiveSandbox) -> None:
        """Its link is down or odd. Nobody would miss it."""
        self.give_up(sandbox, "its link went down")

    def give_up(self, sandbox: LiveSandbox, reason: str) -> None:
        warm = self._known.get(sandbox.id)
        if warm is None or self._closed:
            return
        shelf = self._shelves.get(warm.profile)
        if shelf is not None and warm in shelf.ready:
            shelf.ready.remove(warm)
            self._discard(warm, reason)
        else:
            sandbox.doomed = sandbox.doomed or reason  # whoever makes it or waits for it sees that

    def died(self, container_id: str) -> None:
        """The engine says that this container ended."""
        for warm in list(self._known.values()):
            if warm.sandbox.container_id == container_id:
                self.give_up(warm.sandbox, "its container ended")

    # -------------------------------------------------------------------------------------------------- the end

    def _discard(self, warm: WarmSandbox, reason: str) -> None:
        log.debug("warm sandbox thrown away: %s", reason, extra={"sandbox_id": warm.sandbox.id})
        warm.sandbox.doomed = reason
        if (shelf := self._shelves.get(warm.profile)) is not None:
            shelf.look.set()
        if not self._closed:
            self._spawn(self._throw_away(warm))

    async def _throw_away(self, warm: WarmSandbox) -> None:
        """What a server that stops in between leaves: a row without a container, which the next one finds out."""
        warm.sandbox.link = None  # its end is nothing to tell of
        if warm.sandbox.listener is not None:
            warm.sandbox.listener.close()
        await self._endings.remove_container(warm.sandbox)
        self._rows.drop(warm.sandbox.id)
        shutil.rmtree(self._maker.link_directory(warm.sandbox.id), ignore_errors=True)
        self._known.pop(warm.sandbox.id, None)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_fatal(error)

    async def stop(self) -> None:
        """Remove all of them: nobody would miss them, and whoever stops a server expects nothing of it to stay."""
        self._cancel()
        for shelf in self._shelves.values():
            for warm in shelf.coming:
                warm.sandbox.doomed = "the server stops"
            if shelf.making is not None and any(self._images.awaited_by(warm.sandbox) for warm in shelf.coming):
                shelf.making.cancel()
        await _until([shelf.making for shelf in self._shelves.values() if shelf.making is not None])
        late = await _until([asyncio.ensure_future(self._throw_away(warm)) for warm in list(self._known.values())])
        if late:
            log.warning("%d warm sandboxes could not be removed now; the next server does it", late)

    def cut(self) -> None:
        """Do nothing more; what there is stays for the next server."""
        self._cancel()
        for warm in self._known.values():
            if warm.sandbox.listener is not None:
                warm.sandbox.listener.close()

    def _cancel(self) -> None:
        self._closed = True
        for task in list(self._tasks):
            task.cancel()


def _takes_workdir(warm: WarmSandbox, spec: SandboxSpec) -> bool:
    """Below a root that is read-only a directory can only be made with the container."""
    return not spec.read_only or spec.workdir in (None, warm.image.workdir)


async def _until(going: list[asyncio.Future[None]]) -> int:
    """Wait for all of these, not for ever. How many were not done."""
    if not going:
        return 0
    _, late = await asyncio.wait(going, timeout=_STOP_S)
    for each in late:
        each.cancel()
    await asyncio.gather(*going, return_exceptions=True)
    return len(late)
