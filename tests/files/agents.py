"""File agents as plain processes, without init or container; as root each can have a root directory of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from server.initbuild import SOURCES

PATIENCE_S = 60.0  # never reached by a healthy agent
MAIN = Path(__file__).with_name("agent_main.c")
_FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
          "-fno-sanitize-recover=all", "-DINIT_SANITIZED")  # fmt: skip


def build(directory: Path) -> Path:
    """The agent's binary, with sanitizers, whole in `directory`."""
    compiler = shutil.which("cc")
    assert compiler is not None, "the tests of the init need a C compiler"
    subprocess.run([compiler, *_FLAGS, "-Dmain=init_main", "-c", *map(str, sorted(SOURCES.glob("*.c")))], cwd=directory, check=True)
    objects = sorted(map(str, directory.glob("*.o")))
    binary = directory / "file-agent"
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
