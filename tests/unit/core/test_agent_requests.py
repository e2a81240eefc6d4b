"""Requests for file agents: one answer each, a socket that is checked, nothing left open."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct

import pytest

from server import messages
from server.agentrequests import AgentRequests
from server.messages import BadMessage, FilesReady, Type


def agent_socket(greeting: bytes | None = struct.pack("<i", 0), kind: int = socket.SOCK_SEQPACKET) -> int:
    """The server's end of an agent that has said `greeting` and gone."""
    ours, its = socket.socketpair(socket.AF_UNIX, kind)
    with its:
        if greeting is not None:
            its.send(greeting)
    return ours.detach()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def asked(requests: AgentRequests, answer: FilesReady | None, fds: list[int]) -> int:
    sent: list[bytes] = []
    waiting = asyncio.ensure_future(requests.ask(sent.append, "user"))
    await asyncio.sleep(0)
    assert sent == [messages.packet(Type.FILES, struct.pack("<II", 1, 4) + b"user")]
    if answer is None:
        requests.fail()
    else:
        requests.answer(answer, fds)
    return await waiting


def test_answer_is_the_agent_s_socket() -> None:
    fds = [agent_socket()]
    fd = asyncio.run(asked(AgentRequests(), FilesReady(1, 0), fds))
    assert not fds
    assert not os.get_blocking(fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("answer", "greeting", "error"),
    [
        (FilesReady(1, errno.EAGAIN), None, errno.EAGAIN),
        (FilesReady(1, 0), struct.pack("<i", errno.ENOENT), errno.ENOENT),
        (FilesReady(1, 0), b"nonsense", errno.EPROTO),
    ],
)
def test_what_went_wrong_is_told_by_errno_and_no_descriptor_is_left(answer: FilesReady, greeting: bytes | None, error: int) -> None:
    fds = [agent_socket(greeting)] if answer.error == 0 else []
    fd = fds[0] if fds else -1
    with pytest.raises(OSError) as caught:
        asyncio.run(asked(AgentRequests(), answer, fds))
    assert caught.value.errno == error
    assert fd < 0 or not is_open(fd)


def test_end_of_link_or_agent_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError):
        asyncio.run(asked(AgentRequests(), None, []))
    with pytest.raises(ConnectionError):
        asyncio.run(asked(AgentRequests(), FilesReady(1, 0), [agent_socket(None)]))


@pytest.mark.parametrize("kind", ["pipe", "stream", "none", "unasked"])
def test_wrong_descriptor_is_against_the_format_and_stays_the_caller_s_to_close(kind: str) -> None:
    fds = {"pipe": lambda: [os.memfd_create("x")], "stream": lambda: [agent_socket(kind=socket.SOCK_STREAM)]}.get(kind, list)()
    answer = FilesReady(1, errno.EIO) if kind == "unasked" else FilesReady(1, 0)
    if kind == "unasked":
        fds = [agent_socket()]
    fd = fds[0] if fds else -1

    async def answered() -> None:
        requests = AgentRequests()
        waiting = asyncio.ensure_future(requests.ask(lambda _: None, ""))
        await asyncio.sleep(0)
        try:
            with pytest.raises(BadMessage):
                requests.answer(answer, fds)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(answered())
    for left in fds:
        os.close(left)
    assert fd < 0 or not is_open(fd)


def test_agent_that_comes_after_its_caller_has_gone_is_left_to_be_closed() -> None:
    async def gone() -> list[int]:
        requests = AgentRequests()
        waiting = asyncio.ensure_future(requests.ask(lambda _: None, ""))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        fds = [agent_socket()]
        requests.answer(FilesReady(1, 0), fds)
        return fds

    (fd,) = asyncio.run(gone())
    assert is_open(fd)
    os.close(fd)


def test_caller_that_goes_as_the_agent_comes_leaves_nothing_open() -> None:
    async def both() -> int:
        requests = AgentRequests()
        waiting = asyncio.ensure_future(requests.ask(lambda _: None, ""))
        await asyncio.sleep(0)
        fd = agent_socket()
        requests.answer(FilesReady(1, 0), [fd])
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return fd

    assert not is_open(asyncio.run(both()))
