"""The engine is killed, restarted, hangs. Commands do not pass through it, so they go on where it lets its containers live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import docker as docker_sdk

from remote_env import Sandbox
from tests.engine_fixtures import PrivateEngine
from tests.support.outside import until
from tests.support.server import BUSYBOX, SMALL, Server


def runs_on(engine: PrivateEngine, sandbox: Sandbox) -> Counter[str]:
    client = engine.client()
    try:
        found = client.containers.get(str(sandbox.container_id)).exec_run(["cat", "/ran"])
        return Counter(found.output.decode().split()) if found.exit_code == 0 else Counter()
    finally:
        client.close()


def test_engine_killed_and_started_again_costs_no_command(
    private_engine: PrivateEngine, docker_client: docker_sdk.DockerClient, make_server: Callable[..., Server]
) -> None:
    """Broken: dockerd is killed while a command runs, and started again (live-restore). Must hold: commands run on, new ones
    are taken while the engine is away, nothing is lost."""
    private_engine.load(BUSYBOX, docker_client)
    server = make_server("--docker-host", private_engine.host).start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL, network="none")
        execution = sandbox.start("echo c >> /ran; for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done; exit 9")
        until(lambda: runs_on(private_engine, sandbox) == Counter(c=1), "the command runs")
        private_engine.kill()
        assert sandbox.run("echo while away >> /tmp/away; exit 3").returncode == 3
        private_engine.start()
        execution.wait()
        assert (execution.returncode, execution.text) == (9, "1\n2\n3\n4\n5\n6\n")
        assert runs_on(private_engine, sandbox) == Counter(c=1)
        sandbox.remove()


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
        assert (execution.returncode, execution.text) == (8, "out\n")


def test_engine_without_live_restore_that_restarts_is_named_as_the_cause(
    private_engine_without_live_restore: PrivateEngine, docker_client: docker_sdk.DockerClient, make_server: Callable[..., Server]
) -> None:
    """Broken: an engine without live-restore restarts, which kills every container. Must hold: `lost: engine_restarted`."""
    engine = private_engine_without_live_restore
    engine.load(BUSYBOX, docker_client)
    server = make_server("--docker-host", engine.host).start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL, network="none")
        execution = sandbox.start("echo c >> /ran; echo so far; exec sleep 1000")
        until(lambda: runs_on(engine, sandbox) == Counter(c=1), "the command runs")
        engine.shut_down()
        engine.start()
        execution.wait()
        assert execution.outcome is not None
        assert (execution.outcome.kind, execution.outcome.reason, execution.outcome.ran) == ("lost", "engine_restarted", True)
        assert execution.output() == b"so far\n"
