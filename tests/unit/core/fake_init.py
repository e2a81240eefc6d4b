"""The other end of a link, in Python: says what a test wants it to say, true or not."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from server import messages
from server.descriptors import close_all
from server.link import SOCKET_NAME, Link
from server.messages import Ending, EndingKind, Entry, FromInit, Hello, Type
from tests.unit.core.wire import body_of

INCARNATION = b"incarnation 0001"
SECRET = b"secret of it 001"
PATIENCE_S = 30.0


def hello(
    highest: int = 0, entries: Sequence[Entry] = (), *, pipes: int = 0, secret: bytes = SECRET, version: int = messages.LINK_VERSION,
    incarnation: bytes = INCARNATION,
) -> Hello:  # fmt: skip
    return Hello(version, incarnation, secret, highest, pipes, tuple(entries))


def exited(code: int = 0, **facts: int) -> Ending:
    return Ending(EndingKind.EXITED, status=code << 8, started_ns=facts.pop("started_ns", 1), ended_ns=2)


class FakeInit:
    """One connection. `heard` reads the server's next packet; sends never wait."""

    def __init__(self, directory: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        at = os.open(directory, os.O_PATH | os.O_CLOEXEC)
        try:
            self.sock.connect(f"/proc/self/fd/{at}/{SOCKET_NAME}")
        finally:
            os.close(at)

    def say(self, message: FromInit, fds: Sequence[int] = ()) -> None:
        """Read ends are handed over: they are closed here."""
        self.send(messages.packet(*body_of(message)), fds)

    def send(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self.sock, [packet], list(fds))
        finally:
            for fd in fds:
                os.close(fd)

    async def heard(self) -> tuple[Type, bytes, list[int]]:
        """(type, body, descriptors) of the next packet; a body in a memory file is still there. EOFError: closed."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, messages.PACKET_LIMIT, 8)
            except ConnectionResetError:
                raise EOFError from None
            except BlockingIOError:
                readable = asyncio.Event()
                loop.add_reader(self.sock, readable.set)
                try:
                    await asyncio.wait_for(readable.wait(), PATIENCE_S)
                finally:
                    loop.remove_reader(self.sock)
                continue
            if not data:
                raise EOFError
            return messages.header(data)[0], messages.packet_body(data), list(fds)

    async def heard_id(self) -> tuple[Type, str]:
        """The next packet's type and the id in it."""
        type_, body, fds = await self.heard()
        for fd in fds:
            os.close(fd)
        at = 8 if type_ in (Type.RUN, Type.SKIP) else 0
        if type_ is Type.WELCOME:
            return type_, ""
        (length,) = struct.unpack_from("<I", body, at)
        return type_, body[at + 4 : at + 4 + length].decode()

    async def closed(self) -> bool:
        """Whether the server ends the link, after whatever it still says."""
        try:
            while True:
                for fd in (await self.heard())[2]:
                    os.close(fd)
        except EOFError:
            return True

    def close(self) -> None:
        self.sock.close()


class Witness:
    """An owner of links that writes down what it is told, and welcomes every hello unless told not to."""

    def __init__(self, pid: int | None, secret: bytes | None = None, welcome: bool = True) -> None:
        self.pid, self.secret, self.welcome = pid, secret, welcome
        self.told: asyncio.Queue[tuple[str, object]] = asyncio.Queue()
        self.pipes: dict[str, tuple[int, ...]] = {}
        self.link: Link | None = None

    async def next(self) -> tuple[str, object]:
        return await asyncio.wait_for(self.told.get(), PATIENCE_S)

    def expected_pid(self) -> int | None:
        return self.pid

    def known_secret(self) -> bytes | None:
        return self.secret

    def on_hello(self, link: Link, hello: Hello, pipes: dict[str, tuple[int, ...]]) -> None:
        self.link, self.pipes = link, pipes
        self.told.put_nowait(("hello", hello))
        if self.welcome:
            link.welcome(1000)

    def on_message(self, link: Link, message: FromInit, pipes: tuple[int, ...]) -> None:
        close_all(pipes)
        self.told.put_nowait(("message", message))

    def on_ready(self, link: Link) -> None:
        self.told.put_nowait(("ready", None))

    def on_down(self, link: Link) -> None:
        self.told.put_nowait(("down", None))

    def on_stranger(self, pid: int) -> None:
        self.told.put_nowait(("stranger", pid))
