"""A server's core on real parts, without HTTP and engine: journal, spool, executions, and a link to be spoken to by a
fake init."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from remote_env.protocol import Execution, ExecutionSpec
from server import answers
from server.executions import Executions
from server.hellos import SandboxLink
from server.journal import Journal, SandboxRow
from server.link import Listener
from server.live import LiveExecution, LiveSandbox
from server.machines import sandbox as sandbox_rules
from server.messages import LINK_VERSION, Entry, Pipes, Type
from server.metrics import Metrics
from server.spool import Spool
from server.waits import Bell, WaitRoom
from tests.unit.core.fake_init import PATIENCE_S, FakeInit, hello

SANDBOX = "sandbox-1"


class Server:
    """One server's life over a data directory: it can die and another can start on the same journal."""

    def __init__(self, directory: Path) -> None:
        self.fatal: list[BaseException] = []
        self.given_up: list[str] = []
        self.room = WaitRoom()
        self.looked = Bell(self.room)  # its link went down
        self.committed = Bell(self.room)
        self.journal = Journal(directory / "journal.sqlite3", lambda seconds: self.committed.ring())
        self.spool = Spool(directory / "spool")
        self.mounted = directory / "mounted"
        self.mounted.mkdir(exist_ok=True)
        self.executions = Executions(
            self.journal, self.spool, Metrics(), self.room, key=b"key", drain_grace_s=3600.0, on_fatal=self.fatal.append
        )
        row = self.journal.sandbox(SANDBOX)
        if row is None:
            spec = {"lease_s": 300, "on_lease_end": "wait", "link_version": LINK_VERSION}
            row = SandboxRow(SANDBOX, "run-00001", "busybox", spec, b"", "creating", None, "c0ffee", None, None, None, 0.0, None)
            self.journal.add_sandbox(row)
        self.sandbox = LiveSandbox(
            id=SANDBOX, run_id=row.run_id, image=row.image, spec=row.spec, spec_hash=b"", state=sandbox_rules.State(row.state),
            created_at=0.0, memory_bytes=0, changed=Bell(self.room), container_id="c0ffee", container_pid=os.getpid(),
            epoch=row.epoch, secret=row.secret, highest=self.journal.highest_number(SANDBOX),
        )  # fmt: skip
        for execution in self.journal.unfinished(SANDBOX):
            self.executions.restore(self.sandbox, execution)
        self.listener = Listener(self.mounted, SandboxLink(self.sandbox, self.executions, self.journal, self, 1000.0))
        self.listener.accept()

    def running(self, sandbox: LiveSandbox) -> None:
        assert sandbox.epoch is not None
        assert sandbox.secret is not None
        self.journal.sandbox_running(sandbox.id, os.getpid(), sandbox.epoch, sandbox.secret)

    def look_at(self, sandbox: LiveSandbox) -> None:
        """The engine would be asked now."""
        self.looked.ring()

    def give_up(self, sandbox: LiveSandbox, reason: str) -> None:
        self.given_up.append(reason)

    async def link(self, highest: int = 0, entries: tuple[Entry, ...] = (), pipes: tuple[tuple[str, int], ...] = ()) -> FakeInit:
        init = FakeInit(self.mounted)
        init.say(hello(highest, entries, pipes=len(pipes)))
        if pipes:
            init.say(Pipes(tuple(id_ for id_, _ in pipes)), [pipe for _, pipe in pipes])
        assert (await init.heard())[0] is Type.WELCOME
        return init

    async def unlinked(self) -> None:
        while self.sandbox.link is not None:
            await self.looked.wait(PATIENCE_S)

    def post(self, eid: str = "execution-1", **spec: Any) -> LiveExecution:
        return self.executions.accept(self.sandbox, ExecutionSpec(id=eid, **{"command": "true", **spec}))

    async def ended(self, live: LiveExecution) -> Execution:
        while live.ended_at is None:
            await live.ended.wait(PATIENCE_S)  # at once: who waits in a task of its own may begin after the ring
        return answers.ended_answer(live, self.spool)

    async def output(self, live: LiveExecution, total: int) -> None:
        while live.total_bytes < total:
            await live.moved.wait(PATIENCE_S)

    def die(self) -> None:
        """The kernel closes what it held; nothing is tidied up."""
        self.listener.close()
        for live in list(self.executions.live.values()):
            if live.drain is not None:
                live.drain.cancel()
            for output in live.outputs:
                output.close()
        self.journal.close()


def play(directory: Path, scene: Callable[[Server], Awaitable[Server]]) -> None:
    async def main() -> None:
        server = Server(directory)
        last = await asyncio.wait_for(scene(server), 60)
        last.die()
        assert (server.fatal, last.fatal) == ([], [])

    asyncio.run(main())


class Command:
    """What a command's pipe looks like from inside: the init keeps one read end, the server gets others."""

    def __init__(self) -> None:
        self.kept, self.stdout = os.pipe2(os.O_CLOEXEC)

    def read_end(self) -> int:
        return os.dup(self.kept)

    def prints(self, content: bytes) -> None:
        at = 0
        while at < len(content):
            at += os.write(self.stdout, content[at:])

    def closes(self) -> None:
        """Nothing in the sandbox holds the pipe any more."""
        if self.stdout >= 0:
            os.close(self.stdout)
            self.stdout = -1

    def gone(self) -> None:
        os.close(self.kept)
        self.closes()
