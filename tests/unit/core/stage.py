"""A listener, a witness that owns its links, and scenes played against them."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from server.descriptors import close_all
from server.link import Listener
from server.messages import Type
from tests.unit.core.fake_init import FakeInit, Witness, hello

Scene = Callable[[Path, Witness], Awaitable[None]]


def act(directory: Path, scene: Scene, *, pid: int | None = None, secret: bytes | None = None, welcome: bool = True) -> None:
    """Play a scene against a listener; afterwards no descriptor may be left over."""

    async def main() -> None:
        gc.collect()  # what tests before this one dropped is closed now, not in the middle
        before = open_fds()
        witness = Witness(os.getpid() if pid is None else pid, secret, welcome)
        listener = Listener(directory, witness)
        listener.accept()
        try:
            await asyncio.wait_for(scene(directory, witness), 60)
        finally:
            listener.close()
            for pipes in witness.pipes.values():
                close_all(pipes)
        assert open_fds() <= before

    asyncio.run(main())


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def read_end() -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(writer)
    return reader


def write_end() -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(reader)
    return writer


async def linked(directory: Path, witness: Witness) -> FakeInit:
    init = FakeInit(directory)
    init.say(hello())
    assert (await witness.next())[0] == "hello"
    assert (await init.heard())[0] is Type.WELCOME
    return init
