"""For tests that need a real Docker engine: the engine, the images, and a private engine that may be hurt."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGINE_SCRIPT = ROOT / "scripts" / "docker-engine"
IMAGE_SCRIPT = ROOT / "scripts" / "sandbox-image"

MARKS = {"engine": ("engine",), "faults": ("engine", "faults")}

SANDBOX_IMAGE = "remote-env/sandbox:latest"
BUSYBOX_IMAGE = "remote-env/busybox:latest"
NONROOT_IMAGE = "remote-env/nonroot:latest"
SCRATCH_IMAGE = "remote-env/scratch:latest"
PYTEST_IMAGE = "remote-env/pytest:latest"
UNREACHABLE = ("No matching distribution found", "NewConnectionError", "ConnectionError", "Temporary failure in name resolution")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests below tests/engine and tests/faults, so that `-m "not engine"` leaves them out."""
    tests = ROOT / "tests"
    for item in items:
        directory = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        for mark in MARKS.get(directory, ()):
            item.add_marker(mark)


def in_ci() -> bool:
    """Whether a missing tool is a failure rather than a reason to skip."""
    return os.environ.get("CI", "").lower() in ("1", "true")


def skip_unless_ci(reason: str) -> None:
    """Skips the test, or fails it where everything is expected to be there. Does not return."""
    if in_ci():
        pytest.fail(reason)
    pytest.skip(reason)


def _run(*command: str | Path) -> str:
    """Runs a script of ours; its standard output. Fails the test with everything it said when it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(str(word) for word in command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@pytest.fixture(scope="session")
def docker_host() -> str:
    """The address of an engine that answers, as DOCKER_HOST has it."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        client = docker.DockerClient(base_url=host)
        try:
            client.ping()
        finally:
            client.close()
    except docker.errors.DockerException as error:
        skip_unless_ci(f"no Docker engine answers at {host} (scripts/docker-engine start): {error}")
    return host


@pytest.fixture(scope="session")
def docker_client(docker_host: str) -> Iterator[docker.DockerClient]:
    """The engine as seen from outside: what a test counts and looks at without the software under test."""
    client = docker.DockerClient(base_url=docker_host)
    yield client
    client.close()


def _image(kind: str, tag: str, client: docker.DockerClient) -> str:
    try:
        client.images.get(tag)
    except docker.errors.ImageNotFound:
        _run(IMAGE_SCRIPT, kind)
    return tag


@pytest.fixture(scope="session")
def sandbox_image(docker_client: docker.DockerClient) -> str:
    """Tag of the default image: bash, git, Python, pip, procps."""
    return _image("default", SANDBOX_IMAGE, docker_client)


@pytest.fixture(scope="session")
def image_with_pytest(docker_client: docker.DockerClient) -> str:
    """Tag of the default image with pytest and IPython; skips where no package index can be reached."""
    made = subprocess.run([IMAGE_SCRIPT, "pytest"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if made.returncode and any(sign in made.stderr for sign in UNREACHABLE):
        pytest.skip(f"the package index cannot be reached: {made.stderr[-300:]}")
    assert made.returncode == 0, made.stderr
    return PYTEST_IMAGE


@pytest.fixture(scope="session")
def busybox_image(docker_client: docker.DockerClient) -> str:
    """Tag of a 2 MB image with sh and no bash; users root and app (uid 1000, also in group staff)."""
    return _image("busybox", BUSYBOX_IMAGE, docker_client)


@pytest.fixture(scope="session")
def nonroot_image(docker_client: docker.DockerClient) -> str:
    """Tag of the busybox image with USER app, WORKDIR /home/app, IMAGE_SETTING=kept and an ENTRYPOINT that fails."""
    return _image("busybox", NONROOT_IMAGE, docker_client)


@pytest.fixture(scope="session")
def scratch_image(docker_client: docker.DockerClient) -> str:
    """Tag of an image that holds /prog alone (see scripts/prog.c): no shell, no /etc."""
    return _image("scratch", SCRATCH_IMAGE, docker_client)


class PrivateEngine:
    """A second engine for one test to kill, restart and starve. Its containers and images are its own; no internet."""

    def __init__(self, directory: Path, name: str, *, live_restore: bool = True) -> None:
        self.name = name
        self.live_restore = live_restore
        self._directory = directory
        # A unix socket's path has to fit in 107 bytes, which a pytest directory may not leave room for.
        self._exec_root = Path("/run") / f"remote-env-{name}"
        self.socket = self._exec_root / "docker.sock"

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def _script(self, command: str, *more: str) -> str:
        places: list[str | Path] = ["--root", self._directory, "--exec-root", self._exec_root, "--socket", self.socket]
        return _run(ENGINE_SCRIPT, command, "--name", self.name, *places, *more)

    def start(self) -> None:
        """Starts it, or does nothing when it runs; returns once it answers."""
        self._script("start", *([] if self.live_restore else ["--no-live-restore"]))

    def pid(self) -> int:
        """The pid of its dockerd, which has to run."""
        pid = self._status()["pid"]
        assert pid is not None, f"the private engine {self.name} does not run"
        return int(pid)

    def _status(self) -> dict[str, Any]:
        command: list[str | Path] = [ENGINE_SCRIPT, "status", "--json", "--name", self.name, "--socket", self.socket]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def kill(self) -> None:
        """SIGKILL to its dockerd, as a crash would. Its containers go on where live-restore is on."""
        self._signal(signal.SIGKILL)

    def shut_down(self) -> None:
        """SIGTERM to its dockerd, as an upgrade would; returns once it has ended."""
        self._signal(signal.SIGTERM)

    def pause(self) -> None:
        """Stops it from answering (SIGSTOP): the engine hangs."""
        os.kill(self.pid(), signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it answer again."""
        os.kill(self.pid(), signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        process = os.pidfd_open(self.pid())
        try:
            signal.pidfd_send_signal(process, number)
            # A pidfd becomes readable when its process ends.
            _wait_readable(process, seconds=60.0)
        finally:
            os.close(process)

    def load(self, image: str, source: docker.DockerClient) -> str:
        """Copies an image from another engine into this one; its tag."""
        client = self.client()
        try:
            client.images.load(b"".join(source.images.get(image).save(named=True)))
        finally:
            client.close()
        return image

    def client(self) -> docker.DockerClient:
        """A client of this engine, to be closed by the caller."""
        return docker.DockerClient(base_url=self.host)

    def remove(self) -> None:
        """Ends it with all its containers, whatever state it is in, and removes every trace."""
        pid = self._status()["pid"]
        if pid is not None:
            os.kill(pid, signal.SIGCONT)
        self._script("stop", "--purge")


def _wait_readable(descriptor: int, *, seconds: float) -> None:
    ready, _, _ = select.select([descriptor], [], [], seconds)
    assert ready, f"the process did not end within {seconds} s"


@pytest.fixture
def private_engine(docker_host: str, tmp_path: Path) -> Iterator[PrivateEngine]:
    """A running private engine with live-restore; gone after the test."""
    yield from _private_engine(tmp_path, live_restore=True)


@pytest.fixture
def private_engine_without_live_restore(docker_host: str, tmp_path: Path) -> Iterator[PrivateEngine]:
    """A running private engine whose containers end when it starts again; gone after the test."""
    yield from _private_engine(tmp_path, live_restore=False)


def _private_engine(directory: Path, *, live_restore: bool) -> Iterator[PrivateEngine]:
    if os.geteuid() != 0:
        skip_unless_ci("a private engine needs root")
    engine = PrivateEngine(directory / "engine", f"test-{uuid.uuid4().hex[:8]}", live_restore=live_restore)
    try:
        engine.start()
        yield engine
    finally:
        engine.remove()
