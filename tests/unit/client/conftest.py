from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from remote_env import Client, Sandbox, Timings
from tests.unit.client.faces import LoopClient
from tests.unit.client.fakeserver import TOKEN, FakeServer

FAST = replace(
    Timings(),
    retry_first_s=0.001,
    retry_most_s=0.02,
    poll_slice_s=0.1,
    first_contact_s=0.05,
    rebuild_s=0.001,
    farewell_s=2.0,
    first_beat_s=10.0,
)
"""As in production, but what is waited out is short. Budgets stay long: a slow machine must not spend them."""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """No variable of the machine's reaches the client."""
    for name in ("URL", "TOKEN", "TOKEN_FILE", "CA_FILE", "FINGERPRINT", "DEBUG"):
        monkeypatch.delenv(f"REMOTE_ENV_{name}", raising=False)
    monkeypatch.setenv("REMOTE_ENV_SERVER_DATA_DIR", f"{tmp_path}/no-server-here")


FACES = {"threads": Client, "asyncio": LoopClient}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if getattr(metafunc.module, "BOTH_FACES", False):
        faces = ["threads"] if hasattr(metafunc.function, "threads_only") else FACES
        metafunc.parametrize("face", faces, indirect=True)


@pytest.fixture(autouse=True)
def face(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    """The `Client` of a test: of threads, or of asyncio behind the same names, where its module is about both."""
    chosen: Any = FACES[getattr(request, "param", "threads")]
    if hasattr(request.module, "Client"):
        monkeypatch.setattr(request.module, "Client", chosen)
    return chosen


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(fake: FakeServer, face: type[Client]) -> Iterator[Client]:
    with face(fake.url, TOKEN, timings=FAST) as made:
        yield made


@pytest.fixture
def sandbox(client: Client) -> Sandbox:
    return client.create_sandbox("image")
