"""Making a sandbox's container: the init beside the socket, the container around them, its init's first hello."""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from remote_env.protocol import SandboxSpec
from server.engine import Engine, Image, Limits
from server.failpoints import failpoint
from server.initbuild import InitUnavailable, init_path
from server.live import LiveSandbox
from server.messages import LINK_VERSION

_FIRST_HELLO_S = 30.0  # seconds for the init to connect after its container has started
_HELLO_LOOK_S = 1.0  # seconds between looks whether that container still runs


class CreationFailed(Exception):
    """The sandbox cannot be made; the message begins with a problem code."""


class Places:
    """So many containers are made at once, in the order in which they were asked for. What is made ahead of need begins only
    while nothing is made or waits for somebody."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._count = count
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ahead: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def one(self, *, ahead: bool = False) -> AsyncIterator[None]:
        """Returns when there is a place, which is held for as long as this is entered."""
        await self._take(ahead)
        try:
            yield
        finally:
            self._free += 1
            self._hand_on()

    async def _take(self, ahead: bool) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._ahead if ahead else self._waiting
        line.append(future)
        self._hand_on()
        try:
            await future
        except asyncio.CancelledError:
            if future in line:
                line.remove(future)
            elif not future.cancelled():  # it had been given a place just before
                self._free += 1
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        while self._free and self._waiting:
            self._give(self._waiting.popleft())
        if self._ahead and self._free == self._count:
            self._give(self._ahead.popleft())

    def _give(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            self._free -= 1
            future.set_result(None)


class Maker:
    """Args:
    directory: each sandbox's link directory lies in it.
    places: how many containers may be made at once.
    """

    def __init__(self, engine: Engine, directory: Path, places: int) -> None:
        self._engine = engine
        self._directory = directory
        self._places = Places(places)
        self._waiting: set[str] = set()  # sandboxes whose turn has not come
        self._loop = asyncio.get_running_loop()
        self._machine: str | None = None

    def link_directory(self, sandbox_id: str) -> Path:
        """The one thing that is mounted into a sandbox: the init, beside the socket."""
        return self._directory / sandbox_id

    def is_waiting(self, sandbox: LiveSandbox) -> bool:
        """Whether its turn has not come: its making can be broken off then, and nothing is left of it."""
        return sandbox.id in self._waiting

    async def make(
        self, sandbox: LiveSandbox, spec: SandboxSpec, image: Image, limits: Limits, *, listen: Callable[[], None],
        made: Callable[[str], None], check: Callable[[], None], ahead: bool = False,
    ) -> None:  # fmt: skip
        """Return when the sandbox's init has said hello.

        Args:
            listen: gives the sandbox its listener.
            made: told of the container's id before it is started.
            check: raises CreationFailed where the sandbox is not wanted any more.
            ahead: nobody waits for it.
        Raises:
            EngineError, OSError, CreationFailed.
        """
        async with AsyncExitStack() as place:
            self._waiting.add(sandbox.id)
            sandbox.progress = "waiting for its turn"
            try:
                await place.enter_async_context(self._places.one(ahead=ahead))
            finally:
                self._waiting.discard(sandbox.id)
            check()
            sandbox.progress = "starting the container"
            workdir = spec.workdir or image.workdir
            user = image.user if spec.user is None else spec.user
            sandbox.spec |= {"workdir": workdir, "user": user, "link_version": LINK_VERSION}
            directory = self.link_directory(sandbox.id)
            await self._install_init(directory)
            listen()
            host_directory = await self._engine.host_path(directory)
            check()
            container_id = await self._engine.create(spec, image, host_directory, limits, workdir)
            made(container_id)
            check()
            failpoint("before_container_start")
            container = await self._engine.start(container_id)
            failpoint("after_container_start")
            sandbox.container_pid = container.pid
            assert sandbox.listener is not None
            sandbox.listener.accept()
            await self._first_hello(sandbox, container_id, check)

    async def _first_hello(self, sandbox: LiveSandbox, container_id: str, check: Callable[[], None]) -> None:
        deadline = self._loop.time() + _FIRST_HELLO_S
        while self._loop.time() < deadline:
            try:
                await asyncio.wait_for(sandbox.linked.wait(), _HELLO_LOOK_S)
                return
            except asyncio.TimeoutError:
                check()
            found = await self._engine.inspect(container_id)
            if found is None or not found.running:
                code = "gone" if found is None else f"exit code {found.exit_code}"
                raise CreationFailed(f"internal: the sandbox's init ended at once ({code}); is the image of this host's platform?")
        raise CreationFailed(
            "engine_unavailable: the sandbox's init cannot reach this server: the engine runs on another machine, or its "
            "runtime carries no unix sockets across mounts (gVisor, Kata). Run the server beside the engine, with runc"
        )

    async def _install_init(self, directory: Path) -> None:
        if self._machine is None:  # the engine's, which stays the same: it is on this machine
            self._machine = str((await self._engine.info())["Architecture"])
        try:
            source = await asyncio.to_thread(init_path, self._machine)
        except InitUnavailable as error:
            raise CreationFailed(f"internal: {error}") from error
        await asyncio.to_thread(_install, source, directory)


def _install(init: Path, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)  # whatever the umask: with remapped users, root of the sandbox is nobody here
    shutil.copyfile(init, directory / "init")
    (directory / "init").chmod(0o755)
