"""Sandboxes: making them, watching over them, ending them. The rules are in machines/sandbox.py; this carries them out."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from remote_env.protocol import SandboxSpec
from server.acquiring import Acquiring, rename
from server.endings import Endings
from server.engine import Engine, EngineError, Limits
from server.executions import Executions
from server.failpoints import failpoint
from server.hellos import LifeCycle, SandboxLink
from server.images import Images
from server.journal import Journal, SandboxRow
from server.link import Listener
from server.live import LiveSandbox
from server.machines import sandbox as rules
from server.machines.sandbox import Happening, State
from server.making import CreationFailed, Maker
from server.roster import Roster
from server.sandboxenv import SandboxEnv
from server.settings import Settings
from server.waits import Bell, WaitRoom
from server.warm import WarmPool
from server.warmrows import WarmRows

log = logging.getLogger("server.sandboxes")

_FAIL_S = 5.0  # seconds for what there is of a sandbox that cannot be made to go, before its maker is told
_REHELLO_S = 2.0  # seconds for an init to come back before a removal that a restart interrupted goes on
_LOOK_S = (0.05, 10.0)  # seconds between looks at a container without a link, first and most
_STOP_S = 60.0  # seconds for a stopping server to remove its sandboxes; an engine that hangs must not hold it for ever


class Sandboxes:
    """All sandboxes that are not over, by id; the others are in the journal.

    Args:
        directory: DATA_DIR/sandboxes; each sandbox's link directory lies in it.
        engine_broke: answers whether the engine itself went away about now.
    """

    def __init__(
        self, *, settings: Settings, journal: Journal, engine: Engine, executions: Executions, room: WaitRoom, directory: Path,
        engine_broke: Callable[[float], Awaitable[bool]], on_fatal: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        self.roster = Roster()
        self.live = self.roster.live
        self._settings = settings
        self._journal = journal
        self._engine = engine
        self._executions = executions
        self._room = room
        self._directory = directory
        self._images = Images(engine, settings.pull_timeout_s)
        self._endings = Endings(engine, executions, engine_broke)
        self._maker = Maker(engine, directory, settings.max_creations)
        self._env = SandboxEnv(directory.with_name("sandbox-env"))
        rows = WarmRows(journal)
        self._acquiring = Acquiring(journal, rows, self._maker, self._env)
        self.warm = WarmPool(
            settings.warm, rows=rows, engine=engine, images=self._images, maker=self._maker, endings=self._endings, room=room,
            limits=self.limits, owner=self._owner, has_room=self._has_room, on_fatal=on_fatal,
        )  # fmt: skip
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: set[str] = set()
        self.stopping = False
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)

    # --------------------------------------------------------------------------------------------- creating

    def limits(self, spec: SandboxSpec) -> Limits:
        return Limits(
            spec.memory_bytes or self._settings.default_memory_bytes, spec.pids or self._settings.default_pids,
            spec.cpus or self._settings.default_cpus,
        )  # fmt: skip

    def create(self, spec: SandboxSpec, spec_hash: bytes) -> LiveSandbox:
        """Commit a new sandbox and begin to make it. Its id is unknown here."""
        public = spec.model_dump(mode="json", exclude={"env"}, exclude_defaults=True)
        public |= {"lease_s": spec.lease_s, "on_lease_end": spec.on_lease_end}
        now = time.time()
        self._write(
            self._journal.add_sandbox,
            SandboxRow(spec.id, spec.run_id, spec.image, public, spec_hash, "creating", None, None, None, None, None, now, None),
        )
        sandbox = LiveSandbox(
            id=spec.id, run_id=spec.run_id, image=spec.image, spec=public, spec_hash=spec_hash, state=State.CREATING,
            created_at=now, memory_bytes=self.limits(spec).memory_bytes, changed=Bell(self._room),
        )  # fmt: skip
        sandbox.idle.set()
        self.roster.add(sandbox)
        sandbox.work = self._spawn(self._create(sandbox, spec))
        return sandbox

    async def _create(self, sandbox: LiveSandbox, spec: SandboxSpec) -> None:
        try:
            self._still_wanted(sandbox)
            warm = self.warm.take(spec)
            if warm is not None:
                self.roster.has_container(sandbox, warm.container.id)
                await self._acquiring.give(warm, sandbox, spec, self)
                self._spawn(rename(self._engine, warm.container.id, sandbox.id))
                self.look_at(sandbox)
            else:
                await self._make(sandbox, spec)
            log.info(
                "sandbox running",
                extra={"sandbox_id": sandbox.id, "image": spec.image, "elapsed_s": _since(sandbox), "warm": warm is not None or None},
            )
        except (EngineError, OSError, CreationFailed, asyncio.CancelledError) as error:
            if self.stopping or sandbox.state is State.RUNNING:
                return  # the next server ends it; or its init came while the engine stumbled: it is made
            sandbox.reason = sandbox.doomed = _creation_reason(error)  # an init that comes now comes too late
            log.warning("sandbox failed", extra={"sandbox_id": sandbox.id, "reason": sandbox.reason})
            if sandbox.state is State.CREATING:
                await self._fail(sandbox)
        finally:
            sandbox.progress = None
            sandbox.changed.ring()

    async def _make(self, sandbox: LiveSandbox, spec: SandboxSpec) -> None:
        def made(container_id: str) -> None:
            self.roster.has_container(sandbox, container_id)
            self._write(self._journal.sandbox_container, sandbox.id, container_id, sandbox.spec)

        image = await self._images.get(sandbox, spec)
        await self._maker.make(
            sandbox, spec, image, self.limits(spec), listen=lambda: self.listen(sandbox), made=made,
            check=lambda: self._still_wanted(sandbox),
        )  # fmt: skip

    def running(self, sandbox: LiveSandbox) -> None:
        """See `server.hellos.LifeCycle`."""
        assert sandbox.container_pid is not None
        assert sandbox.epoch is not None
        assert sandbox.secret is not None
        self._journal.sandbox_running(sandbox.id, sandbox.container_pid, sandbox.epoch, sandbox.secret)

    def _still_wanted(self, sandbox: LiveSandbox) -> None:
        if sandbox.state not in (State.CREATING, State.RUNNING):
            raise CreationFailed("removed: it was removed while it was being made")

    def link_directory(self, sandbox_id: str) -> Path:
        return self._maker.link_directory(sandbox_id)

    def listen(self, sandbox: LiveSandbox) -> None:
        sandbox.listener = Listener(self.link_directory(sandbox.id), self._owner(sandbox, self))

    def _owner(self, sandbox: LiveSandbox, life_cycle: LifeCycle) -> SandboxLink:
        return SandboxLink(sandbox, self._executions, self._journal, life_cycle, self._settings.orphan_after_s)

    def _has_room(self, memory_bytes: int) -> bool:
        taken = self.roster.memory_bytes + self.warm.memory_bytes
        return not self._room.closed and taken + memory_bytes <= self._settings.capacity_memory_bytes

    # ------------------------------------------------------------------------------------------ after a start

    def restore(self, row: SandboxRow, host_restarted: bool) -> None:
        """Take up a sandbox of an earlier server."""
        sandbox = LiveSandbox(
            id=row.id, run_id=row.run_id, image=row.image, spec=row.spec, spec_hash=row.spec_hash, state=State(row.state),
            created_at=row.created_at, memory_bytes=row.spec.get("memory_bytes") or self._settings.default_memory_bytes,
            changed=Bell(self._room), reason=row.reason, container_id=row.container_id, container_pid=row.container_pid,
            epoch=row.epoch, secret=row.secret, highest=self._journal.highest_number(row.id), unlinked_at=self._loop.time(),
            purge=bool(row.spec.get("purge")), env=self._env.of(row.id),
        )  # fmt: skip
        sandbox.idle.set()
        self.roster.add(sandbox)
        for execution in self._journal.unfinished(row.id):
            self._executions.restore(sandbox, execution)
        if sandbox.state is State.CREATING:
            sandbox.reason = "interrupted: the server was restarted while it was being made"
            sandbox.work = self._spawn(self._fail(sandbox))
            return
        if host_restarted and sandbox.state is State.RUNNING:
            self.give_up(sandbox, "host_restarted")
            return
        directory = self.link_directory(row.id)
        if sandbox.epoch is not None and directory.is_dir() and not host_restarted:
            self._listen_again(sandbox)
        if sandbox.state is State.REMOVING:
            sandbox.work = self._spawn(self._remove(sandbox, rehello_s=_REHELLO_S))
        else:
            self.look_at(sandbox)

    def _listen_again(self, sandbox: LiveSandbox) -> None:
        """A socket that cannot be bound (a full disk, say) costs this sandbox its link until it can, and no other one."""
        try:
            self.listen(sandbox)
        except OSError as error:
            log.error("no link: %s", error, extra={"sandbox_id": sandbox.id})
        else:
            assert sandbox.listener is not None
            sandbox.listener.accept()

    async def _fail(self, sandbox: LiveSandbox) -> None:
        removal = self._spawn(self._endings.remove_container(sandbox))
        # An engine that does not answer must not hold up who waits; should this server end first, the sweep does it (ORPHAN).
        await asyncio.wait({removal}, timeout=_FAIL_S)
        if sandbox.state is State.CREATING:  # else its removal was asked for meanwhile, and ends it
            self._over(sandbox, rules.after(sandbox.state, Happening.CREATION_FAILED))

    # ------------------------------------------------------------------------------------------ life and death

    def look_at(self, sandbox: LiveSandbox) -> None:
        """Ask the engine about a sandbox whose link is down, until the link is up, it is dead, or it is given up."""
        if sandbox.id not in self._looking and sandbox.takes_work:
            self._looking.add(sandbox.id)
            self._spawn(self._look(sandbox))

    async def _look(self, sandbox: LiveSandbox) -> None:
        pause, most = _LOOK_S
        try:
            while sandbox.takes_work and sandbox.link is None and not self.stopping:
                alive, silent_s = await self._is_running(sandbox), self._loop.time() - sandbox.unlinked_at
                meant = rules.silence(alive=alive, silent_s=silent_s, unreachable_after_s=self._settings.unreachable_after_s)
                if meant is not None:
                    self.give_up(sandbox, meant.reason)
                    return
                if sandbox.listener is None:
                    self._listen_again(sandbox)
                try:
                    await asyncio.wait_for(sandbox.linked.wait(), pause)
                except asyncio.TimeoutError:
                    pause = min(pause * 2, most)
        finally:
            self._looking.discard(sandbox.id)

    async def _is_running(self, sandbox: LiveSandbox) -> bool | None:
        """The engine's word; None where it does not tell."""
        assert sandbox.container_id is not None
        try:
            container = await self._engine.inspect(sandbox.container_id)
        except EngineError as error:
            log.warning("engine does not tell", extra={"sandbox_id": sandbox.id, "reason": error.detail})
            return None
        return container is not None and container.running and container.pid == sandbox.container_pid

    def died(self, container_id: str) -> None:
        """The engine says that this container ended. Its link says the rest first."""
        sandbox = self.roster.of_container(container_id)
        if sandbox is None:
            self.warm.died(container_id)
        elif sandbox.link is None:
            self.look_at(sandbox)

    def give_up(self, sandbox: LiveSandbox, reason: str) -> None:
        if sandbox.state is State.RUNNING and sandbox.doomed is None:
            sandbox.doomed = reason
            sandbox.work = self._spawn(self._die(sandbox, reason))

    async def _die(self, sandbox: LiveSandbox, reason: str) -> None:
        reason = await self._endings.of_the_dead(sandbox, reason)
        if sandbox.state is State.REMOVING:
            return
        sandbox.reason = reason
        log.error("sandbox died", extra={"sandbox_id": sandbox.id, "reason": reason})
        self._over(sandbox, rules.after(sandbox.state, Happening.DEATH))

    # ------------------------------------------------------------------------------------------------ ending

    def remove(self, sandbox: LiveSandbox, reason: str, purge: bool = False) -> None:
        """Begin the removal; done already, it changes nothing but whether to purge."""
        fresh = purge and not sandbox.purge
        sandbox.purge |= purge
        if sandbox.state is State.REMOVING:
            if fresh:
                self._write(self._journal.sandbox_removing, sandbox.id, sandbox.reason, True)
            return
        before = sandbox.work
        nothing_made = self._images.awaited_by(sandbox) or self._maker.is_waiting(sandbox)
        self._write(self._journal.sandbox_removing, sandbox.id, reason, sandbox.purge)
        sandbox.state, sandbox.reason = rules.after(sandbox.state, Happening.REMOVAL), reason
        if nothing_made and before is not None:
            before.cancel()
        sandbox.work = self._spawn(self._remove(sandbox, after=before))

    async def _remove(self, sandbox: LiveSandbox, *, after: asyncio.Task[None] | None = None, rehello_s: float = 0.0) -> None:
        if after is not None:
            await asyncio.wait({after})
        await self._endings.of_the_removed(sandbox, rehello_s)
        failpoint("after_container_remove")
        if sandbox.purge:
            await self._executions.purge(sandbox.id)
        log.info("sandbox removed", extra={"sandbox_id": sandbox.id, "reason": sandbox.reason})
        self._over(sandbox, rules.after(sandbox.state, Happening.CONTAINER_REMOVED))

    def _over(self, sandbox: LiveSandbox, state: State) -> None:
        sandbox.state = state
        if sandbox.listener is not None:
            sandbox.listener.close()
        self._write(self._journal.sandbox_over, sandbox.id, state.value, sandbox.reason, time.time())
        self.roster.drop(sandbox)
        self._env.drop(sandbox.id)
        shutil.rmtree(self.link_directory(sandbox.id), ignore_errors=True)
        sandbox.changed.ring()
        self.warm.refill()

    # ----------------------------------------------------------------------------------------------- sweeping

    async def sweep(self) -> None:
        """ORPHAN: containers that are labelled ours and that the journal does not have live are removed, and what a server
        that died left of their directories."""
        for directory in self._directory.iterdir():
            if not (directory.name in self.live or self.warm.holds(directory.name)):
                shutil.rmtree(directory, ignore_errors=True)
        self._env.drop_all_but(self.live)
        for container_id, made_for in (await self._engine.ours()).items():
            # By its id: one that was warm still has the label of its time on the shelf.
            if not (self.roster.of_container(container_id) or made_for in self.live or self.warm.holds(made_for)):
                log.warning("orphan removed", extra={"sandbox_id": made_for, "container_id": container_id[:12]})
                try:
                    await self._engine.remove(container_id)
                except EngineError as error:  # the others' turn is not to be held up by one
                    log.warning("engine: %s; trying again", error.detail, extra={"container_id": container_id[:12]})
        await self.warm.look()

    def images_changed(self) -> None:
        """The engine says that an image's name may mean another one than before."""
        self._spawn(self._look_at_images())

    async def _look_at_images(self) -> None:
        try:
            await self.warm.look()
        except EngineError as error:
            log.debug("images not looked at, the sweep does: %s", error.detail)

    # -------------------------------------------------------------------------------------------------- tasks

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_fatal(error)

    def _write(self, write: Callable[..., None], *args: object) -> None:
        try:
            write(*args)
        except Exception as error:
            self._on_fatal(error)
            raise

    async def stop(self, remove: bool) -> None:
        """Let the sandboxes be, or take them along."""
        if remove:
            for sandbox in list(self.live.values()):
                self.remove(sandbox, "server_stopped")
            if works := [s.work for s in self.live.values() if s.work is not None]:
                _, late = await asyncio.wait(works, timeout=_STOP_S)
                if late:
                    log.warning("%d sandboxes could not be removed now; the next server does it", len(late))
        tasks = list(self._tasks)
        self.stopping = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.warm.stop()
        self.cut()

    def cut(self) -> None:
        """Do and hear nothing more; what there is stays as it is. Where a commit failed, an ending that an init says again
        would be acknowledged by what memory has, without being in the journal (ACKAFTER)."""
        self.stopping = True
        self.warm.cut()
        for task in list(self._tasks):
            task.cancel()
        for sandbox in self.live.values():
            if sandbox.listener is not None:
                sandbox.listener.close()


def _creation_reason(error: BaseException) -> str:
    if isinstance(error, EngineError):
        return f"{error.code}: {error.detail}"
    if isinstance(error, CreationFailed):
        return str(error)
    if isinstance(error, OSError):
        return f"internal: {error}"
    return "removed: it was removed while it was being made"


def _since(sandbox: LiveSandbox) -> float:
    return round(time.time() - sandbox.created_at, 3)
