"""What is measured stands here: a server of ours, containers of the peers. Each is made when it is first asked for, and all of
them are gone when the run ends, whatever ended it."""

from __future__ import annotations

import logging
import shutil
import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from remote_env import Client, RemoteDockerEnvironment, Sandbox
from scripts.benchmarks.engine import Containers, NotMeasured, docker
from scripts.benchmarks.floors import Inside, bare_server
from scripts.benchmarks.sshd import Sshd
from scripts.benchmarks.swerex import Loop, Rex
from tests.support.server import SANDBOX, Server

T = TypeVar("T")
QUIET = logging.getLogger("remote-env.bench.peers")
STAY = ("sleep", "infinity")


class Arena:
    """For `with`. `missing` collects why a peer, or something that it was asked for, was not measured."""

    image = SANDBOX

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        self.containers = Containers()
        self._stack = ExitStack()

    def __enter__(self) -> Arena:
        self.directory = Path(tempfile.mkdtemp(prefix="remote-env-bench."))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._stack.callback(self.containers.remove_all)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave containers behind
        try:
            self._stack.close()
        finally:
            signal.signal(signal.SIGINT, before)

    def attempt(self, name: str, make: Callable[[], T]) -> T | None:
        """What `make` returns; where a peer cannot be had or cannot do it: None, and `missing` says why."""
        try:
            return make()
        except NotMeasured as error:
            self.missing[name] = str(error)
        except ImportError as error:
            self.missing[name] = f"not installed: {error}"
        return None

    # ---------------------------------------------------------------------------------------------------------- ours

    def new_server(self, name: str, *, directory: Path | None = None, start: bool = True) -> Server:
        """Another server of ours with a data directory of its own."""
        server = Server((directory or self.directory) / name)
        self._stack.callback(server.remove_all)
        return server.start() if start else server

    @cached_property
    def server(self) -> Server:
        return self.new_server("data")

    def new_client(self, server: Server) -> Client:
        return self._stack.enter_context(Client(server.url, server.token))

    @cached_property
    def client(self) -> Client:
        return self.new_client(self.server)

    @cached_property
    def sandbox(self) -> Sandbox:
        return self.client.create_sandbox(self.image)

    @cached_property
    def environment(self) -> RemoteDockerEnvironment:
        """What harnesses use, with a sandbox of its own."""
        return self._stack.enter_context(RemoteDockerEnvironment(self.image, client=self.client))

    @cached_property
    def loop(self) -> Loop:
        loop = Loop()
        self._stack.callback(loop.close)
        return loop

    @cached_property
    def async_sandbox(self) -> Any:
        """The same sandbox, by the asyncio client."""
        from remote_env.aio import AsyncClient

        async def found() -> tuple[Any, Any]:
            client = AsyncClient(self.server.url, self.server.token)
            return client, await client.sandbox(self.sandbox.id)

        client, sandbox = self.loop.wait(found())
        self._stack.callback(lambda: self.loop.wait(client.close()))
        return sandbox

    def scratch(self, parent: Path) -> Path:
        """A directory there, that goes with the run."""
        made = Path(tempfile.mkdtemp(prefix="remote-env-bench.", dir=parent))
        self._stack.callback(shutil.rmtree, made, ignore_errors=True)
        return made

    # --------------------------------------------------------------------------------------------------------- peers

    @cached_property
    def plain(self) -> str:
        """A container as everybody starts one."""
        return self.containers.run(self.image, STAY)

    @cached_property
    def sdk_container(self) -> Any:
        """The same container, by the docker SDK."""
        import docker as sdk

        client = sdk.from_env(timeout=300)
        self._stack.callback(client.close)
        return client.containers.get(self.plain)

    @cached_property
    def sshd(self) -> Sshd:
        sshd = Sshd()
        self._stack.callback(sshd.close)
        return sshd

    @cached_property
    def rex(self) -> Rex:
        return Rex(self.containers, self.image)

    @cached_property
    def rex_runtime(self) -> Any:
        return self.loop.wait(self.rex.started())

    @cached_property
    def rex_session(self) -> str:
        """The name of a bash session in that container."""
        from swerex.runtime.abstract import CreateBashSessionRequest

        self.loop.wait(self.rex_runtime.create_session(CreateBashSessionRequest(session="bench", startup_timeout=10.0)))
        return "bench"

    @cached_property
    def rex_on_host(self) -> Any:
        """A client of a second such server, on the host's network: no docker-proxy on the way."""
        return self.loop.wait(Rex(self.containers, self.image, published=False).started())

    def mini_environment(self, shell: str) -> Any:
        """mini-swe-agent's own container. It is removed with the run's others: its own way waits 10 s for `sleep` to heed SIGTERM."""
        from minisweagent.environments.docker import DockerEnvironment

        environment = DockerEnvironment(
            image=self.image, interpreter=[shell, "-c"], run_args=["--rm", "--label", self.containers.label], logger=QUIET
        )
        environment.__dict__["cleanup"] = lambda: None
        return environment

    # -------------------------------------------------------------------------------------------------------- floors

    @cached_property
    def inside(self) -> Inside:
        """A process inside the plain container that forks and execs there."""
        inside = Inside(self.plain)
        self._stack.callback(inside.close)
        return inside

    @cached_property
    def bare_url(self) -> str:
        """An HTTP server that does nothing else, as fast as ours can be."""
        return self._stack.enter_context(bare_server(self.directory))

    def put(self, container: str, path: str, content: bytes) -> None:
        docker("exec", "-i", container, "sh", "-c", f"cat > {path}", stdin=content)
