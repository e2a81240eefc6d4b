"""The server's parts put together, behind the few calls that the HTTP routes make (see `server.api.services.Services`)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from remote_env.filemodels import Changes, Snapshot, SnapshotRequest
from remote_env.protocol import PROTOCOL_VERSION, Execution, ExecutionSpec, Health, LeaseAnswer, Sandbox, SandboxSpec, new_id
from remote_env.version import __version__
from server import answers
from server.admission import Admission
from server.api.services import OutputSlice
from server.correlation import Correlation
from server.datadir import kept_word
from server.default_sandbox import DefaultSandbox
from server.engine import Engine, EngineError
from server.events import Event, Position
from server.executions import Executions
from server.fileagents import FileAgents
from server.files import SandboxFiles
from server.journal import CommitFailed, Journal, JournalError, SandboxRow
from server.leases import Leases
from server.live import LiveExecution, LiveSandbox
from server.lookup import Known, Lookup
from server.machines import execution as execution_rules
from server.machines.sandbox import State
from server.metrics import Metrics
from server.outputs import Outputs
from server.problems import ProblemError
from server.pruning import Pruning
from server.retention import Retention
from server.sandboxes import Sandboxes
from server.settings import Settings
from server.snapshots import Snapshots
from server.spool import Spool
from server.terminals import Terminals
from server.waits import WaitRoom
from server.watch import EngineWatch

log = logging.getLogger("server.world")

_GONE_LATELY_S = 600.0  # a lease answer tells of sandboxes that ended this lately
_SIGNAL_S = 5.0  # for an execution to be where a signal reaches it, before the signal is refused
_CREATE_MARGIN_S = 60.0  # beyond the pull, for the default sandbox to be made


class World:
    """Everything that the server does, without HTTP.

    Args:
        on_fatal: called once when what is in memory can no longer be trusted (a failed commit): the process must start
            again from what the journal says.
    """

    def __init__(self, settings: Settings, metrics: Metrics, on_fatal: Callable[[BaseException], None]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tell_fatal = on_fatal
        self._fatal = False
        self.instance_id = ""

    # ------------------------------------------------------------------------------------------ start and stop

    async def start(self) -> None:
        """Open the journal and take up what an earlier server left. Raises JournalError."""
        directory = self._settings.data_dir
        self._room = WaitRoom()
        self.instance_id = kept_word(directory / "instance_id", new_id)
        self._key = kept_word(directory / "spec_key", lambda: secrets.token_hex(32)).encode()
        self._journal = Journal(directory / "journal.sqlite3", self._metrics.commit)
        self._spool = Spool(directory / "spool")
        self._engine = Engine(self._settings.docker_host, self.instance_id)
        self._executions = Executions(
            self._journal, self._spool, self._metrics, self._room, key=self._key, drain_grace_s=self._settings.drain_grace_s,
            on_fatal=self._on_fatal,
        )  # fmt: skip
        self._sandboxes = Sandboxes(
            settings=self._settings, journal=self._journal, engine=self._engine, executions=self._executions,
            room=self._room, directory=directory / "sandboxes", engine_broke=self._engine_broke, on_fatal=self._on_fatal,
        )  # fmt: skip
        self._snapshots = Snapshots(self._engine)
        self._lookup = Lookup(self._executions, self._journal, self._spool, self._metrics)
        self._admission = Admission(self._settings, self._sandboxes, self._executions, self._spool, self._room)
        self._file_agents = FileAgents()
        self._leases = Leases(self._sandboxes.live, self._lease_over)
        self._metrics.watch(
            running=lambda: len(self._executions.live), sessions=self._executions.sessions, sandboxes=self._by_state,
            warm=self._sandboxes.warm.stock,
        )  # fmt: skip
        self._outputs = Outputs(self._lookup, self._spool, self._room, self._settings.stream_heartbeat_s)
        self.terminals = Terminals(self._lookup, self._outputs.follow)
        self._default = DefaultSandbox(self._settings.default_image, self.instance_id, self._sandboxes.live, self._create_default)
        boot, before = _boot_id(), self._journal.meta("boot_id")
        for row in self._journal.live_sandboxes():
            self._sandboxes.restore(row, host_restarted=before is not None and before != boot)
        self._sandboxes.warm.start(host_restarted=before is not None and before != boot)
        if before != boot:
            self._journal.set_meta("boot_id", boot)
        self._pruning = Pruning(self._journal, self._spool)
        self._retention = Retention(self._journal, self._settings.retention_s, boot)
        self._watch = EngineWatch(self._engine, self._sandboxes.died, self._sandboxes.images_changed, self._engine_back)
        self._sweeper = asyncio.create_task(self._sweep_for_ever())
        self._sweeper.add_done_callback(self._swept)
        log.info("ready", extra={"sandboxes": len(self._sandboxes.live), "executions": len(self._executions.live)})

    async def stop(self, remove_sandboxes: bool) -> None:
        """End long-polls, let sandboxes be (or take them along), close the journal."""
        self._room.close()
        self._leases.close()
        self._watch.close()
        self._file_agents.close()
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._sandboxes.stop(remove_sandboxes and not self._fatal)
        self._executions.close()
        self._journal.close()

    def end_waits(self) -> None:
        """Long-polls end now, with what is known."""
        self._room.close()

    def _on_fatal(self, error: BaseException) -> None:
        if not self._fatal:
            self._fatal = True
            log.critical("the server starts again: %s", error, exc_info=error)
            self._room.close()
            self._leases.close()
            self._sandboxes.cut()
            self._tell_fatal(error)

    async def _engine_broke(self, within_s: float) -> bool:
        return await self._watch.engine_broke(within_s)

    def _engine_back(self) -> None:
        for sandbox in list(self._sandboxes.live.values()):
            if sandbox.link is None:
                self._sandboxes.look_at(sandbox)

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self._sandboxes.sweep()
            except EngineError as error:
                log.warning("no sweep: %s", error.detail)
            try:
                await self._retire()
            except (OSError, CommitFailed, JournalError) as error:
                log.warning("nothing let go of: %s", error)  # memory knows nothing of it: the next time will do
            await asyncio.sleep(self._settings.sweep_every_s)

    def _swept(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_fatal(error)

    async def _retire(self) -> None:
        """Let go of what is beyond retention, in small steps."""
        await self._pruning.run(self._retention.horizon())
        if self._executions.wiping.wiped:
            self._journal.checkpoint()
            self._executions.wiping.wiped = False

    # ----------------------------------------------------------------------------------------------- sandboxes

    async def create_sandbox(self, spec: SandboxSpec, wait_s: float) -> tuple[Sandbox, bool]:
        spec_hash = hmac.new(self._key, spec.model_dump_json(exclude={"id"}, exclude_defaults=True).encode(), hashlib.sha256).digest()
        row = self._journal.sandbox(spec.id)
        if row is None:
            self._admission.sandbox(spec)
            self._leases.renew(spec.run_id)
            self._sandboxes.create(spec, spec_hash)
        elif row.spec_hash != spec_hash and row.state not in ("removed", "dead"):
            raise ProblemError("id_conflict", f"{spec.id} is a sandbox made with other options", id=spec.id)
        elif row.state in ("removed", "dead", "removing"):
            raise ProblemError("gone", f"sandbox {spec.id} was removed: {row.reason}", id=spec.id)
        return await self.get_sandbox(spec.id, wait_s), row is None

    async def get_sandbox(self, sid: str, wait_s: float) -> Sandbox:
        sandbox = self._sandboxes.live.get(sid)
        if sandbox is not None and sandbox.state is State.CREATING:
            await sandbox.changed.until(lambda: sandbox.state is not State.CREATING, wait_s)
        return self._sandbox_answer(sid)

    def _sandbox_answer(self, sid: str) -> Sandbox:
        sandbox = self._sandboxes.live.get(sid)
        if sandbox is not None:
            return self._live_sandbox(sandbox)
        row = self._journal.sandbox(sid)
        if row is None:
            raise ProblemError("not_found", f"sandbox {sid} is unknown here", id=sid)
        if row.ended_at is not None and row.ended_at < self._retention.horizon():
            raise ProblemError("gone", f"sandbox {sid} was removed: {row.reason}", id=sid)
        return answers.sandbox_row_answer(row)

    def _live_sandbox(self, sandbox: LiveSandbox) -> Sandbox:
        return answers.sandbox_answer(sandbox, time.time() + self._leases.left_s(sandbox))

    def list_sandboxes(self, run_id: str | None, state: str | None) -> list[Sandbox]:
        live = [
            self._live_sandbox(sandbox)
            for sandbox in self._sandboxes.live.values()
            if run_id in (None, sandbox.run_id) and state in (None, "all", sandbox.state.value)
        ]
        if state is None:
            return live
        rows = self._journal.sandboxes(run_id, None if state == "all" else state)
        return live + [answers.sandbox_row_answer(row) for row in rows if row.id not in self._sandboxes.live]

    async def remove_sandbox(self, sid: str, purge: bool, wait_s: float) -> Sandbox:
        sandbox = self._sandboxes.live.get(sid)
        if sandbox is not None:
            self._sandboxes.remove(sandbox, "removed", purge)
            await sandbox.changed.until(lambda: sandbox.id not in self._sandboxes.live, wait_s)
        elif self._journal.sandbox(sid) is None:
            now = time.time()
            row = SandboxRow(sid, sid, "", {}, b"", "removed", "removed before it was made", None, None, None, None, now, now)
            self._journal.add_sandbox(row)
            raise ProblemError("not_found", f"sandbox {sid} was unknown here; it can no longer be made", id=sid)
        elif purge:
            await self._executions.purge(sid)
        return self._sandbox_answer(sid)

    def renew(self, run_id: str) -> LeaseAnswer:
        self._leases.renew(run_id)
        mine = list(self._sandboxes.roster.of_run(run_id))
        gone = self._journal.gone_since(run_id, time.time() - _GONE_LATELY_S)
        left = min((self._leases.left_s(sandbox) for sandbox in mine), default=None)
        return LeaseAnswer(run_id=run_id, expires_in_s=left, live=[s.id for s in mine if s.takes_work], gone=gone)

    def _lease_over(self, sandbox: LiveSandbox) -> None:
        self._metrics.lease_expired()
        self._sandboxes.remove(sandbox, "lease_over")

    def _by_state(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for sandbox in self._sandboxes.live.values():
            counts[sandbox.state.value] = counts.get(sandbox.state.value, 0) + 1
        return counts

    # ---------------------------------------------------------------------------------------------- executions

    async def start_execution(self, sid: str, spec: ExecutionSpec, epoch: str | None, wait_s: float) -> tuple[Execution, bool]:
        known = self._lookup.known(spec.id)
        if known is None:
            sandbox = self._sandbox_for_work(sid, epoch)
            self._admission.execution(spec)
            self._leases.renew(sandbox.run_id)
            live = self._executions.accept(sandbox, spec)
            return await self._when_started_work(live, wait_s), True
        self._metrics.deduplicated()
        self._lookup.check(known, sid, epoch, spec)
        if known.live is not None:
            return await self._when_started_work(known.live, wait_s), False
        return await self._answer(known, wait_s), False

    def _sandbox_for_work(self, sid: str, epoch: str | None) -> LiveSandbox:
        sandbox = self._sandboxes.live.get(sid)
        if sandbox is None:
            if self._journal.sandbox(sid) is None:
                raise ProblemError("not_found", f"sandbox {sid} is unknown here", id=sid)
            raise ProblemError("gone", f"sandbox {sid} is gone: {self._sandbox_answer(sid).reason}", id=sid)
        if not sandbox.takes_work:
            if sandbox.state is State.CREATING:
                raise ProblemError("wrong_state", f"sandbox {sid} is still being made", id=sid)
            raise ProblemError("gone", f"sandbox {sid} is on its way out: {sandbox.doomed or sandbox.reason}", id=sid)
        if epoch is not None and epoch != sandbox.epoch:
            self._metrics.mismatch("epoch")
            raise ProblemError("epoch_mismatch", f"sandbox {sid} has another epoch than the request", id=sid)
        return sandbox

    async def _when_started_work(self, live: LiveExecution, wait_s: float) -> Execution:
        """A command's work is done when it has ended; a session's begins when it has started."""
        if live.opens_session:
            await live.moved.until(lambda: live.started_at is not None or live.ended_at is not None, wait_s)
            wait_s = 0
        return await self._when_ended(live, wait_s)

    async def _when_ended(self, live: LiveExecution, wait_s: float) -> Execution:
        if live.ended_at is None and wait_s > 0:
            await live.ended.until(lambda: live.ended_at is not None, wait_s)
        return answers.live_answer(live) if live.ended_at is None else answers.ended_answer(live, self._spool)

    async def _answer(self, known: Known, wait_s: float) -> Execution:
        if known.live is not None:
            return await self._when_ended(known.live, wait_s)
        assert known.row is not None
        return answers.row_answer(known.row, self._spool)

    async def get_execution(self, eid: str, epoch: str, wait_s: float) -> Execution:
        return await self._answer(self._lookup.find(eid, epoch), wait_s)

    def list_executions(
        self, *, id: str | None, run_id: str | None, sandbox_id: str | None, state: str | None, opens: str | None, limit: int
    ) -> list[Execution]:  # fmt: skip
        return self._lookup.listed(id=id, run_id=run_id, sandbox_id=sandbox_id, state=state, opens=opens, limit=limit)

    async def cancel(self, eid: str, epoch: str) -> Execution:
        known = self._lookup.find(eid, epoch)
        if known.live is not None:
            self._executions.apply(known.live, execution_rules.CancelRequested())
            self._executions.pump(known.live.sandbox)
        return await self._answer(known, 0)

    async def abandon(self, eid: str, sandbox_id: str, epoch: str, wait_s: float) -> Execution:
        if self._lookup.known(eid) is not None:
            return await self._answer(self._lookup.find(eid, epoch), wait_s)
        sandbox = self._sandbox_for_work(sandbox_id, epoch)
        live = self._executions.fence(sandbox, eid)
        log.info("abandoned", extra={"execution_id": eid, "sandbox_id": sandbox_id})
        return await self._when_ended(live, wait_s)

    async def signal(self, eid: str, epoch: str, signum: int) -> Execution:
        live = self._lookup.find(eid, epoch).live
        if live is not None:  # its start or its end may be a moment away, or its init's link: this server may just have begun
            await live.moved.until(lambda: live.ended_at is not None or live.hears_signals, _SIGNAL_S)
        known = self._lookup.find(eid, epoch)
        if known.live is None or not self._executions.send_signal(known.live, signum):
            why = "is over" if known.live is None else "has not started, or its sandbox cannot be reached just now"
            raise known.refuse("wrong_state", why)
        return await self._answer(known, 0)

    # -------------------------------------------------------------------------------------------------- output

    async def output(
        self, eid: str, epoch: str, start: int, end: int | None, wait_s: float, stream: str | None = None
    ) -> OutputSlice:  # fmt: skip
        return await self._outputs.slice(eid, epoch, start, end, wait_s, stream)

    def follow(self, eid: str, epoch: str, at: Position | None) -> tuple[Correlation, AsyncGenerator[Event, None]]:
        return self._outputs.follow(eid, epoch, at)

    # ----------------------------------------------------------------------------------------------- snapshots

    async def diff(self, sid: str, epoch: str) -> Changes:
        return await self._snapshots.diff(self._sandbox_for_work(sid, epoch))

    async def snapshot(self, sid: str, epoch: str, request: SnapshotRequest, wait_s: float) -> Snapshot:
        sandbox = self._sandbox_for_work(sid, epoch)
        self._leases.renew(sandbox.run_id)
        return await self._snapshots.take(sandbox, request, wait_s)

    # --------------------------------------------------------------------------------------------------- files

    @asynccontextmanager
    async def files(self, sid: str, epoch: str, user: str | None) -> AsyncIterator[SandboxFiles]:
        sandbox = self._sandbox_for_work(sid, epoch)
        self._leases.renew(sandbox.run_id)
        async with self._file_agents.use(sandbox, user or sandbox.spec.get("user") or "") as agent:
            yield SandboxFiles(agent, sandbox.spec.get("workdir") or "/")

    # ------------------------------------------------------------------------------------------------- the rest

    async def default_sandbox(self) -> tuple[str, str]:
        """Id and epoch of the shared sandbox of POST /execute."""
        return await self._default.get()

    async def _create_default(self, spec: SandboxSpec) -> Sandbox:
        sandbox, _ = await self.create_sandbox(spec, self._settings.pull_timeout_s + _CREATE_MARGIN_S)
        return sandbox

    async def health(self) -> Health:
        try:
            info = await asyncio.wait_for(self._engine.info(), 5.0)
            engine: dict[str, Any] = {
                "reachable": True, "version": info.get("ServerVersion"), "live_restore": info.get("LiveRestoreEnabled"),
                "architecture": info.get("Architecture"), "cgroup_version": info.get("CgroupVersion"),
            }  # fmt: skip
        except (EngineError, asyncio.TimeoutError) as error:
            engine = {"reachable": False, "detail": getattr(error, "detail", "it does not answer")}
        return Health(
            status="stopping" if self._room.closed else "ok", version=__version__, protocol=PROTOCOL_VERSION,
            instance_id=self.instance_id, engine=engine,
            capacity={
                "sandboxes": len(self._sandboxes.live), "executions": len(self._executions.live),
                "max_executions": self._settings.max_executions,
                "memory_bytes": self._sandboxes.roster.memory_bytes,
                "capacity_memory_bytes": self._settings.capacity_memory_bytes,
                "free_disk_bytes": self._spool.free_bytes(), "min_free_disk_bytes": self._settings.min_free_disk_bytes,
                "warm": [stock._asdict() for stock in self._sandboxes.warm.stock()],
            },
        )  # fmt: skip


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
