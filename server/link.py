"""The link: one `SOCK_SEQPACKET` unix socket for each sandbox, on which its init connects.

Requests go one way, endings the other, descriptors both ways. What arrives is untrusted: who connects is told by
SO_PEERCRED (or by the secret of the first hello, where the peer's pid is hidden from our pid namespace), what it says is
parsed strictly, and the first packet that does not follow the format ends the link. The init comes back with a hello.

The directory that is mounted into a sandbox is never replaced, since the sandbox would keep the dead inode: the socket is
bound under another name in it and renamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from server import messages
from server.agentrequests import AgentRequests
from server.descriptors import close_all, is_read_end, memfd, read_body, receive
from server.failpoints import failpoint
from server.messages import BadMessage, FilesReady, FromInit, Hello, Pipes, Run, RunFlag, Started, Type

log = logging.getLogger("server.link")

SOCKET_NAME = "server.sock"
SUPPORTED_VERSIONS = frozenset({1, 2, messages.LINK_VERSION})
"""Link versions that this server speaks: its own, and those of inits that were started by servers before it."""

_STRANGERS = 4  # connections at once that have not said hello yet
_ACCEPT_PAUSE_S = 1.0  # seconds without descriptors to spare
_STRANGER_PAUSE_S = 0.05
_HELLO_S = 10.0  # seconds for a connection to say hello
_PACKETS_AT_ONCE = 64  # read from one link before others get their turn
_RETRY_S = 0.02  # seconds after ETOOMANYREFS: descriptors in flight are over the user's limit (unix(7))
_MAX_FDS = messages.PIPES_PER_PACKET
_PEERCRED = struct.Struct("3i")


class Owner(Protocol):
    """What a link reports to: its sandbox. All calls come on the event loop."""

    def expected_pid(self) -> int | None:
        """The container's State.Pid; None while it is not known."""

    def known_secret(self) -> bytes | None:
        """The secret of the first hello, once there was one."""

    def on_hello(self, link: Link, hello: Hello, pipes: dict[str, tuple[int, ...]]) -> None:
        """`pipes`: id → read ends, which are the owner's from here on."""

    def on_message(self, link: Link, message: FromInit, pipes: tuple[int, ...]) -> None:
        """`pipes`: the read ends that came with it, the owner's from here on."""

    def on_ready(self, link: Link) -> None: ...

    def on_down(self, link: Link) -> None: ...

    def on_stranger(self, pid: int) -> None:
        """Something connected that is not the init that the journal knows."""


def peer_pid(sock: socket.socket) -> int:
    """Who connected (unix(7), SO_PEERCRED), by its pid in our namespace."""
    return int(_PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))[0])


class Link:
    """One connection of one init."""

    def __init__(self, sock: socket.socket, owner: Owner, gone: Callable[[Link], None]) -> None:
        self._sock = sock
        self._owner = owner
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[bytes] = deque()
        self._acks: list[bytes] = []
        self._hello: Hello | None = None
        self._pipes: dict[str, tuple[int, ...]] = {}
        self._expecting = 0
        self._agents = AgentRequests()
        self._writing = False
        self.version = 0
        self.open = True
        self.welcomed = False
        self._pid = peer_pid(sock)
        self._deadline = self._loop.call_later(_HELLO_S, self.close, "no hello came")
        self._loop.add_reader(sock.fileno(), self._readable)

    # ---------------------------------------------------------------------------------------------- sending

    @property
    def ready(self) -> bool:
        """A run may be sent now: everything before it has left (ORDER)."""
        return self.open and self.welcomed and not self._outbox and not self._writing

    def send(self, packet: bytes) -> None:
        """Send a message without descriptors, in order, as soon as the init reads. Few and small: bounded by the number
        of executions."""
        if not self.open:
            return
        self._send_acks()
        if self._outbox or self._writing or not self._try(packet, ()):
            self._outbox.append(packet)

    def ack(self, id_: str) -> None:
        """Let the init forget this ending: when what is ready to run now has run, or before the next packet. Whoever waits for the
        result goes first."""
        if not self._acks:
            self._loop.call_soon(self._send_acks)
        self._acks.append(messages.ack(id_))

    def _send_acks(self) -> None:
        if self._acks:
            acks, self._acks = self._acks, []
            for packet in acks:
                self.send(packet)
                failpoint("after_ack")

    def welcome(self, orphan_ms: int) -> None:
        """Accept the hello; from here on the link is ready for runs."""
        self.send(messages.welcome(orphan_ms))
        self.welcomed = True

    def send_run(self, run: Run, stdin: bytes | None) -> bool:
        """Send a run. False: not now; `on_ready` will be called, try again then (its place is kept by the caller)."""
        self._send_acks()
        if not self.ready:
            return False
        body = messages.run_body(run, self.version)
        fds: list[int] = []
        try:
            if len(body) > messages.PACKET_LIMIT - 8:
                fds.append(memfd("run", body))
                packet = messages.large_packet(Type.RUN, len(body))
            else:
                packet = messages.packet(Type.RUN, body)
            if run.flags & RunFlag.STDIN:
                fds.append(memfd("stdin", stdin or b""))
            return self._try(packet, fds)
        except OSError as error:  # no descriptor or no memory to be had just now
            log.warning("link of pid %s: a run has to wait: %s", self._pid, error)
            self._retry_soon()
            return False
        finally:
            close_all(fds)

    async def files(self, user: str) -> int:
        """A socket to a new file agent with this user's identity in the sandbox, the caller's. Raises OSError with the reason
        (ENOSYS: an init before there were any), ConnectionError where link or agent end meanwhile."""
        if not self.open or not self.welcomed:
            raise ConnectionError("the link to the init is not there")
        if self.version < messages.SESSIONS_SINCE:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return await self._agents.ask(self.send, user)

    def _try(self, packet: bytes, fds: Sequence[int]) -> bool:
        try:
            if fds:
                socket.send_fds(self._sock, [packet], fds)
            else:
                self._sock.send(packet)
            return True
        except BlockingIOError:
            self._wait_writable()
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                self._retry_soon()
            # Anything else: the link is broken. What can still be read from it is read; its end closes it.
            elif error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                log.warning("link of pid %s: cannot send: %s", self._pid, error)
                self.close("cannot send")
        return False

    def _wait_writable(self) -> None:
        self._writing = True
        self._loop.add_writer(self._sock.fileno(), self._writable)

    def _retry_soon(self) -> None:
        self._writing = True
        self._loop.call_later(_RETRY_S, self._writable)

    def _writable(self) -> None:
        if not self.open:
            return
        self._loop.remove_writer(self._sock.fileno())
        self._writing = False
        while self._outbox:
            if not self._try(self._outbox[0], ()):
                return
            self._outbox.popleft()
        if self.welcomed:
            self._owner.on_ready(self)

    # -------------------------------------------------------------------------------------------- receiving

    def _readable(self) -> None:
        self.read(_PACKETS_AT_ONCE)

    def read(self, most: int) -> None:
        """Read up to `most` packets. A dead init's last words come after an ECONNRESET: read on until the end."""
        for _ in range(most):
            if not self.open:
                return
            try:
                data, fds, flags = receive(self._sock, messages.PACKET_LIMIT, _MAX_FDS)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue
            except OSError as error:
                self.close(f"cannot read: {error.strerror}")
                return
            if not data:
                close_all(fds)
                self.close("its other end closed it")
                return
            try:
                if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                    close_all(fds)
                    raise BadMessage("a packet was cut")
                self._packet(data, list(fds))
            except BadMessage as error:
                log.warning("link of pid %s: %s", self._pid, error)
                self.close("it broke the format")

    def _packet(self, data: bytes, fds: list[int]) -> None:
        try:
            type_, large, length = messages.header(data)
            if large:
                if not fds:
                    raise BadMessage("a large message came without its descriptor")
                body = read_body(fds.pop(0), length)
            else:
                body = messages.packet_body(data)
            message = messages.parse(type_, body)
            agent = isinstance(message, FilesReady)
            if not agent and (len(fds) not in self._read_ends(message) or not all(map(is_read_end, fds))):
                raise BadMessage(f"{type_.name} came with {len(fds)} descriptors, or with others than pipes")
            self._message(message, fds)
        finally:
            close_all(fds)

    @property
    def _streams_most(self) -> int:
        """Read ends of one execution: version 1 knows of no stderr apart."""
        return 1 if self.version < messages.SPLIT_SINCE else 2

    def _read_ends(self, message: FromInit) -> range:
        """How many may come with this message."""
        if isinstance(message, Pipes):
            return range(len(message.ids), len(message.ids) + 1)
        return range(1, self._streams_most + 1) if isinstance(message, Started) else range(1)

    def _message(self, message: FromInit, fds: list[int]) -> None:
        """Take a message. Descriptors that are taken over are removed from `fds`."""
        if isinstance(message, Hello):
            if self._hello is not None:
                raise BadMessage("a second hello")
            self._identify(message)
            self._hello = message
            self._expecting = message.pipes
        elif self._hello is None:
            raise BadMessage(f"{type(message).__name__} came before the hello")
        elif isinstance(message, Pipes):
            if self._expecting < len(message.ids) or self.welcomed:
                raise BadMessage("more read ends than announced")
            self._expecting -= len(message.ids)
            for id_, same in itertools.groupby(message.ids):
                count = len(list(same))
                if id_ in self._pipes or count > self._streams_most:
                    raise BadMessage("too many read ends for one id")
                self._pipes[id_] = tuple(fds[:count])
                del fds[:count]
        else:
            if not self.welcomed:
                raise BadMessage(f"{type(message).__name__} came before the welcome")
            if isinstance(message, FilesReady):
                self._agents.answer(message, fds)
                return
            read_ends = tuple(fds)
            fds.clear()
            self._owner.on_message(self, message, read_ends)
            return
        if not self._expecting:
            self._deadline.cancel()
            failpoint("after_hello_read")
            pipes, self._pipes = self._pipes, {}
            self._owner.on_hello(self, self._hello, pipes)

    def _identify(self, hello: Hello) -> None:
        secret = self._owner.known_secret()
        if secret is not None and hello.secret != secret:
            pid = self._pid
            self.close("it is not the init of this sandbox")
            self._owner.on_stranger(pid)
            raise BadMessage("a stranger")
        if hello.version not in SUPPORTED_VERSIONS:
            raise BadMessage(f"its init speaks link version {hello.version}; this server speaks {sorted(SUPPORTED_VERSIONS)}")
        self.version = hello.version

    def close(self, why: str) -> None:
        """End this link; the init will connect again. Nothing is lost: what it holds is in its next hello."""
        if not self.open:
            return
        self.open = False
        self._deadline.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        close_all([fd for pipes in self._pipes.values() for fd in pipes])
        self._pipes = {}
        self._agents.fail()
        log.debug("link of pid %s closed: %s", self._pid, why)
        self._gone(self)
        if self.welcomed:
            self._owner.on_down(self)


class Listener:
    """The socket of one sandbox, and the connections that came to it.

    Args:
        directory: what is mounted into the sandbox; stays the same inode for the sandbox's life.
        owner: told of hellos and messages.
    """

    def __init__(self, directory: Path, owner: Owner) -> None:
        self._owner = owner
        self._links: set[Link] = set()
        self._loop = asyncio.get_running_loop()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        # Through /proc, since a data directory's path may be longer than the 108 bytes of sun_path (unix(7)).
        at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fresh = f".{os.getpid()}.sock"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=at)
            self._sock.bind(f"/proc/self/fd/{at}/{fresh}")
            # Read by whoever is root in the sandbox, which with remapped users is nobody here. Who it is, is checked.
            os.chmod(f"/proc/self/fd/{at}/{fresh}", 0o666)
            self._sock.listen(16)
            failpoint("before_socket_rename")
            os.rename(fresh, SOCKET_NAME, src_dir_fd=at, dst_dir_fd=at)
        finally:
            os.close(at)

    def accept(self) -> None:
        """Begin to take connections: from when the init's pid is known."""
        self._loop.add_reader(self._sock.fileno(), self._acceptable)

    def _acceptable(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # No descriptors, say: the connection stays, and would be told of again and again.
            log.error("no connection can be taken: %s; trying again in %s s", error, _ACCEPT_PAUSE_S)
            self._pause(_ACCEPT_PAUSE_S)
            return
        pid, expected = peer_pid(sock), self._owner.expected_pid()
        # A peer outside our pid namespace shows as pid 0 (pid_namespaces(7)): then its hello's secret decides.
        if pid != 0 and expected is not None and pid != expected:
            sock.close()
            self._pause(_STRANGER_PAUSE_S)
            self._owner.on_stranger(pid)
            return
        sock.setblocking(False)
        if sum(not link.welcomed for link in self._links) >= _STRANGERS:
            sock.close()
            return
        self._links.add(Link(sock, self._owner, self._links.discard))

    def _pause(self, seconds: float) -> None:
        """Take no connection for a while: nothing in a sandbox sets the pace of this process."""
        self._loop.remove_reader(self._sock.fileno())
        self._loop.call_later(seconds, self._accept_again)

    def _accept_again(self) -> None:
        if self._sock.fileno() >= 0:
            self.accept()

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        for link in list(self._links):
            link.close("the server ends it")
