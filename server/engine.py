"""Docker Engine, for the life cycle of containers only: pull, create, start, inspect, kill, remove. Commands never pass here.

Every call runs in a thread, since the docker SDK blocks; every container that is touched has been
found by our label *and* our instance id, or is one that this process has just made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import docker
import requests
import urllib3
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.errors import APIError, DockerException, ImageNotFound, NotFound, StreamParseError
from docker.types import Healthcheck, LogConfig, Mount
from docker.utils import kwargs_from_env, parse_repository_tag

from remote_env.protocol import SandboxSpec
from server.committing import commit
from server.engineerror import EngineError as EngineError
from server.owncontainer import Mounts, own_container, source_of

log = logging.getLogger("server.engine")

INSTANCE_LABEL = "remote-env.instance"
SANDBOX_LABEL = "remote-env.sandbox"
RUN_LABEL = "remote-env.run"
MOUNT_POINT = "/.remote-env"

CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETUID", "SETGID", "KILL", "SYS_CHROOT")
"""What must stay for apt-get install, pip, git, su and test suites to work as root in a sandbox (tried one by one)."""

_THREADS = 16
_PULLS, _COMMITS = 8, 4  # at once; they take minutes, so they must not take the place of other calls
_CALL_S = 60  # seconds for one answer of the engine
_COMMIT_S = 1800  # seconds for an image to be made of a container, which may have written gigabytes
_CONNECT_S = 2  # seconds for an engine to answer on a new connection
_NAMINGS = ("tag", "pull", "load", "import")  # events after which an image's name may mean another image
_FOR_EVER_S = 10**8  # seconds without an event are no failure

_BROKEN = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, StreamParseError, OSError)
"""What a call to an engine that goes away ends with. The SDK reads streams past requests, so urllib3's errors come too."""

T = TypeVar("T")


@dataclass(frozen=True)
class Image:
    """What a sandbox takes from its image."""

    id: str
    env: tuple[str, ...]
    user: str
    workdir: str


@dataclass(frozen=True)
class Container:
    id: str
    running: bool
    pid: int
    exit_code: int
    labels: dict[str, str]


@dataclass(frozen=True)
class Limits:
    """What one container may use, defaults filled in."""

    memory_bytes: int
    pids: int
    cpus: float | None


class Engine:
    """Args:
    url: the engine's address, None for DOCKER_HOST or the local socket.
    instance_id: goes on every container as a label.
    """

    def __init__(self, url: str | None, instance_id: str) -> None:
        self._url = url
        self._instance_id = instance_id
        self._slots = asyncio.Semaphore(_THREADS)
        self._pull_slots = asyncio.Semaphore(_PULLS)
        self._commit_slots = asyncio.Semaphore(_COMMITS)
        self._api: docker.APIClient | None = None
        self._own_mounts: Mounts | None = None
        self._looked_at_own = False

    async def _call(self, function: Callable[[docker.APIClient], T]) -> T:
        async with self._slots:
            return await self._in_thread(function)

    async def _in_thread(self, function: Callable[[docker.APIClient], T]) -> T:
        """Carry out one call in a thread of its own: a daemon, since a call to a hung engine must not hold this process
        when it stops (a pool's threads would)."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(settling: Callable[[], None]) -> None:
            if not answer.done():
                settling()

        def work() -> None:
            try:
                result = self._guarded(function)
                settling = partial(answer.set_result, result)
            except BaseException as error:
                settling = partial(answer.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, settling)

        threading.Thread(target=work, name="engine", daemon=True).start()
        return await answer

    def _guarded(self, function: Callable[[docker.APIClient], T]) -> T:
        """Engine's and transport's errors as ours."""
        try:
            return function(self._client())
        except ImageNotFound as error:
            raise EngineError("image_not_found", _explain(error)) from error
        except NotFound:
            raise
        except APIError as error:
            code = "engine_unavailable" if error.is_server_error() and _unavailable(error) else "invalid"
            raise EngineError(code, _explain(error)) from error
        except _BROKEN as error:
            raise EngineError("engine_unavailable", f"the container engine does not answer: {error}") from error

    def _client(self) -> docker.APIClient:
        if self._api is None:
            self._api = self._new_client(_CALL_S, num_pools=_THREADS)
        return self._api

    def _new_client(self, timeout_s: float, *, version: str = "auto", **more: Any) -> docker.APIClient:
        kwargs = kwargs_from_env()
        if self._url:
            kwargs["base_url"] = self._url
        return docker.APIClient(version=version, timeout=timeout_s, **more, **kwargs)  # type: ignore[arg-type]

    # ------------------------------------------------------------------------------------------------ engine

    async def info(self) -> dict[str, Any]:
        """The engine's own words about itself (docker info). Raises EngineError."""
        return await self._call(lambda api: dict(api.info()))

    async def takes_connections(self) -> bool:
        """Whether a new connection is taken. An engine that shuts down goes on answering on those that it has while it ends its
        containers. One that hangs takes them, and is not going away."""

        def run() -> bool:
            # A version that is given is not asked for: the constructor stays silent.
            api = self._new_client(_CONNECT_S, version=MINIMUM_DOCKER_API_VERSION)
            try:
                api.ping()
            except requests.exceptions.Timeout:
                return True
            except APIError:
                return True
            except _BROKEN:
                return False
            finally:
                api.close()
            return True

        return await asyncio.to_thread(run)

    async def host_path(self, path: Path) -> Path:
        """Where `path` lies for the engine: itself, or, when this server runs in a container, below the source of the
        mount it is in."""
        if not self._looked_at_own:  # its mounts stay the same for the life of a container
            self._own_mounts = await self._find_own_mounts()
            self._looked_at_own = True
        return path if self._own_mounts is None else source_of(path, self._own_mounts)

    async def _find_own_mounts(self) -> Mounts | None:
        """Of the container that this server runs in; None on a host."""
        container = own_container()
        if container is None:
            return None
        try:
            inspected = await self._call(lambda api: api.inspect_container(container))
        except NotFound:
            return None  # a container of another engine: paths are the host's own as far as we can know
        return [(Path(mount["Destination"]), Path(mount["Source"])) for mount in inspected["Mounts"]]

    # ------------------------------------------------------------------------------------------------ images

    async def image(self, name: str) -> Image:
        """Raises EngineError image_not_found."""
        try:
            inspected: dict[str, Any] = await self._call(lambda api: api.inspect_image(name))
        except NotFound as error:  # said in other words than the SDK knows
            raise EngineError("image_not_found", _explain(error)) from error
        config = inspected.get("Config") or {}
        return Image(inspected["Id"], tuple(config.get("Env") or ()), config.get("User") or "", config.get("WorkingDir") or "/")

    async def pull(self, name: str, platform: str | None, timeout_s: float, progress: Callable[[str], None]) -> None:
        """Pull an image, telling `progress` in words. Raises EngineError."""
        loop = asyncio.get_running_loop()

        def run(api: docker.APIClient) -> None:
            repository, tag = parse_repository_tag(name)
            for line in api.pull(repository, tag=tag or "latest", platform=platform, stream=True, decode=True):
                if "error" in line:
                    raise EngineError("image_not_found", f"{name} cannot be pulled: {line['error']}")
                loop.call_soon_threadsafe(progress, " ".join(filter(None, (line.get("status"), line.get("progress")))))

        try:
            async with self._pull_slots:
                await asyncio.wait_for(self._in_thread(run), timeout_s)
        except asyncio.TimeoutError:
            raise EngineError("image_not_found", f"{name} was not pulled within {timeout_s:.0f} s") from None
        except NotFound as error:
            raise EngineError("image_not_found", f"{name} cannot be pulled: {_explain(error)}") from error
        except EngineError as error:
            if error.code == "engine_unavailable" and "does not answer" in error.detail:
                raise
            raise EngineError("image_not_found", f"{name} cannot be pulled: {error.detail}") from error

    # -------------------------------------------------------------------------------------------- containers

    async def create(self, spec: SandboxSpec, image: Image, link_directory: Path, limits: Limits, workdir: str) -> str:
        """Make the sandbox's container and return its id. Not started. Raises EngineError."""

        def run(api: docker.APIClient) -> str:
            host_config = api.create_host_config(
                mounts=[
                    Mount(MOUNT_POINT, str(link_directory), type="bind", read_only=True),
                    # Resolved, as it was checked: a symlink in a writable bind could be changed in between.
                    *(Mount(b.target, os.path.realpath(b.source), type="bind", read_only=b.read_only) for b in spec.binds),
                ],
                cap_drop=["ALL"],
                cap_add=list(CAPABILITIES),
                security_opt=["no-new-privileges"] if spec.no_new_privileges else [],
                mem_limit=limits.memory_bytes,
                memswap_limit=limits.memory_bytes,
                pids_limit=limits.pids,
                nano_cpus=None if limits.cpus is None else int(limits.cpus * 1e9),
                shm_size=spec.shm_bytes,
                network_mode=spec.network,
                read_only=spec.read_only,
                restart_policy={"Name": "no"},
                log_config=LogConfig(type="none"),  # commands' output goes over the link
                init=False,
            )
            keep_home = "HOME" in spec.env or any(item.startswith("HOME=") for item in image.env)
            config = api.create_container_config(
                spec.image,
                command=["--keep-home"] if keep_home else [],
                entrypoint=[f"{MOUNT_POINT}/init"],
                user="0:0",  # the init gives each command its own user
                working_dir=workdir,
                environment=dict(spec.env),
                labels={
                    **spec.labels, INSTANCE_LABEL: self._instance_id, SANDBOX_LABEL: spec.id, RUN_LABEL: spec.run_id,
                },
                host_config=host_config,
                healthcheck=Healthcheck(test=["NONE"]),  # an image's own would be a docker exec every so often
                stop_signal="SIGTERM",
            )  # fmt: skip
            created = api.create_container_from_config(config, name=_name(spec.id), platform=spec.platform)
            return str(created["Id"])

        try:
            return await self._call(run)
        except NotFound as error:
            raise EngineError("image_not_found", _explain(error)) from error

    async def start(self, container_id: str) -> Container:
        """Start it. Raises EngineError."""
        try:
            await self._call(lambda api: api.start(container_id))
        except NotFound as error:
            raise EngineError("invalid", _explain(error)) from error
        container = await self.inspect(container_id)
        if container is None:
            raise EngineError("invalid", "the container was removed while it started")
        return container

    async def inspect(self, container_id: str) -> Container | None:
        """The container as it is now, None when it is gone or not ours. Raises EngineError when that cannot be known."""
        try:
            found = await self._call(lambda api: api.inspect_container(container_id))
        except NotFound:
            return None
        labels = found["Config"].get("Labels") or {}
        if labels.get(INSTANCE_LABEL) != self._instance_id:
            return None
        state = found["State"]
        return Container(found["Id"], bool(state["Running"]), int(state["Pid"]), int(state["ExitCode"]), labels)

    async def remove(self, container_id: str) -> None:
        """Kill and remove it with its volumes; gone already is as good. Raises EngineError."""

        def run(api: docker.APIClient) -> None:
            try:
                api.remove_container(container_id, v=True, force=True)
            except APIError as error:
                if error.status_code != 409:  # 409: its removal is under way
                    raise

        try:
            if await self.inspect(container_id) is not None:
                await self._call(run)
                await self._wait_gone(container_id)
        except NotFound:
            return

    async def _wait_gone(self, container_id: str) -> None:
        """A removal that somebody else began is over when the engine does not know the container any more."""
        if await self.inspect(container_id) is not None:
            await self._call(lambda api: api.wait(container_id, condition="removed", timeout=_CALL_S))

    async def diff(self, container_id: str) -> list[dict[str, Any]]:
        """What is otherwise than in its image: Path, and Kind as a number. Raises EngineError."""
        try:
            return await self._call(lambda api: list(api.diff(container_id) or ()))
        except NotFound as error:
            raise EngineError("gone", _explain(error)) from error

    async def snapshot(self, container_id: str, name: str) -> tuple[str, int]:
        """Make an image of it, which goes on meanwhile: the image's id, and its size in bytes. Raises EngineError."""

        def run(_: docker.APIClient) -> tuple[str, int]:
            with contextlib.closing(self._new_client(_COMMIT_S)) as api:
                return commit(api, container_id, name, (INSTANCE_LABEL, SANDBOX_LABEL, RUN_LABEL))

        try:
            async with self._commit_slots:
                return await self._in_thread(run)
        except NotFound as error:
            raise EngineError("gone", _explain(error)) from error

    async def find(self, sandbox_id: str) -> Container | None:
        """A container that was made for this sandbox, whether or not the journal knows its id."""
        return await self.inspect(_name(sandbox_id))

    async def rename(self, container_id: str, sandbox_id: str) -> None:
        """Name it after another sandbox than it was made for. Its labels cannot be changed. Raises EngineError."""
        try:
            await self._call(lambda api: api.rename(container_id, _name(sandbox_id)))
        except NotFound as error:
            raise EngineError("gone", _explain(error)) from error

    async def ours(self) -> dict[str, str]:
        """Every container of this instance: container id → id of the sandbox that it was made for. Raises EngineError."""
        label = f"{INSTANCE_LABEL}={self._instance_id}"
        found = await self._call(lambda api: api.containers(all=True, filters={"label": label}))
        return {item["Id"]: item["Labels"].get(SANDBOX_LABEL, "") for item in found}

    # ------------------------------------------------------------------------------------------------ events

    def news(self, on_up: Callable[[], None]) -> Iterator[str | None]:
        """Block and yield the id of each container of ours that dies, and None where an image's name may mean another image than
        before, until the engine goes away (then it ends, or raises EngineError). Runs in a thread of the caller's; has a
        connection of its own. `on_up` is called once the engine answers."""
        try:
            api = self._new_client(_FOR_EVER_S)
            # Not by our label: images have none of ours.
            events = api.events(decode=True, filters={"type": ["container", "image"], "event": ["die", *_NAMINGS]})
            on_up()
            for event in events:
                if event["Type"] == "image":
                    yield None
                elif event["Actor"]["Attributes"].get(INSTANCE_LABEL) == self._instance_id:
                    yield event["Actor"]["ID"]
        except _BROKEN as error:
            raise EngineError("engine_unavailable", str(error)) from error


def _name(sandbox_id: str) -> str:
    return f"remote-env-{sandbox_id}"


def _explain(error: APIError) -> str:
    return str(error.explanation or error)


def _unavailable(error: APIError) -> bool:
    """An engine that shuts down, starts, or has lost its containerd answers 5xx to everything; that this very container cannot
    be started, as the OCI runtime found, is not that."""
    return error.status_code in (502, 503, 504) or "OCI runtime" not in _explain(error)
