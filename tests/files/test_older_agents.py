"""Sandboxes that an older server has made: their agents do not know what came later, and everything works as it did."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.fileagent import FileAgent
from server.filemessages import Operation
from tests.files.agents import OlderAgent
from tests.files.conftest import Start
from tests.files.test_routes import ask, put
from tests.files.test_trees import archive, unpack
from tests.unit.server.harness import RunningServer


@pytest.fixture
def older(root: Path, start_agent: Start) -> Iterator[OlderAgent]:
    agent = OlderAgent(start_agent(root))
    yield agent
    agent.close()


@pytest.fixture
def server(older: OlderAgent) -> Iterator[RunningServer]:
    running = RunningServer()
    agents: list[FileAgent] = []

    @asynccontextmanager
    async def agent() -> AsyncIterator[FileAgent]:
        if not agents:
            agents.append(FileAgent(older.socket))
        yield agents[0]

    running.services.file_agent = agent
    yield running
    running.stop()


def test_small_files_are_written_and_replaced(server: RunningServer, root: Path, older: OlderAgent) -> None:
    put(server, "/file", b"first", mode="0640")
    put(server, "/file", b"second")
    assert (root / "file").read_bytes() == b"second"
    assert (root / "file").stat().st_mode & 0o777 == 0o640
    assert older.unknown == [Operation.WRITE]  # asked for once
    assert not older.broken


def test_trees_are_unpacked_and_removed(server: RunningServer, root: Path, older: OlderAgent) -> None:
    names = [f"deep/{number % 7}/file{number}" for number in range(100)]
    assert unpack(server, "/tree", archive(*(("file", name, name) for name in names)), parents="1").status == 200
    assert all((root / "tree" / name).read_text() == name for name in names)
    assert ask(server, "DELETE", "/tree", recursive="1").status == 200
    assert os.listdir(root) == []
    assert not older.broken


def test_what_it_does_not_know_it_says(older: OlderAgent) -> None:
    async def scene() -> None:
        agent = FileAgent(older.socket)
        assert not await agent.writes()
        agent.close()

    asyncio.run(scene())
