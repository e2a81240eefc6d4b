"""The engine is killed, restarted, hangs. Commands do not pass through it, so they go on where it lets its containers live."""

from __future__ import annotations

from collections.abc import Callable

import docker as docker_sdk

from tests.engine_fixtures import PrivateEngine
from tests.support.server import BUSYBOX, SMALL, Server


def test_engine_that_hangs_is_no_death(
    private_engine: PrivateEngine, docker_client: docker_sdk.DockerClient, make_server: Callable[..., Server]
) -> None:
    """Broken: dockerd is stopped (SIGSTOP), and the server is killed and started again meanwhile. Must hold: the command's
    true result; nothing is called lost because the engine does not answer."""
    private_engine.load(BUSYBOX, docker_client)
    server = make_server("--docker-host", private_engine.host).start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL, network="none")
        execution = sandbox.start("sleep 2; echo out; exit 8")
        private_engine.pause()
        server.restart()
        execution.wait()
        private_engine.resume()  # a server that stops waits for what it has asked of its engine
        assert (execution.returncode, execution.text) == (8, "out\n")
