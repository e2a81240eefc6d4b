from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server import initbuild
from tests.init.harness import Init, Server
from tests.init.sessions import Session
from tests.support.building import one_at_a_time

PLAIN_SHELLS = [name for name in ("dash", "busybox") if shutil.which(name)]


def _sanitized(*defines: str) -> Path:
    with one_at_a_time(initbuild.BINARIES / ".sanitized.lock"):
        return initbuild.build_sanitized(defines=defines)


@pytest.fixture(scope="session")
def sanitized_binary() -> Path:
    return _sanitized()


@pytest.fixture(scope="session")
def small_table_binary() -> Path:
    return _sanitized("TABLE_SIZE=8")


@pytest.fixture(scope="session")
def plain_binary() -> Path:
    return initbuild.init_path(initbuild.host_arch())


@pytest.fixture
def start_init() -> Iterator[Callable[..., Init]]:
    """Starts inits; all of them are ended, and checked, after the test."""
    started: list[Init] = []

    def start(binary: Path, *options: str, pid_namespace: bool = False, own_count: bool = False) -> Init:
        started.append(Init(binary, *options, pid_namespace=pid_namespace, own_count=own_count))
        return started[-1]

    yield start
    for init in started:
        init.close()


@pytest.fixture
def init(start_init: Callable[..., Init], sanitized_binary: Path) -> Init:
    """A sanitized init with its server connected."""
    init = start_init(sanitized_binary)
    init.server.connect()
    return init


@pytest.fixture
def server(init: Init) -> Server:
    return init.server


@pytest.fixture
def pid_namespaces() -> None:
    if subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode != 0:
        pytest.skip("pid namespaces cannot be made here")


@pytest.fixture
def namespaced(start_init: Callable[..., Init], sanitized_binary: Path, pid_namespaces: None) -> Init:
    """A sanitized init that is PID 1 of a pid namespace of its own."""
    init = start_init(sanitized_binary, pid_namespace=True)
    init.server.connect()
    return init


@pytest.fixture
def counted(start_init: Callable[..., Init], sanitized_binary: Path, pid_namespaces: None) -> Init:
    """As `namespaced`, with a count of OOM kills that the test makes."""
    init = start_init(sanitized_binary, pid_namespace=True, own_count=True)
    init.server.connect()
    return init


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start commands of other users, or look into an init")


@pytest.fixture
def bash(server: Server) -> Session:
    return Session(server)


@pytest.fixture(params=["bash", *PLAIN_SHELLS])
def any_shell(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Session:
    if request.param != "busybox":
        return Session(server, request.param)
    link = tmp_path / "sh"
    link.symlink_to(str(shutil.which("busybox")))
    return Session(server, str(link))
