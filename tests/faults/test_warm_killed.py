"""The server is killed while it makes warm sandboxes and while it hands them out: none is left behind, none is anybody's twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from remote_env import Client
from remote_env.protocol import new_id
from server.failpoints import OF_WARM
from tests.engine.conftest import Http
from tests.support.outside import until
from tests.support.server import BUSYBOX, SMALL, Server

MakeServer = Callable[..., Server]

REFILLING = ["before_container_start", "after_container_start", "before_warm_commit", "after_warm_commit"]
HANDING_OUT = ["before_acquire", "before_acquire_commit", "after_acquire_commit", "after_incarnation_commit"]


@pytest.fixture
def server(make_server: MakeServer, busybox_image: str) -> Server:
    """One that keeps a sandbox ready, and looks for orphans all the time. Not started."""
    return make_server("--warm", f"{BUSYBOX}=1,memory={SMALL}", "--sweep-every", "200ms")


def ready(client: Client) -> int:
    capacity = client.health().capacity
    assert capacity is not None
    return int(capacity["warm"][0]["ready"])


def one_each(server: Server, client: Client) -> set[str]:
    """Wait until the engine has one container on the shelf and one for each sandbox, and no other. The one on the shelf."""

    def as_it_should_be() -> bool:
        owned = {sandbox.container_id for sandbox in client.sandboxes()}
        return ready(client) == 1 and len(server.containers()) == 1 + len(owned) and owned < set(server.containers())

    until(as_it_should_be, "one container is on the shelf, and one there for each sandbox")
    return set(server.containers()) - {str(sandbox.container_id) for sandbox in client.sandboxes()}


def test_every_failpoint_of_warm_sandboxes_is_here() -> None:
    assert set(REFILLING) | set(HANDING_OUT) >= OF_WARM


def test_killed_while_it_refills_it_leaves_nothing_behind(server: Server) -> None:
    """Broken: SIGKILL before and after the container's start and the commit by which it is known as warm. Must hold: the next
    server has exactly as many as are wanted, whether it takes the container over or removes it."""
    for failpoint in REFILLING:
        assert server.spawn(f"{failpoint}:kill").wait(timeout=60) == -9
    server.start()
    with server.client() as client:
        one_each(server, client)
    assert server.stop() == 0
    assert server.containers() == []


def test_killed_while_it_hands_one_out_it_hands_it_out_once(server: Server) -> None:
    """Broken: SIGKILL before and after each step by which a warm container becomes somebody's. Must hold: whoever asks again
    under the same id gets the one sandbox or hears that it was not made; no other sandbox ever gets that container; the
    containers are as many as there are sandboxes, and one on the shelf."""
    handed_out: dict[str, str] = {}  # container → sandbox
    server.start()
    with server.client() as client:
        one_each(server, client)
        for failpoint in HANDING_OUT:
            server.restart(f"{failpoint}:kill")
            until(lambda: ready(client) == 1, "one is ready")
            http, body = Http(server), {"id": new_id(), "image": BUSYBOX, "run_id": new_id(), "memory_bytes": SMALL}
            with pytest.raises(requests.ConnectionError):
                http("POST", "/v1/sandboxes", wait=30, json=body)
            assert server.process is not None
            assert server.process.wait(timeout=30) == -9
            server.start()
            again: dict[str, Any] = http("POST", "/v1/sandboxes", wait=30, json=body).json()
            http.close()
            assert again["state"] == ("running" if failpoint == "after_incarnation_commit" else "failed")
            if again["state"] == "running":
                handed_out[again["container_id"]] = again["id"]
            (shelf,) = one_each(server, client)
            assert shelf not in handed_out
        for _ in range(2):
            sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
            assert handed_out.setdefault(str(sandbox.container_id), sandbox.id) == sandbox.id, "the container is another's, too"
            assert sandbox.run("cat /mine || touch /mine").text.endswith("No such file or directory\n"), "somebody was in it before"
        assert len(handed_out) == 3
