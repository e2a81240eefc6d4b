"""File agents as plain processes, without init or container; as root each can have a root directory of its own."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
import threading
from pathlib import Path

from server.filemessages import Operation
from server.initbuild import SOURCES
from server.messages import PACKET_LIMIT

_HEAD = 28  # bytes of a request before its strings
PATIENCE_S = 60.0  # never reached by a healthy agent
MAIN = Path(__file__).with_name("agent_main.c")
_FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
          "-fno-sanitize-recover=all", "-DINIT_SANITIZED")  # fmt: skip


def build(directory: Path) -> Path:
    """The agent's binary, with sanitizers, whole in `directory`. What is there already is taken."""
    binary = directory / "file-agent"
    if binary.exists():
        return binary
    compiler = shutil.which("cc")
    assert compiler is not None, "the tests of the init need a C compiler"
    subprocess.run([compiler, *_FLAGS, "-Dmain=init_main", "-c", *map(str, sorted(SOURCES.glob("*.c")))], cwd=directory, check=True)
    objects = sorted(map(str, directory.glob("*.o")))
    subprocess.run([compiler, *_FLAGS, "-o", str(binary), str(MAIN), *objects], check=True)
    return binary


class AgentProcess:
    """A running agent.

    Args:
        root: its root directory; only root can have that.
        user: uid and gid it runs as, with a root of its own.
    """

    def __init__(self, binary: Path, root: Path | None = None, user: int | None = None) -> None:
        self.binary = binary
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        rest = [str(each) for each in (root, user) if each is not None]
        with theirs:
            argv = [str(binary), str(theirs.fileno()), *rest]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True)

    def close(self) -> int:
        """End it as a server does that goes away. Returns its exit code."""
        self.socket.close()
        return self.process.wait(PATIENCE_S)


class OlderAgent:
    """An agent as inits of before WRITE and REMOVE_TREE have it: between the server and a real one, it knows less.

    Attributes:
        socket: the server's end.
        broken: it was sent something that would have ended an older agent.
    """

    def __init__(self, agent: AgentProcess) -> None:
        self.socket, self._ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._agent = agent.socket
        self.broken = False
        self.unknown: list[int] = []  # operations that it did not know
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._requests, self._replies)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """As the server's end goes: the agent is told, and has ended when this returns."""
        self.socket.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _requests(self) -> None:
        while packet := self._ours.recv(PACKET_LIMIT):
            if packet[4] <= Operation.CLOSE:
                self._agent.send(packet)
                continue
            self.unknown.append(packet[4])
            self.broken |= packet[4] == Operation.WRITE and packet[_HEAD:] != bytes(8)  # two empty strings, no content
            self._ours.send(packet[:4] + struct.pack("<iIII", errno.ENOSYS, 0, 0, 0))
        self._agent.shutdown(socket.SHUT_WR)

    def _replies(self) -> None:
        while True:
            packet, fds, _, _ = socket.recv_fds(self._agent, PACKET_LIMIT, 1)
            if not packet:
                self._ours.shutdown(socket.SHUT_RDWR)
                return
            socket.send_fds(self._ours, [packet], fds)
            for fd in fds:
                os.close(fd)
