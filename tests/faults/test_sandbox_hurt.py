"""The sandbox is hurt from inside or underneath: what can be known is said, what cannot is called so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from remote_env import Sandbox, SandboxGone
from tests.support.outside import docker, processes, runs, until
from tests.support.server import BUSYBOX, SMALL, Server


def test_everything_killed_from_inside_costs_the_running_commands_and_not_the_sandbox(sandbox: Sandbox) -> None:
    """Broken: `kill -9 -1` as root. Must hold: the command that ran is told as killed, the next one runs."""
    victim = sandbox.start("echo v >> /ran; exec sleep 1000")
    until(lambda: runs(sandbox) == Counter(v=1), "the victim runs")
    sandbox.run("kill -9 -1")
    victim.wait()
    assert victim.outcome is not None
    assert (victim.outcome.kind, victim.outcome.signal) == ("signalled", 9)
    assert sandbox.run("echo next >> /ran; exit 6").returncode == 6
    assert runs(sandbox) == Counter(v=1, next=1)
    assert not [line for line in processes(sandbox) if "sleep" in line]


@pytest.mark.parametrize("how", [("kill",), ("rm", "-f"), ("stop", "-t", "0")])
def test_container_taken_away_underneath_is_told_as_lost_with_the_output_so_far(how: tuple[str, ...], sandbox: Sandbox) -> None:
    """Broken: somebody kills, removes or stops the container. Must hold: `lost`, the output so far, SandboxGone afterwards."""
    execution = sandbox.start("echo c >> /ran; echo so far; exec sleep 1000")
    until(lambda: runs(sandbox) == Counter(c=1), "the command runs")
    docker(*how, str(sandbox.container_id))
    execution.wait()
    assert execution.outcome is not None
    assert (execution.outcome.kind, execution.outcome.reason, execution.outcome.ran) == ("lost", "sandbox_died", True)
    assert execution.output() == b"so far\n"
    with pytest.raises(SandboxGone):
        sandbox.run("true")


def test_container_that_is_restarted_is_another_life(sandbox: Sandbox) -> None:
    """Broken: `docker restart`. Must hold: the init's new incarnation is not taken for the old one (INCARN)."""
    execution = sandbox.start("exec sleep 1000")
    docker("restart", "-t", "0", str(sandbox.container_id))
    execution.wait()
    assert execution.outcome is not None
    assert (execution.outcome.kind, execution.outcome.reason) == ("lost", "sandbox_died")


def test_frozen_sandbox_holds_up_nobody_else_and_goes_on_when_thawed(sandbox: Sandbox, server: Server) -> None:
    with server.client() as client:
        other = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        docker("pause", str(sandbox.container_id))
        try:
            frozen = [sandbox.start(f"echo f{n} >> /ran") for n in range(3)]
            assert other.run("echo lively").text == "lively\n"
        finally:
            docker("unpause", str(sandbox.container_id))
        for execution in frozen:
            assert execution.wait().returncode == 0
        assert runs(sandbox) == Counter(f0=1, f1=1, f2=1)
        other.remove()


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
