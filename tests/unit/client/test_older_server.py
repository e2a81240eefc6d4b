"""A server that is older than the client: what it has no route for is told as that, and no sandbox is given up for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remote_env import Client, ProtocolMismatch, Sandbox
from remote_env.problems import NO_SUCH_ROUTE
from remote_env.protocol import Problem
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import TOKEN, FakeServer, Fault

NO_ROUTE = Problem.of("not_found", f"GET /v1/something {NO_SUCH_ROUTE}")
UNKNOWN = Fault(answer=(404, {"X-Remote-Env-Protocol": "1"}, NO_ROUTE.model_dump_json().encode()))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as made:
        yield made


@pytest.fixture
def sandbox(server: FakeServer) -> Iterator[Sandbox]:
    with Client(server.url, TOKEN, timings=FAST) as client:
        yield client.create_sandbox("image")


@pytest.mark.parametrize(
    "call",
    [
        lambda sandbox, here: sandbox.read_bytes("/etc/os-release"),
        lambda sandbox, here: sandbox.write("/f", b"content"),
        lambda sandbox, here: sandbox.stat("/f"),
        lambda sandbox, here: sandbox.remove("/f"),
        lambda sandbox, here: sandbox.make_directory("/d"),
        lambda sandbox, here: sandbox.download("/d", here / "d"),
        lambda sandbox, here: sandbox.diff(),
        lambda sandbox, here: sandbox.snapshot("image:tag"),
    ],
    ids=["read", "write", "stat", "remove", "make_directory", "download", "diff", "snapshot"],
)
def test_missing_route_is_no_missing_sandbox(
    server: FakeServer, sandbox: Sandbox, tmp_path: Path, call: Callable[[Sandbox, Path], object]
) -> None:
    for method in ("GET", "PUT", "POST", "DELETE"):
        server.on(method, r"/(files|files/directory|diff|snapshot)$", UNKNOWN)
    with pytest.raises(ProtocolMismatch, match="older than this client"):
        call(sandbox, tmp_path)
    assert sandbox.gone is None
    assert sandbox.run("true").returncode == 0
