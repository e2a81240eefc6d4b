from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from remote_env.cli.main import main
from remote_env.protocol import Outcome
from tests.unit.client.fakeserver import TOKEN, FakeServer

ROOT = Path(__file__).parents[3]

# Whoever runs the tests may have been started with SIGINT ignored, as jobs in the background are.
_AS_FROM_A_TERMINAL = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from remote_env.cli.main import main; main()"
)


@dataclass(frozen=True)
class Done:
    """What an invocation left: its exit code and what it wrote."""

    code: int
    out: bytes
    err: str


Cli = Callable[..., Done]
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no server of the machine's reaches the command line."""
    for name in [name for name in os.environ if name.startswith("REMOTE_ENV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REMOTE_ENV_SERVER_DATA_DIR", str(tmp_path / "no-server-here"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine-here")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A server that `cli` and `spawn` talk to."""
    with FakeServer() as server:
        monkeypatch.setenv("REMOTE_ENV_URL", server.url)
        monkeypatch.setenv("REMOTE_ENV_TOKEN", TOKEN)
        yield server


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """Runs `remote-env WORDS…` in this process."""

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["remote-env", *words])
        capfdbinary.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as left:
            code = left.code
        out, err = capfdbinary.readouterr()
        assert isinstance(code, int)
        return Done(code, out, err.decode())

    return run


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts `remote-env WORDS…` as a process of its own, its three streams being pipes."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _AS_FROM_A_TERMINAL, *words]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def ends_as(fake: FakeServer) -> Iterator[Callable[..., None]]:
    """Has the next `hang` end with this outcome and output, once it has started."""
    threads: list[threading.Thread] = []

    def arrange(outcome: Outcome, output: bytes = b"") -> None:
        def finish() -> None:
            fake.wait_until(lambda: any(not kept.record.over for kept in fake.executions.values()))
            [running] = [id for id, kept in fake.executions.items() if not kept.record.over]
            fake.finish(running, outcome, output)

        threads.append(threading.Thread(target=finish))
        threads[-1].start()

    yield arrange
    for thread in threads:
        thread.join()
