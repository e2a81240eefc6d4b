"""Sandboxes without HTTP: a journal, a spool, and an engine whose one container has the test's process as its init."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from remote_env.protocol import SandboxSpec
from server import making
from server.engine import Container, EngineError, Image
from server.executions import Executions
from server.journal import Journal
from server.live import LiveSandbox
from server.metrics import Metrics
from server.sandboxes import Sandboxes
from server.settings import Settings
from server.spool import Spool
from server.waits import WaitRoom
from tests.unit.core.fake_init import PATIENCE_S

SANDBOX = "sandbox-1"


class Engine:
    """One container, whose init is this process."""

    def __init__(self) -> None:
        self.exists = False
        self.running = True
        self.started = asyncio.Event()
        self.removing = asyncio.Event()  # a removal was asked for
        self.may_remove = asyncio.Event()
        self.may_remove.set()
        self.gone = asyncio.Event()
        self.found: dict[str, str] = {}
        self.removed: list[str] = []
        self.stuck: set[str] = set()

    async def image(self, name: str) -> Image:
        return Image("sha256:1", (), "", "/")

    async def info(self) -> dict[str, Any]:
        return {"Architecture": "x86_64"}

    async def host_path(self, path: Path) -> Path:
        return path

    async def create(self, *_: object) -> str:
        self.exists = True
        return "c0ffee"

    async def start(self, container_id: str) -> Container:
        self.started.set()
        return self._container(container_id)

    async def inspect(self, container_id: str) -> Container | None:
        return self._container(container_id) if self.exists else None

    async def find(self, sandbox_id: str) -> Container | None:
        return await self.inspect("c0ffee")

    async def remove(self, container_id: str) -> None:
        self.removing.set()
        await self.may_remove.wait()
        if container_id in self.stuck:
            raise EngineError("invalid", "device or resource busy")
        self.exists = False
        self.gone.set()
        self.removed.append(container_id)

    async def ours(self) -> dict[str, str]:
        return self.found

    def _container(self, container_id: str) -> Container:
        return Container(container_id, self.running, os.getpid(), 0, {})


class Stage:
    def __init__(self, directory: Path, engine: Engine | None = None, **settings: Any) -> None:
        self.directory = directory
        self.fatal: list[BaseException] = []
        self.engine = engine or Engine()
        self.room = WaitRoom()
        self.journal = Journal(directory / "journal.sqlite3")
        self.spool = Spool(directory / "spool")
        self.executions = Executions(
            self.journal, self.spool, Metrics(), self.room, key=b"key", drain_grace_s=0.2, on_fatal=self.fatal.append
        )
        self.sandboxes = Sandboxes(
            settings=Settings(data_dir=directory, **settings), journal=self.journal, engine=self.engine,  # type: ignore[arg-type]
            executions=self.executions, room=self.room, directory=directory / "sandboxes",
            engine_broke=self._engine_broke, on_fatal=self.fatal.append,
        )  # fmt: skip

    async def _engine_broke(self, within_s: float) -> bool:
        return False

    def create(self, sandbox_id: str = SANDBOX) -> LiveSandbox:
        return self.sandboxes.create(SandboxSpec(id=sandbox_id, image="busybox", run_id="run-00001"), b"hash")

    async def over(self, sandbox: LiveSandbox) -> None:
        while sandbox.id in self.sandboxes.live:
            await sandbox.changed.wait(PATIENCE_S)


def play(directory: Path, scene: Callable[[Stage], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        stage = Stage(directory, **settings)
        await asyncio.wait_for(scene(stage), 60)
        await stage.sandboxes.stop(False)
        assert stage.fatal == []

    asyncio.run(main())


def without_an_init(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Nothing is compiled for it: what is mounted into a sandbox is an empty file."""
    init = directory / "init"
    init.write_bytes(b"")
    monkeypatch.setattr(making, "init_path", lambda _: init)
    monkeypatch.setattr(making, "_HELLO_LOOK_S", 0.01)
