"""What the tests of live output say to a server, to a sandbox and to each other."""

from __future__ import annotations

import contextlib
import http.client

from remote_env import Execution, Sandbox
from tests.support.follower import Follower
from tests.support.outside import docker
from tests.support.server import Server

LINE = b"0123456789abcde\n"
CROWD = 100  # consumers of a kind
STALLED = 10  # of them do not read


def follow(server: Server, execution: Execution, *, last: str | None = None, begin: str | None = None) -> Follower:
    return Follower(server.port, server.token, execution.id, execution.epoch, last=last, begin=begin)


def lines(count: int, first: int = 1) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, first + count))


def wait_for(name: str) -> str:
    """Shell words that wait until the test says `go`."""
    return f"while [ ! -e /{name} ]; do sleep 0.02; done"


def go(sandbox: Sandbox, name: str) -> None:
    docker("exec", str(sandbox.container_id), "touch", f"/{name}")


def metric(server: Server, line: str) -> float:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {server.token}"})
        found = [each for each in connection.getresponse().read().decode().splitlines() if each.startswith(line + " ")]
    return float(found[0].split()[1])
