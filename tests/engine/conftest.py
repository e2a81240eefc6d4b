"""Fixtures of the tests with real containers: sandboxes of each kind, plain HTTP, images with users of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
import requests

from remote_env import Client, Sandbox
from remote_env.protocol import EPOCH_HEADER
from tests.support.outside import docker as engine
from tests.support.server import BUSYBOX, SANDBOX, SMALL, Server

MakeSandbox = Callable[..., Sandbox]
MakeImage = Callable[..., str]

IMAGE_NAME = "remote-env-test/made"


def inspect(sandbox: Sandbox) -> dict[str, Any]:
    """What the engine knows of a sandbox's container."""
    (found,) = json.loads(engine("inspect", str(sandbox.container_id)))
    assert isinstance(found, dict)
    return found


class Http:
    """Requests as any HTTP client would send them, with the token and nothing else of ours."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Bearer {server.token}"

    def __call__(self, method: str, path: str, *, epoch: str | None = None, wait: float | None = None, **more: Any) -> requests.Response:
        """`epoch` and `wait` (seconds) become the epoch header and `Prefer: wait=N`."""
        headers: dict[str, str] = dict(more.pop("headers", {}))
        if epoch is not None:
            headers[EPOCH_HEADER] = epoch
        if wait is not None:
            headers["Prefer"] = f"wait={wait:g}"
        return self._session.request(method, self.url + path, headers=headers, timeout=60, **more)

    def close(self) -> None:
        self._session.close()


@pytest.fixture
def http(server: Server) -> Iterator[Http]:
    """Plain HTTP to the shared server."""
    session = Http(server)
    yield session
    session.close()


@pytest.fixture
def make_sandbox(client: Client) -> Iterator[MakeSandbox]:
    """Make sandboxes on the shared server, removed after the test: `make_sandbox(image, **options)`; busybox by default."""
    made: list[Sandbox] = []

    def make(image: str = BUSYBOX, **options: Any) -> Sandbox:
        made.append(client.create_sandbox(image, **{"memory_bytes": SMALL, **options}))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.remove()


@pytest.fixture(scope="module")
def shared(client: Client, busybox_image: str) -> Iterator[Sandbox]:
    """A busybox sandbox for the tests of one file that leave nothing behind in it."""
    with client.create_sandbox(busybox_image, memory_bytes=SMALL) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def debian(client: Client, sandbox_image: str) -> Iterator[Sandbox]:
    """A sandbox of the default image (bash, python3, procps) for the tests of one file that leave nothing behind in it."""
    with client.create_sandbox(SANDBOX, memory_bytes=SMALL) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def make_image(docker_client: docker.DockerClient, busybox_image: str) -> Iterator[MakeImage]:
    """Make images from the busybox one: `make_image(script, *changes)` runs the script in it and applies Dockerfile
    instructions to the result. Removed after the file's tests."""
    made: list[str] = []

    def make(script: str, *changes: str) -> str:
        container = docker_client.containers.create(busybox_image, ["sh", "-ec", script])
        try:
            container.start()
            assert container.wait()["StatusCode"] == 0, container.logs()
            tag = f"{IMAGE_NAME}:{str(container.id)[:12]}"
            container.commit(IMAGE_NAME, tag.partition(":")[2], changes=list(changes))
        finally:
            container.remove(force=True)
        made.append(tag)
        return tag

    try:
        yield make
    finally:
        for tag in made:
            docker_client.images.remove(tag, force=True)
