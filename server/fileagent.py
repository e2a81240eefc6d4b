"""One file agent: a process of a sandbox with one user's identity, which does for us what only a process in there can do,
find and open files (see `init/files.h`). Requests are pipelined; what it says and passes is untrusted."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from server.descriptors import close_all, receive
from server.filemessages import Entry, Flag, Operation, Reply, ReplyFlag, parse, request
from server.filesystems import is_made_up
from server.messages import PACKET_LIMIT, BadMessage

log = logging.getLogger("server.fileagent")

ANSWER_S = 25.0  # seconds for an answer; a hung agent ends itself after 20
_PACKETS_AT_ONCE = 32
_DESCRIPTOR = (Operation.OPEN, Operation.CREATE)
_HANDLE = (Operation.DIRECTORY, Operation.CREATE)
_ENTRIES = {Operation.NEXT: 65536, Operation.EMPTY: 65536, Operation.CREATE: 0, Operation.REMOVE: 0, Operation.CLOSE: 0,
            Operation.SYMLINK: 0, Operation.LINK: 0, Operation.SET: 0, Operation.REMOVE_TREE: 0}  # fmt: skip


class AgentError(Exception):
    """The sandbox's kernel, or the agent, says no.

    Args:
        number: an errno, or `filemessages.NOT_REGULAR`.
    """

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


class AgentLost(Exception):
    """The agent is gone or does not answer: whether it did what was asked is unknown."""


@dataclass(frozen=True)
class Answer:
    """What an operation brought. `fd` is the caller's, -1 where it brings none."""

    handle: int
    flags: ReplyFlag
    entries: tuple[Entry, ...]
    fd: int

    @property
    def entry(self) -> Entry:
        return self.entries[0]


class _Pending(NamedTuple):
    operation: Operation
    future: asyncio.Future[Answer]
    timer: asyncio.TimerHandle | None


class FileAgent:
    """The socket of one agent.

    Args:
        sock: connected, SOCK_SEQPACKET; the agent's from here on.
        on_end: called once when it is over.
    """

    def __init__(self, sock: socket.socket, on_end: Callable[[], None] = lambda: None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, _Pending] = {}
        self._outbox: deque[bytes] = deque()
        self._number = 0
        self._writes: asyncio.Future[bool] | None = None
        self.open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    async def ask(
        self, operation: Operation, path: bytes = b"", *, flags: int = 0, handle: int = 0, mode: int = 0, mtime_ns: int | None = None,
        other: bytes = b"",
    ) -> Answer:  # fmt: skip
        """Have something done, and wait for it; see `begin`. Raises AgentError, AgentLost."""
        future = self.begin(operation, path, flags=flags, handle=handle, mode=mode, mtime_ns=mtime_ns, other=other)
        try:
            return await future
        except asyncio.CancelledError:
            self._let_go(future)
            raise

    def begin(
        self, operation: Operation, path: bytes = b"", *, flags: int = 0, handle: int = 0, mode: int = 0, mtime_ns: int | None = None,
        other: bytes = b"", content: bytes = b"",
    ) -> asyncio.Future[Answer]:  # fmt: skip
        """Have something done, behind what was begun before. What brings a descriptor or a handle is to be asked for, not begun.

        Args:
            path: absolute, or with Flag.BENEATH relative to the handle's directory.
            flags: of `filemessages.Flag`.
            mtime_ns: to be set; since 1970.

        Returns: what becomes of it: its Answer, AgentError or AgentLost.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()
        if not self.open:
            future.set_exception(AgentLost("the file agent is gone"))
            return future
        self._number = self._number % 0xFFFFFFFF + 1
        number = self._number
        if mtime_ns is not None:
            flags |= Flag.MTIME
        try:
            packet = request(number, operation, flags, handle, mode, mtime_ns or 0, path, other, content)
        except ValueError:
            future.set_exception(AgentError(errno.ENAMETOOLONG if b"\0" not in path + other else errno.EINVAL))
            return future
        timer = self._loop.call_later(ANSWER_S, self.close, "the file agent does not answer; is the sandbox paused?")
        self._pending[number] = _Pending(operation, future, timer)
        self._send(packet)
        return future

    async def writes(self) -> bool:
        """Whether it knows WRITE, and what came with it. Those of sandboxes that an older server has made do not."""
        if self._writes is None:
            self._writes = self._loop.create_task(self._find_out())
        return await asyncio.shield(self._writes)

    async def _find_out(self) -> bool:
        try:
            await self.ask(Operation.WRITE)  # without a path it does nothing
        except AgentError as error:
            return error.number != errno.ENOSYS
        raise AgentLost("the file agent broke the format")

    def _let_go(self, future: asyncio.Future[Answer]) -> None:
        """Of what was answered in the same moment as whoever asked was cancelled."""
        if future.done() and not future.cancelled() and future.exception() is None:
            answer = future.result()
            if answer.fd >= 0:
                os.close(answer.fd)
            if answer.handle:
                self.release(answer.handle)

    def release(self, handle: int) -> None:
        """Close a handle, and remove the unfinished file that it may stand for; without waiting."""
        if self.open:
            self._number = self._number % 0xFFFFFFFF + 1
            self._pending[self._number] = _Pending(Operation.CLOSE, self._forgotten(), None)
            self._send(request(self._number, Operation.CLOSE, handle=handle))

    def _forgotten(self) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = self._loop.create_future()
        future.cancel()
        return future

    def _send(self, packet: bytes) -> None:
        if self._outbox:
            self._outbox.append(packet)
            return
        try:
            self._sock.send(packet)
        except BlockingIOError:
            self._outbox.append(packet)
            self._loop.add_writer(self._sock.fileno(), self._writable)
        except OSError as error:
            self.close(f"the file agent is gone: {error.strerror}")

    def _writable(self) -> None:
        while self._outbox:
            try:
                self._sock.send(self._outbox[0])
            except BlockingIOError:
                return
            except OSError as error:
                self.close(f"the file agent is gone: {error.strerror}")
                return
            self._outbox.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            if not self.open:
                return
            try:
                data, fds, flags = receive(self._sock, PACKET_LIMIT, 1)
            except BlockingIOError:
                return
            except OSError as error:
                self.close(f"the file agent is gone: {error.strerror}")
                return
            try:
                if not data:
                    self.close("the file agent is gone")
                    return
                if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                    raise BadMessage("a packet was cut")
                self._reply(parse(data), fds)
            except BadMessage as error:
                log.warning("a file agent broke the format: %s", error)
                self.close("the file agent broke the format")
            finally:
                close_all(fds)

    def _reply(self, reply: Reply, fds: list[int]) -> None:
        """Take a reply. A descriptor that is taken over is removed from `fds`."""
        pending = self._pending.get(reply.number)  # stays until the reply is found to be one
        if pending is None:
            raise BadMessage("a reply to nothing")
        operation, future, timer = pending
        if reply.error:
            if fds:
                raise BadMessage("an error came with a descriptor")
            self._answered(reply.number, timer)
            if not future.done():
                future.set_exception(AgentError(reply.error))
            return
        if (reply.handle != 0) != (operation in _HANDLE) or len(fds) != (operation in _DESCRIPTOR):
            raise BadMessage(f"a reply to {operation.name} with a handle or a descriptor too many or too few")
        if not self._entries_fit(operation, reply.entries):
            raise BadMessage(f"a reply to {operation.name} with {len(reply.entries)} entries")
        if fds:
            _check_passed(fds[0], operation)
        self._answered(reply.number, timer)
        unnamed = reply.flags & ReplyFlag.UNNAMED
        if (
            operation is Operation.CREATE and not unnamed and not os.fstat(fds[0]).st_nlink
        ):  # somebody removed it already, as `rm -r` beside us does
            self.release(reply.handle)
            if not future.done():
                future.set_exception(AgentError(errno.ENOENT))
            return
        if future.done():  # whoever asked has gone away
            if reply.handle:
                self.release(reply.handle)
            return
        future.set_result(Answer(reply.handle, reply.flags, reply.entries, fds.pop() if fds else -1))

    def _answered(self, number: int, timer: asyncio.TimerHandle | None) -> None:
        del self._pending[number]
        if timer is not None:
            timer.cancel()

    @staticmethod
    def _entries_fit(operation: Operation, entries: tuple[Entry, ...]) -> bool:
        most = _ENTRIES.get(operation, 1)
        named = operation in (Operation.NEXT, Operation.EMPTY)
        return (len(entries) <= most if most != 1 else len(entries) == 1) and all(bool(entry.name) == named for entry in entries)

    def close(self, why: str = "the file agent was let go") -> None:
        """End it: what is unfinished fails with AgentLost, and the agent removes what it had not finished."""
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        pending, self._pending = self._pending, {}
        for each in pending.values():
            if each.timer is not None:
                each.timer.cancel()
            if not each.future.done():
                each.future.set_exception(AgentLost(why))
        self._on_end()


def _check_passed(fd: int, operation: Operation) -> None:
    """A descriptor from a sandbox is used only for what it must be: a regular file with contents of its own, since reading what
    the kernel makes up would be done with our rights, and could block."""
    status, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
    if not stat.S_ISREG(status.st_mode) or flags & os.O_PATH or is_made_up(fd):
        raise BadMessage("a descriptor of another kind than a regular file's")
    if operation is Operation.CREATE:
        if flags & os.O_ACCMODE != os.O_RDWR or status.st_size or status.st_nlink > 1:
            raise BadMessage("a new file that is not new")
    elif flags & os.O_ACCMODE == os.O_WRONLY:
        raise BadMessage("a file that cannot be read")
