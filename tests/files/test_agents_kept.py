"""One agent for each sandbox and user, while there is work for it; another when it has died."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import pytest

from server.fileagents import FILES_SINCE, FileAgents
from server.filemessages import Operation
from server.live import LiveSandbox
from server.problems import ProblemError
from tests.files.conftest import Start


@dataclass
class Named:
    """As much of a sandbox as an agent needs."""

    id: str
    link_version: int = FILES_SINCE


def sandbox(name: str = "sandbox-a", version: int = FILES_SINCE) -> LiveSandbox:
    return cast(LiveSandbox, Named(name, version))


def connecting(start: Start, started: list[str]) -> Callable[[LiveSandbox, str], Awaitable[int]]:
    async def connect(of: LiveSandbox, user: str) -> int:
        started.append(f"{of.id} {user}")
        return start().socket.detach()

    return connect


def test_agent_serves_many_and_is_made_again_when_it_died(start_agent: Start) -> None:
    started: list[str] = []

    async def scene() -> None:
        agents = FileAgents(connecting(start_agent, started))

        async def look(user: str = "", name: str = "sandbox-a") -> None:
            async with agents.use(sandbox(name), user) as agent:
                await agent.ask(Operation.STAT, b"/")

        await asyncio.gather(*(look() for _ in range(100)))
        assert started == ["sandbox-a "]
        await look("other")
        await look(name="sandbox-b")
        assert started[1:] == ["sandbox-a other", "sandbox-b "]
        async with agents.use(sandbox(), "") as agent:
            agent.close("it died")
        await look()
        assert started[3:] == ["sandbox-a "]
        agents.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EAGAIN, "no process"), "sandbox_full"), (OSError(errno.ENOMEM, "no memory"), "sandbox_full"),
        (OSError(errno.ENOENT, "no user"), "invalid"), (ConnectionResetError(), "file_agent_failed"),
        (OSError(errno.EPERM, "no"), "file_agent_failed"),
    ],
)  # fmt: skip
def test_agent_that_cannot_be_started_is_a_refusal(error: OSError, code: str) -> None:
    async def connect(of: LiveSandbox, user: str) -> int:
        raise error

    async def scene() -> None:
        with pytest.raises(ProblemError) as refused:
            async with FileAgents(connect).use(sandbox(), "somebody"):
                raise AssertionError("there is no agent")
        assert refused.value.problem.code == code

    asyncio.run(scene())


def test_sandbox_of_an_older_server_has_no_files() -> None:
    async def connect(of: LiveSandbox, user: str) -> int:
        raise AssertionError("its init would not understand")

    async def scene() -> None:
        with pytest.raises(ProblemError, match="older server"):
            async with FileAgents(connect).use(sandbox(version=2), ""):
                raise AssertionError("there is no agent")

    asyncio.run(scene())
