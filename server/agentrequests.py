"""Requests for file agents over one link: each has a number, and is answered with a socket or an errno."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
from collections.abc import Callable

from server import messages
from server.messages import BadMessage, FilesReady

_GREETING_S = 20.0  # seconds for an agent to become its user; it reads the sandbox's passwd file for that


class AgentRequests:
    """The requests of one link that wait for their answer."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[socket.socket]] = {}

    async def ask(self, send: Callable[[bytes], None], user: str) -> int:
        """The descriptor of a new agent's socket, non-blocking, which is the caller's.

        Raises:
            OSError: with the errno for which there is none: no such user (ENOENT), no process to be had (EAGAIN), an agent that
                says nothing (ETIMEDOUT), …
            ConnectionError: the link closed first, or the agent died at once.
        """
        number = next(self._numbers) & 0xFFFFFFFF
        answer: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        send(messages.files(number, user))
        try:
            agent = await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().close()
            raise
        finally:
            self._waiting.pop(number, None)
        with agent:
            error = await _greeting(agent)
            if error:
                raise OSError(error, os.strerror(error))
            return agent.detach()

    def answer(self, message: FilesReady, fds: list[int]) -> None:
        """What the init said, and what came with it; a descriptor that is taken is removed from `fds`. Raises BadMessage."""
        if (message.error == 0) != (len(fds) == 1):
            raise BadMessage("an agent without its socket, or a socket without its agent")
        waiting = self._waiting.get(message.request)
        if waiting is None or waiting.done():
            return  # whoever asked has gone
        if message.error:
            waiting.set_exception(OSError(message.error, os.strerror(message.error)))
            return
        try:
            agent = socket.socket(fileno=fds[0])
        except OSError:
            raise BadMessage("an agent's descriptor is no socket") from None
        fds.clear()
        if (agent.family, agent.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            agent.close()
            raise BadMessage("an agent's descriptor is no socket of its kind")
        agent.setblocking(False)
        waiting.set_result(agent)

    def fail(self) -> None:
        """The link is closed."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("the link to the init closed"))


async def _greeting(agent: socket.socket) -> int:
    try:
        greeting = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(agent, messages.PACKET_LIMIT), _GREETING_S)
        if greeting:
            return messages.agent_error(greeting)
    except asyncio.TimeoutError:
        return errno.ETIMEDOUT
    except BadMessage:
        return errno.EPROTO
    raise ConnectionError("the file agent ended before it served")
