"""The whole server without HTTP and engine, on a journal that has one running sandbox, whose init the test plays."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from remote_env.protocol import ExecutionSpec
from server.journal import Journal, SandboxRow
from server.messages import Entry, Pipes, Started, Type
from server.metrics import Metrics
from server.settings import Settings
from server.world import World
from tests.unit.core.bench import Command
from tests.unit.core.fake_init import INCARNATION, PATIENCE_S, SECRET, FakeInit, hello

SANDBOX = "sandbox-1"
EPOCH = INCARNATION.hex()


class Stage:
    """A data directory with one running sandbox in its journal, whose init is this process, and a server on it."""

    def __init__(self, directory: Path) -> None:
        self.mounted = directory / "sandboxes" / SANDBOX
        self.journal = directory / "journal.sqlite3"
        self.fatal: list[BaseException] = []
        self.failed = asyncio.Event()
        if not self.mounted.exists():
            self.mounted.mkdir(parents=True)
            spec = {"lease_s": 300, "on_lease_end": "wait"}
            journal = Journal(self.journal)
            journal.add_sandbox(
                SandboxRow(SANDBOX, "run-00001", "busybox", spec, b"", "running", None, "c0ffee", os.getpid(), EPOCH, SECRET, 0.0, None)
            )
            journal.close()
        settings = Settings(data_dir=directory, docker_host=f"unix://{directory}/no-engine.sock", min_free_disk_bytes=0)
        self.world = World(settings, Metrics(), self._on_fatal)

    def _on_fatal(self, error: BaseException) -> None:
        self.fatal.append(error)
        self.failed.set()

    async def link(self, highest: int = 0, entries: tuple[Entry, ...] = (), pipes: tuple[tuple[str, int], ...] = ()) -> FakeInit:
        init = FakeInit(self.mounted)
        init.say(hello(highest, entries, pipes=len(pipes)))
        if pipes:
            init.say(Pipes(tuple(id_ for id_, _ in pipes)), [pipe for _, pipe in pipes])
        assert (await init.heard())[0] is Type.WELCOME
        return init

    async def started(self, init: FakeInit, command: Command, **spec: Any) -> None:
        await self.world.start_execution(SANDBOX, ExecutionSpec(id="execution-1", **{"command": "true", **spec}), EPOCH, 0)
        assert await init.heard_id() == (Type.RUN, "execution-1")
        init.say(Started("execution-1", 1, 5), [command.read_end()])
        command.prints(b"begun\n")
        assert (await self.world.output("execution-1", EPOCH, 0, None, PATIENCE_S)).state == "running"

    def column(self, name: str) -> Any:
        with sqlite3.connect(self.journal) as db:
            return db.execute(f"SELECT {name} FROM executions WHERE id = 'execution-1'").fetchone()[0]


def play(directory: Path, scene: Callable[[Stage], Awaitable[None]]) -> None:
    async def main() -> None:
        stage = Stage(directory)
        await stage.world.start()
        await asyncio.wait_for(scene(stage), 60)

    asyncio.run(main())
