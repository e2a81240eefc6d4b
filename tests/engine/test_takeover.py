"""A server of another version takes over the sandboxes that a server before it made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from remote_env import Client, Sandbox
from tests.support.outside import docker, runs, until
from tests.support.server import BUSYBOX, SMALL, Server

ROOT = Path(__file__).parents[2]
NORMAL = ("-m", "remote_env.cli.main")
NEXT_SERVER = """
import server.messages
server.messages.LINK_VERSION = 2
import server.link
server.link.SUPPORTED_VERSIONS = frozenset({versions})
from remote_env.cli.main import main
main()
"""


@pytest.fixture
def next_server(make_server: Callable[..., Server], tmp_path: Path) -> Callable[[Server, str], None]:
    """Stop a server and start one of the next version, which speaks the link versions that are given."""

    def replace(server: Server, versions: str) -> None:
        server.stop()
        script = tmp_path / "next_server.py"
        script.write_text(NEXT_SERVER.format(versions=versions))
        server.program = (str(script),)
        server.spawn()

    return replace


def running_command(client: Client) -> tuple[Sandbox, str]:
    """A sandbox with a command that ends with status 7 when /go is made; the command's id."""
    sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
    execution = sandbox.start("echo first | tee -a /ran; while [ ! -e /go ]; do sleep 0.02; done; echo end; exit 7")
    until(lambda: execution.refresh().record.output.total_bytes > 0, "it runs")
    return sandbox, execution.id


def test_server_of_the_next_version_takes_over_sandboxes_of_the_version_before(
    make_server: Callable[..., Server], next_server: Callable[[Server, str], None]
) -> None:
    server = make_server(environ={"PYTHONPATH": str(ROOT)}).start()
    with server.client() as client:
        sandbox, eid = running_command(client)
        ended_meanwhile = sandbox.start("while [ ! -e /now ]; do sleep 0.02; done; echo meanwhile; exit 9")
        server.stop()
        docker("exec", str(sandbox.container_id), "touch", "/now")
        next_server(server, "{1, 2}")
        assert (ended_meanwhile.wait().text, ended_meanwhile.returncode) == ("meanwhile\n", 9)
        sandbox.run("echo second >> /ran; touch /go")
        execution = client.execution(eid).wait()
        assert (execution.text, execution.returncode) == ("first\nend\n", 7)
        assert runs(sandbox) == {"first": 1, "second": 1}
        assert client.create_sandbox(BUSYBOX, memory_bytes=SMALL).run("echo new").text == "new\n"


def test_init_of_a_version_that_is_not_spoken_is_refused_in_words_and_left_untouched(
    make_server: Callable[..., Server], next_server: Callable[[Server, str], None]
) -> None:
    server = make_server(environ={"PYTHONPATH": str(ROOT)}).start()
    with server.client() as client:
        sandbox, eid = running_command(client)
        next_server(server, "{2}")
        until(lambda: "its init speaks link version 1; this server speaks [2]" in server.log.read_text(), "the log says why")
        assert client.execution(eid).record.state != "ended"
        assert docker("inspect", "-f", "{{.State.Running}}", str(sandbox.container_id)) == "true\n"
        server.stop()
        server.program = NORMAL
        server.start()
        sandbox.run("touch /go")
        execution = client.execution(eid).wait()
        assert (execution.text, execution.returncode) == ("first\nend\n", 7)
        assert runs(sandbox) == {"first": 1}
