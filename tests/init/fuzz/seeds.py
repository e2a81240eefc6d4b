"""Inputs to begin with: `python -m tests.init.fuzz.seeds DIR` writes one file for each kind of act, of well-formed messages."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from server import messages
from server.messages import Run, RunFlag

PACKET, SOCKET, PACKET_WITH_FDS, FINISH, CONNECT, USER, SAY, SHELL_SAYS = 0, 2, 3, 4, 5, 6, 7, 255


def act(op: int, body: bytes = b"") -> bytes:
    return struct.pack("<BH", op, len(body)) + body


def run(number: int, **fields: object) -> bytes:
    values: dict[str, object] = {
        "argv": ("sh", "-c", "true"), "env": ("A=1", "HOME=/"), "user": "", "workdir": "/", "flags": RunFlag(0),
        "timeout_ms": 1000, "idle_timeout_ms": 0, "grace_ms": 50, **fields,
    }  # fmt: skip
    body = messages.run_body(Run(number=number, id=f"execution-{number}", **values))  # type: ignore[arg-type]
    return messages.packet(messages.Type.RUN, body)


def acked(number: int) -> bytes:
    return act(PACKET, messages.ack(f"execution-{number}"))


def seeds() -> dict[str, bytes]:
    passwd = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:\n"
    group = b"root:x:0:\nstaff:x:50:app,root\n"
    connected = act(CONNECT) + act(PACKET, messages.welcome(1000))
    return {
        "run": connected + act(PACKET, run(1)) + act(SAY) + act(FINISH, b"") + act(SAY) + act(PACKET, messages.ack("execution-1")),
        "split": connected
        + b"".join(act(PACKET, run(n, flags=RunFlag.SPLIT if n % 2 else RunFlag(0))) for n in range(1, 6))
        + act(SAY)
        + act(FINISH)
        + act(CONNECT)
        + act(SAY),
        "session": connected
        + act(PACKET, run(1, argv=("bash",), flags=RunFlag.SESSION | RunFlag.SHELL))
        + act(SAY)
        + act(SHELL_SAYS, b"\x000 0\n")
        + b"".join(
            act(PACKET, run(n, argv=("true",), session="execution-1")) + act(SHELL_SAYS, b"\0%d 7\n" % n) + act(SAY) + acked(n)
            for n in (2, 3)
        )
        + act(PACKET, run(4, argv=("true",), session="execution-1"))
        + act(PACKET, messages.kill("execution-4"))
        + act(CONNECT)
        + act(FINISH)
        + act(PACKET, run(5, argv=("true",), session="execution-1")),
        "terminal": connected
        + act(PACKET, run(1, argv=("bash",), flags=RunFlag.SESSION | RunFlag.TTY | RunFlag.SPLIT, rows=24, cols=80))
        + act(PACKET, run(2, flags=RunFlag.TTY | RunFlag.ECHO_OFF, rows=24, cols=80))
        + act(SHELL_SAYS, b"\x000 255\n")
        + act(PACKET, run(3, argv=("true",), session="execution-1", flags=RunFlag.TTY, stdin_path="/tmp/x"))
        + act(CONNECT)
        + act(SHELL_SAYS, b"\0nonsense\n")
        + act(SAY),
        "files": connected + act(PACKET, messages.files(1, "")) + act(SAY) + act(SOCKET, messages.files(2, "nobody")) + act(SAY),
        "skip": connected + act(PACKET, messages.skip(1, "execution-1")) + act(PACKET, messages.skip(1, "execution-2")) + act(SAY),
        "kill": connected
        + act(PACKET, run(7))
        + act(PACKET, messages.kill("execution-7"))
        + act(PACKET, messages.signal("execution-7", 15))
        + act(12),
        "again": connected + b"".join(act(PACKET, run(n)) for n in range(1, 12)) + act(CONNECT) + act(SAY),
        "fds": connected + act(PACKET_WITH_FDS, run(3)) + act(SAY),
        "socket": connected
        + act(SOCKET, run(1))
        + act(SOCKET, messages.skip(2, "execution-2"))
        + act(SAY)
        + act(SOCKET, messages.ack("execution-2")),
        "user": act(USER, bytes([3]) + b"app" + passwd) + act(USER, bytes([9]) + b"app:staff" + group) + act(USER, bytes([0]) + passwd),
    }


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in seeds().items():
        (directory / name).write_bytes(content)


if __name__ == "__main__":
    main()
