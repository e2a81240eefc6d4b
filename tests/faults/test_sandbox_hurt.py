"""The sandbox is hurt from inside or underneath: what can be known is said, what cannot is called so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.support.outside import docker, runs, until
from tests.support.server import BUSYBOX, SMALL, Server


def test_init_out_of_reach_is_given_up_after_its_time(make_server: Callable[..., Server]) -> None:
    """Broken: a sandbox freezes, so its init does not come back to a restarted server (UNREACH). Must hold: its container is
    killed, the command is lost with that reason, nothing runs on."""
    server = make_server("--unreachable-after", "1s").start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        execution = sandbox.start("echo c >> /ran; exec sleep 1000")
        until(lambda: runs(sandbox) == Counter(c=1), "the command runs")
        docker("pause", str(sandbox.container_id))
        server.restart()
        execution.wait()
        assert execution.outcome is not None
        assert (execution.outcome.kind, execution.outcome.reason) == ("lost", "init_unreachable")
        until(lambda: server.containers() == [], "its container is gone")
