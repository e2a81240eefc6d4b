"""The file agents that are kept: one for each sandbox and user while there is work for it, and a little longer."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from server.fileagent import AgentLost, FileAgent
from server.initage import made_before
from server.live import LiveSandbox
from server.problems import ProblemError

log = logging.getLogger("server.fileagents")

FILES_SINCE = 3  # the link version that brought them
_IDLE_S = 30.0  # seconds without work after which an agent is let go
_KEPT = 256  # agents in all
_AT_ONCE = 48  # requests by one agent; each needs a few of its 256 handles
_REACH_S = 20.0  # seconds for an init to come back and to start an agent
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class _Key(NamedTuple):
    sandbox_id: str
    user: str


class _Kept:
    """An agent and those who use it, or wait for it."""

    def __init__(self) -> None:
        self.agent: FileAgent | None = None
        self.ready = asyncio.Lock()
        self.places = asyncio.Semaphore(_AT_ONCE)
        self.users = 0
        self.idle: asyncio.TimerHandle | None = None


Connect = Callable[[LiveSandbox, str], Awaitable[int]]


async def through_link(sandbox: LiveSandbox, user: str) -> int:
    """Have the sandbox's init start an agent; waits for its link. Returns the agent's socket. Raises OSError with the init's errno,
    ConnectionError where the link breaks meanwhile."""
    while sandbox.link is None:
        await sandbox.linked.wait()
    return await sandbox.link.files(user)


class FileAgents:
    """
    Args:
        connect: starts an agent; as `through_link`.
    """

    def __init__(self, connect: Connect = through_link) -> None:
        self._connect = connect
        self._kept: dict[_Key, _Kept] = {}

    @asynccontextmanager
    async def use(self, sandbox: LiveSandbox, user: str) -> AsyncIterator[FileAgent]:
        """The agent for this sandbox and user. Raises ProblemError: `sandbox_full`, `capacity`, `file_agent_failed`,
        `invalid` for a user that there is not."""
        if sandbox.link_version < FILES_SINCE:
            raise made_before("files", sandbox.id)
        key = _Key(sandbox.id, user)
        kept = self._take(key)
        try:
            async with kept.places:
                async with kept.ready:
                    if kept.agent is None or not kept.agent.open:
                        kept.agent = await self._start(sandbox, user)
                try:
                    yield kept.agent
                except AgentLost as error:
                    raise ProblemError("file_agent_failed", f"sandbox {sandbox.id}: {error}", id=sandbox.id) from None
        finally:
            self._give_back(key, kept)

    def _take(self, key: _Key) -> _Kept:
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= _KEPT:
                self._make_room()
            kept = self._kept[key] = _Kept()
        kept.users += 1
        if kept.idle is not None:
            kept.idle.cancel()
            kept.idle = None
        return kept

    def _give_back(self, key: _Key, kept: _Kept) -> None:
        kept.users -= 1
        if not kept.users:
            if kept.agent is None or not kept.agent.open:
                self._let_go(key, kept)
            else:
                kept.idle = asyncio.get_running_loop().call_later(_IDLE_S, self._let_go, key, kept)

    def _let_go(self, key: _Key, kept: _Kept) -> None:
        if self._kept.get(key) is kept:
            del self._kept[key]
        if kept.idle is not None:
            kept.idle.cancel()
        if kept.agent is not None:
            kept.agent.close()

    def _make_room(self) -> None:
        """The agent that has been idle longest goes: it stands first, as timers are of one length."""
        idle = [(kept.idle.when(), key) for key, kept in self._kept.items() if kept.idle is not None]
        if not idle:
            raise ProblemError("capacity", f"{_KEPT} users' files are being worked on", retry_after_s=1.0)
        _, key = min(idle)
        self._let_go(key, self._kept[key])

    async def _start(self, sandbox: LiveSandbox, user: str) -> FileAgent:
        try:
            fd = await asyncio.wait_for(self._connect(sandbox, user), _REACH_S)
        except (asyncio.TimeoutError, ConnectionError):
            detail = f"sandbox {sandbox.id} does not answer; is it paused?"
            raise ProblemError("file_agent_failed", detail, id=sandbox.id) from None
        except OSError as error:
            raise _not_started(error, sandbox, user) from None
        agent = FileAgent(socket.socket(fileno=fd))
        log.debug("file agent started", extra={"sandbox_id": sandbox.id})
        return agent

    def close(self) -> None:
        """Let go of all."""
        for key, kept in list(self._kept.items()):
            self._let_go(key, kept)


def _not_started(error: OSError, sandbox: LiveSandbox, user: str) -> ProblemError:
    if error.errno in _NO_ROOM:
        detail = f"sandbox {sandbox.id} has no room for a process to open files with: {os.strerror(error.errno)}"
        return ProblemError("sandbox_full", detail, retry_after_s=1.0, id=sandbox.id)
    if error.errno == errno.ENOENT:
        return ProblemError("invalid", f"user: {user!r} is no user of sandbox {sandbox.id}", id=sandbox.id)
    detail = f"sandbox {sandbox.id} cannot open files as {user or 'root'}: {error.strerror}"
    return ProblemError("file_agent_failed", detail, id=sandbox.id)
