"""The file agent without a container, alone and behind the real routes. As root it has a root directory of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.fileagent import FileAgent
from tests.files.agents import AgentProcess, build
from tests.support.building import one_at_a_time
from tests.unit.server.harness import RunningServer

Start = Callable[..., AgentProcess]


@pytest.fixture(scope="session")
def agent_binary(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    directory = tmp_path_factory.getbasetemp().parent / f"agent-{testrun_uid}"
    with one_at_a_time(directory / "lock"):
        return build(directory)


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a process another root directory")


@pytest.fixture
def root(tmp_path: Path, as_root: None) -> Path:
    """The root directory of the sandbox that is none."""
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture
def start_agent(agent_binary: Path) -> Iterator[Start]:
    """Starts agents: `start_agent(root, user)`; all are ended, and checked, after the test."""
    started: list[AgentProcess] = []

    def start(root: Path | None = None, user: int | None = None) -> AgentProcess:
        started.append(AgentProcess(agent_binary, root, user))
        return started[-1]

    yield start
    for agent in started:
        assert agent.close() == 0


@pytest.fixture
def server(root: Path, start_agent: Start) -> Iterator[RunningServer]:
    """The real routes; the files of their one sandbox are those below `root`, as root may see them."""
    running = RunningServer()
    process = start_agent(root)
    agents: list[FileAgent] = []

    @asynccontextmanager
    async def agent() -> AsyncIterator[FileAgent]:
        if not agents:
            agents.append(FileAgent(process.socket))
        yield agents[0]

    running.services.file_agent = agent
    yield running
    running.stop()
