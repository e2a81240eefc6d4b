"""Another server stands behind the address that a client knows: a new installation, a wrong port, a load balancer's doing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from remote_env import EpochChanged, SandboxGone
from remote_env.timings import Timings
from tests.support.outside import until
from tests.support.server import BUSYBOX, SMALL, Server

SOON = Timings().scaled(0.2)  # a client that looks for its server more often


@pytest.mark.parametrize("token", ["its own token", "the same token"])
def test_calls_to_a_server_that_was_replaced_end_as_unknown_and_a_new_sandbox_works(token: str, make_server: Callable[..., Server]) -> None:
    """Broken: the server is killed while a command runs, and one with another journal takes its port. Must hold: neither the
    call that waits nor the next one takes the stranger's word for what became of its command."""
    first, second = make_server().start(), make_server()
    second.port, second.url = first.port, first.url
    if token == "the same token":
        second.data_dir.mkdir(mode=0o700)
        (second.data_dir / "token").write_text(first.token + "\n")
        (second.data_dir / "token").chmod(0o600)
    with first.client(SOON) as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        execution = sandbox.start("exec sleep 1000")
        first.kill()
        second.start()
        with pytest.raises(EpochChanged):
            execution.wait()
        with pytest.raises(EpochChanged):
            sandbox.run("touch x")
        with pytest.raises(SandboxGone):
            sandbox.run("touch x")
    with second.client() as client:
        fresh = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        assert fresh.run("echo new").text == "new\n"
        instance_id = (second.data_dir / "instance_id").read_text().strip()
        until(lambda: client.link.state == "connected" and client.link.instance_id == instance_id, "the link names the new server")
        fresh.remove()
