"""Services in memory, for the tests of the routes: no engine, no journal. Commands end when the test says so.

A command is acted out by its text: `hang` goes on until `finish`, `fail` raises what nobody expects, `commit` is a failed
commit, anything else ends at once with code 0 and its own text as output.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timezone
from typing import Literal

from remote_env.protocol import (
    PROTOCOL_VERSION,
    Execution,
    ExecutionSpec,
    Health,
    LeaseAnswer,
    Outcome,
    Output,
    Sandbox,
    SandboxSpec,
)
from server.api.services import OutputSlice
from server.correlation import Correlation
from server.events import Event, Position, follow, starting_point
from server.fileagent import FileAgent
from server.files import SandboxFiles
from server.journal import CommitFailed
from server.metrics import Metrics
from server.problems import ProblemError
from server.settings import Settings
from server.terminals import Place, Terminals, TerminalView

log = logging.getLogger("tests.fakes")

EPOCH = "e" * 32
OTHER_EPOCH = "f" * 32
SANDBOX = "sandbox-one"
RUN = "run-number-one"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


class FakeFollowed:
    """One of the fake services' executions, as a follower sees it: merged output, nothing of it is ever dropped."""

    stream: Literal["merged"] = "merged"
    started = True

    def __init__(self, services: FakeServices, eid: str) -> None:
        self._services = services
        self._eid = eid
        self.outputs = (self,)

    @property
    def total(self) -> int:
        return len(self._services.content[self._eid])

    @property
    def over(self) -> bool:
        return self.record().over

    @property
    def stopping(self) -> bool:
        return self._services.stopping

    def record(self) -> Execution:
        return self._services.executions[self._eid]

    def available(self, offset: int) -> tuple[int, int]:
        return offset, max(offset, self.total)

    async def read(self, start: int, end: int) -> bytes:
        return self._services.content[self._eid][start:end]

    async def change(self, seconds: float) -> None:
        before = (self.total, self.over)
        await self._services.wait(lambda: (self.total, self.over) != before, seconds)


class FakeTerminals(Terminals):
    """Every execution of the fake services runs on a terminal; `typed` holds what each was given."""

    def __init__(self, services: FakeServices) -> None:
        self._services = services
        self.typed: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()  # of each typist's bytes
        self.sizes: dict[str, tuple[int, int]] = {}
        self.reading = asyncio.Event()  # whether what is typed is read
        self.reading.set()

    async def type_in(self, eid: str, epoch: str, data: bytes, offset: int | Literal["restart"]) -> int:
        about = Correlation.of(self._services.running(eid, epoch))
        had = self.typed.setdefault(eid, b"")
        if offset == "restart":
            had, offset = b"", 0
        if offset > len(had):
            raise ProblemError("wrong_state", "bytes are missing", about=about)
        self.typed[eid] = had + data[len(had) - offset :]
        return len(self.typed[eid])

    async def type_on(self, eid: str, epoch: str, data: bytes, place: Place | None = None) -> None:
        self._services.running(eid, epoch)
        await self.reading.wait()
        if place is not None:
            had = self.counts[place.typist]
            if place.offset > had:
                raise ProblemError("invalid", "bytes are missing", id=eid)
            data = data[had - place.offset :]
            self.counts[place.typist] += len(data)
        self.typed[eid] = self.typed.get(eid, b"") + data
        if data:
            await self._services.write(eid, data)  # its echo

    async def resize(self, eid: str, epoch: str, rows: int, cols: int) -> Execution:
        execution = self._services.running(eid, epoch)
        self.sizes[eid] = (rows, cols)
        await self._services.write(eid, b"resized")
        return execution

    def view(self, eid: str, epoch: str, offset: int | None, typist: str | None = None) -> TerminalView:
        about, events = self._services.follow(eid, epoch, None if offset is None else (offset,))
        at = len(self._services.content[eid]) if offset is None else offset
        count = len(self.typed.get(eid, b"")) if typist is None else self.counts[typist]
        return TerminalView(about, at, count, events)


class FakeServices:
    """Satisfies `server.api.services.Services`."""

    def __init__(
        self, settings: Settings | None = None, metrics: Metrics | None = None, on_fatal: Callable[[BaseException], None] | None = None
    ) -> None:
        self.instance_id = "instance-of-tests"
        self.settings = settings or Settings()
        self.following = 0  # generators of `follow` that are not closed
        self.on_fatal = on_fatal
        self.sandboxes = {SANDBOX: Sandbox(id=SANDBOX, run_id=RUN, image="busybox", state="running", epoch=EPOCH)}
        self.executions: dict[str, Execution] = {}
        self.specs: dict[str, ExecutionSpec] = {}
        self.content: dict[str, bytes] = {}
        self.tombstones: set[str] = set()
        self.waits: list[float] = []
        self.default: tuple[str, str] | None = None
        self.stopped_with: bool | None = None
        self.starts = 0
        self.stopping = False
        self.file_agent: Callable[[], AbstractAsyncContextManager[FileAgent]] | None = None
        self.terminals: Terminals = FakeTerminals(self)
        self._ended = asyncio.Event()  # of all waits
        self._changed = asyncio.Condition()

    # ------------------------------------------------------------------------------------------- for the tests

    async def finish(self, eid: str, outcome: Outcome | None = None) -> None:
        """End an execution that hangs."""
        self._end(eid, outcome or Outcome(kind="exited", code=0, ran=True))
        await self._tell()

    async def write(self, eid: str, content: bytes) -> None:
        """More output of a running execution."""
        self.content[eid] += content
        await self._tell()

    async def waiting(self, count: int) -> None:
        """Return when so many waits have begun."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.waits) >= count)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _end(self, eid: str, outcome: Outcome) -> None:
        kept = self.content[eid]
        output = Output(
            text=kept.decode(), encoding="utf-8", total_bytes=len(kept), kept_bytes=len(kept), sha256=hashlib.sha256(kept).hexdigest()
        )  # fmt: skip
        self.executions[eid] = self.executions[eid].model_copy(
            update={"state": "ended", "outcome": outcome, "output": output, "ended_at": NOW}
        )  # fmt: skip

    async def wait(self, done: Callable[[], bool], seconds: float) -> None:
        if done() or seconds <= 0:
            return
        async with self._changed:
            self.waits.append(seconds)
            log.debug("waiting")
            self._changed.notify_all()
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: done() or self._ended.is_set()), seconds)
            except asyncio.TimeoutError:
                return

    def _find(self, eid: str, epoch: str) -> Execution:
        if eid not in self.executions:
            raise ProblemError("not_found", f"execution {eid} is unknown here")
        if epoch != EPOCH:
            raise ProblemError("epoch_mismatch", "another epoch")
        return self.executions[eid]

    # ------------------------------------------------------------------------------------------------ services

    async def create_sandbox(self, spec: SandboxSpec, wait_s: float) -> tuple[Sandbox, bool]:
        if spec.id in self.tombstones:
            raise ProblemError("gone", "it was removed")
        known = self.sandboxes.get(spec.id)
        if known is None:
            state = "creating" if spec.image == "slow" else "running"
            self.sandboxes[spec.id] = Sandbox(id=spec.id, run_id=spec.run_id, image=spec.image, state=state, epoch=EPOCH)
        elif known.image != spec.image:
            raise ProblemError("id_conflict", "it is another sandbox")
        return await self.get_sandbox(spec.id, wait_s), known is None

    async def get_sandbox(self, sid: str, wait_s: float) -> Sandbox:
        if sid not in self.sandboxes:
            raise ProblemError("not_found", f"sandbox {sid} is unknown here")
        await self.wait(lambda: self.sandboxes[sid].state != "creating", wait_s)
        return self.sandboxes[sid]

    def list_sandboxes(self, run_id: str | None, state: str | None) -> list[Sandbox]:
        return [each for each in self.sandboxes.values() if run_id in (None, each.run_id) and state in (None, "all", each.state)]

    async def remove_sandbox(self, sid: str, purge: bool, wait_s: float) -> Sandbox:
        self.tombstones.add(sid)
        if sid not in self.sandboxes:
            raise ProblemError("not_found", f"sandbox {sid} was unknown here")
        state = "removed" if wait_s or self.sandboxes[sid].state == "removed" else "removing"
        self.sandboxes[sid] = self.sandboxes[sid].model_copy(update={"state": state, "reason": "purged" if purge else "removed"})
        return self.sandboxes[sid]

    def renew(self, run_id: str) -> LeaseAnswer:
        live = [each.id for each in self.sandboxes.values() if each.run_id == run_id]
        return LeaseAnswer(run_id=run_id, expires_in_s=300.0 if live else None, live=live, gone={})

    async def start_execution(self, sid: str, spec: ExecutionSpec, epoch: str | None, wait_s: float) -> tuple[Execution, bool]:
        if spec.command == "fail":
            raise RuntimeError("the secret is 12345")
        if spec.command == "commit":
            raise CommitFailed("disk I/O error")
        if sid not in self.sandboxes:
            raise ProblemError("not_found", f"sandbox {sid} is unknown here")
        if epoch not in (None, EPOCH):
            raise ProblemError("epoch_mismatch", "another epoch")
        if spec.command == "busy":
            raise ProblemError("capacity", "no room", 1.5)
        new = spec.id not in self.executions
        if new:
            self.starts += 1
            self.specs[spec.id] = spec
            text = spec.command or " ".join(spec.argv or ())
            self.content[spec.id] = b"" if text == "hang" else text.encode()
            self.executions[spec.id] = Execution(
                id=spec.id, sandbox_id=sid, epoch=EPOCH, run_id=RUN, state="running", accepted_at=NOW, started_at=NOW
            )  # fmt: skip
            if text != "hang":
                self._end(spec.id, Outcome(kind="exited", code=0, ran=True))
        elif self.specs[spec.id] != spec:
            raise ProblemError("id_conflict", "the id is taken by another request")
        return await self.get_execution(spec.id, EPOCH, wait_s), new

    async def get_execution(self, eid: str, epoch: str, wait_s: float) -> Execution:
        self._find(eid, epoch)
        await self.wait(lambda: self.executions[eid].over, wait_s)
        return self.executions[eid]

    def list_executions(
        self, *, id: str | None, run_id: str | None, sandbox_id: str | None, state: str | None, opens: str | None, limit: int
    ) -> list[Execution]:  # fmt: skip
        found = [
            each
            for each in reversed(self.executions.values())
            if id in (None, each.id)
            and run_id in (None, each.run_id)
            and sandbox_id in (None, each.sandbox_id)
            and state in (None, each.state)
            and opens in (None, each.opens)
        ]
        return found[:limit]

    async def cancel(self, eid: str, epoch: str) -> Execution:
        execution = self._find(eid, epoch)
        if not execution.over:
            self.executions[eid] = execution.model_copy(update={"cancelling": True})
        return self.executions[eid]

    async def abandon(self, eid: str, sandbox_id: str, epoch: str, wait_s: float) -> Execution:
        if eid not in self.executions:
            state, outcome = ("abandoned", Outcome(kind="not_run", ran=False)) if wait_s else ("accepted", None)
            self.executions[eid] = Execution(id=eid, sandbox_id=sandbox_id, epoch=EPOCH, run_id=RUN, state=state, outcome=outcome)
            self.content[eid] = b""
        return self._find(eid, epoch)

    async def signal(self, eid: str, epoch: str, signum: int) -> Execution:
        return self.running(eid, epoch)

    def running(self, eid: str, epoch: str) -> Execution:
        if self._find(eid, epoch).over:
            raise ProblemError("wrong_state", "it does not run now", about=Correlation.of(self.executions[eid]))
        return self.executions[eid]

    async def output(
        self, eid: str, epoch: str, start: int, end: int | None, wait_s: float, stream: str | None = None
    ) -> OutputSlice:  # fmt: skip
        self._find(eid, epoch)
        if stream not in (None, "merged"):
            raise ProblemError("wrong_state", f"its output is merged: there is no {stream}", id=eid)
        await self.wait(lambda: self.executions[eid].over or len(self.content[eid]) > start, wait_s)
        kept, execution = self.content[eid], self.executions[eid]
        last = len(kept) if end is None else min(end, len(kept))

        async def chunks() -> AsyncIterator[bytes]:
            step = max(3, (last - start) // 8)
            for at in range(start, last, step):
                yield kept[at : min(at + step, last)]

        total, about = len(kept) if execution.over else None, Correlation.of(execution)
        return OutputSlice(execution.state, total, start, max(start, last), chunks(), about)

    def follow(self, eid: str, epoch: str, at: Position | None) -> tuple[Correlation, AsyncGenerator[Event, None]]:
        about = Correlation.of(self._find(eid, epoch))
        followed = FakeFollowed(self, eid)
        start = starting_point(followed, at)
        if start is None:
            raise ProblemError("invalid", "no such position", about=about)

        async def events() -> AsyncGenerator[Event, None]:
            self.following += 1
            try:
                async for event in follow(followed, start, announce=at != (), heartbeat_s=self.settings.stream_heartbeat_s):
                    yield event
            finally:
                self.following -= 1

        return about, events()

    @asynccontextmanager
    async def files(self, sid: str, epoch: str, user: str | None) -> AsyncIterator[SandboxFiles]:
        if sid not in self.sandboxes:
            raise ProblemError("not_found", f"sandbox {sid} is unknown here", id=sid)
        if self.file_agent is None:
            raise ProblemError("file_agent_failed", "no process of a sandbox here", id=sid)
        async with self.file_agent() as agent:
            yield SandboxFiles(agent, "/")

    async def default_sandbox(self) -> tuple[str, str]:
        if self.default is None:
            raise ProblemError("invalid", "sandbox: name one, or start the server with --default-image IMAGE")
        return self.default

    async def health(self) -> Health:
        return Health(version="0", protocol=PROTOCOL_VERSION, instance_id=self.instance_id, engine={"reachable": True}, capacity={})

    def end_waits(self) -> None:
        self.stopping = True
        self._ended.set()
        self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def start(self) -> None:
        return None

    async def stop(self, remove_sandboxes: bool) -> None:
        self.stopped_with = remove_sandboxes
        log.info("stopping services")
        if os.environ.get("FAKE_STOP") == "hang":  # as an engine that does not answer would make it
            await asyncio.Event().wait()
