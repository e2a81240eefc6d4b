"""A warm container on its way to its sandbox, where something goes wrong, with an engine that is played."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from remote_env.protocol import SandboxSpec
from server.engine import Container, Image
from server.live import LiveSandbox
from server.machines.sandbox import State
from server.messages import Type, packet
from server.profiles import Profile, Warm
from tests.unit.core.fake_init import PATIENCE_S, FakeInit, hello
from tests.unit.core.sandbox_stage import SANDBOX, Engine, Stage, without_an_init

IMAGE = "busybox"


class Containers(Engine):
    """As many as are asked for; the inits of all are this process."""

    def __init__(self) -> None:
        super().__init__()
        self.image_id = "sha256:1"
        self._numbers = itertools.count(1)
        self.made: asyncio.Queue[Path] = asyncio.Queue()  # link directories

    async def image(self, name: str) -> Image:
        return Image(self.image_id, (), "", "/")

    async def create(self, *args: object) -> str:
        directory = args[2]
        assert isinstance(directory, Path)
        self.made.put_nowait(directory)
        return f"container-{next(self._numbers)}"

    async def inspect(self, container_id: str) -> Container | None:
        return self._container(container_id)

    async def find(self, sandbox_id: str) -> Container | None:
        return None

    async def rename(self, container_id: str, sandbox_id: str) -> None: ...


class Pool(Stage):
    """One container that is ready, and nobody's yet."""

    def __init__(self, directory: Path, *, read_only: bool) -> None:
        self.engine: Containers
        super().__init__(directory, Containers(), warm=(Warm(Profile(IMAGE, read_only=read_only), 1),))

    async def stocked(self) -> FakeInit:
        self.sandboxes.warm.start(host_restarted=False)
        init = FakeInit(await asyncio.wait_for(self.engine.made.get(), PATIENCE_S))
        init.say(hello())
        assert (await init.heard())[0] is Type.WELCOME
        await self.ready()
        return init

    async def ready(self) -> None:
        for _ in range(100):  # turns of the event loop, for whoever waits for its hello
            await asyncio.sleep(0)
        assert self.sandboxes.warm.stock()[0].ready == 1

    def ask(self, workdir: str, read_only: bool = False) -> LiveSandbox:
        return self.sandboxes.create(
            SandboxSpec(id=SANDBOX, image=IMAGE, run_id="run-00001", workdir=workdir, read_only=read_only), b"hash"
        )  # fmt: skip


def play(directory: Path, scene: Callable[[Pool], Awaitable[None]], *, read_only: bool = False, killed: bool = False) -> None:
    """`killed`: what there is at the end stays, for the next."""

    async def main() -> None:
        pool = Pool(directory, read_only=read_only)
        await asyncio.wait_for(scene(pool), 60)
        if killed:
            pool.sandboxes.cut()
        else:
            await pool.sandboxes.stop(False)
        pool.journal.close()
        assert pool.fatal == []

    asyncio.run(main())


@pytest.fixture(autouse=True)
def an_init_that_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_an_init(monkeypatch, tmp_path)


def agent_that_dies() -> int:
    """The server's end of a file agent that served and is gone."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        its.send(struct.pack("<i", 0))
    return ours.detach()


@pytest.mark.parametrize("dying", ["agent", "link"])
def test_a_sandbox_that_dies_while_its_workdir_is_made_fails_and_the_server_goes_on(tmp_path: Path, dying: str) -> None:
    async def scene(pool: Pool) -> None:
        init = await pool.stocked()
        sandbox = pool.ask("/made/for/it")
        type_, body, _ = await init.heard()
        assert type_ is Type.FILES
        if dying == "agent":
            init.send(packet(Type.FILES_READY, body[:4] + struct.pack("<i", 0)), [agent_that_dies()])
        else:
            init.close()
        await pool.over(sandbox)
        assert (sandbox.state, sandbox.container_id) == (State.FAILED, "container-1")
        assert sandbox.reason is not None and sandbox.reason.startswith("internal: its workdir /made/for/it was not made")
        assert pool.engine.removed[:1] == ["container-1"]
        init.close()

    play(tmp_path, scene)


def test_a_workdir_below_a_read_only_root_takes_a_container_that_is_made_with_it(tmp_path: Path) -> None:
    async def scene(pool: Pool) -> None:
        warm = await pool.stocked()
        sandbox = pool.ask("/made/for/it", read_only=True)
        own = FakeInit(await asyncio.wait_for(pool.engine.made.get(), PATIENCE_S))
        own.say(hello())
        assert sandbox.work is not None
        await sandbox.work
        assert (sandbox.state, sandbox.container_id) == (State.RUNNING, "container-2")
        assert pool.sandboxes.warm.stock()[0].ready == 1
        for init in (warm, own):
            init.close()

    play(tmp_path, scene, read_only=True)


def test_the_images_own_workdir_takes_a_warm_container_below_a_read_only_root_too(tmp_path: Path) -> None:
    async def scene(pool: Pool) -> None:
        init = await pool.stocked()
        sandbox = pool.ask("/", read_only=True)
        assert sandbox.work is not None
        await sandbox.work
        assert (sandbox.state, sandbox.container_id) == (State.RUNNING, "container-1")
        init.close()

    play(tmp_path, scene, read_only=True)


def test_an_environment_that_never_reached_the_disk_does_not_keep_the_server_from_starting(tmp_path: Path) -> None:
    """As a power cut leaves it: the file's name is there, what was in it is not."""

    async def first(pool: Pool) -> None:
        init = await pool.stocked()
        spec = SandboxSpec(id=SANDBOX, image=IMAGE, run_id="run-00001", env={"NAME": "value"})
        sandbox = pool.sandboxes.create(spec, b"hash")
        assert sandbox.work is not None
        await sandbox.work
        assert sandbox.env == {"NAME": "value"}
        init.close()

    async def next_server(pool: Pool) -> None:
        (row,) = pool.journal.live_sandboxes()
        pool.sandboxes.restore(row, host_restarted=True)
        await pool.over(pool.sandboxes.live[SANDBOX])

    play(tmp_path, first)
    os.truncate(tmp_path / "sandbox-env" / SANDBOX, 0)
    play(tmp_path, next_server)


async def leave_one(pool: Pool) -> None:
    (await pool.stocked()).close()


def test_one_of_an_image_that_was_tagged_anew_while_there_was_no_server_is_nobodys(tmp_path: Path) -> None:
    async def next_server(pool: Pool) -> None:
        pool.engine.image_id = "sha256:2"
        pool.sandboxes.warm.start(host_restarted=False)
        (mounted,) = (tmp_path / "sandboxes").iterdir()
        init = FakeInit(mounted)
        init.say(hello())
        await asyncio.wait_for(pool.engine.gone.wait(), PATIENCE_S)
        assert pool.engine.removed == ["container-1"]
        assert pool.sandboxes.warm.stock()[0].ready == 0
        init.close()

    play(tmp_path, leave_one, killed=True)
    play(tmp_path, next_server)


def test_one_of_an_image_that_stayed_what_it_was_is_taken_over_by_the_next_server(tmp_path: Path) -> None:
    async def next_server(pool: Pool) -> None:
        pool.sandboxes.warm.start(host_restarted=False)
        (mounted,) = (tmp_path / "sandboxes").iterdir()
        init = FakeInit(mounted)
        init.say(hello())
        assert (await init.heard())[0] is Type.WELCOME
        await pool.ready()
        sandbox = pool.ask("/")
        assert sandbox.work is not None
        await sandbox.work
        assert sandbox.container_id == "container-1"
        init.close()

    play(tmp_path, leave_one, killed=True)
    play(tmp_path, next_server)
