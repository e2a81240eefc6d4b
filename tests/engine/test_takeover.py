"""A server of another version takes over the sandboxes that a server before it made."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from remote_env import Client, InvalidSpec, Sandbox
from server import initbuild
from server.messages import LINK_VERSION, SPLIT_SINCE
from tests.support.outside import docker, runs, until
from tests.support.server import BUSYBOX, SMALL, Server

ROOT = Path(__file__).parents[2]
NORMAL = ("-m", "remote_env.cli.main")
OTHER_SERVER = """
import server.messages
server.messages.LINK_VERSION = {version}
import server.link
server.link.SUPPORTED_VERSIONS = frozenset({supported})
import server.making
from pathlib import Path
server.making.init_path = lambda arch: Path({init!r})
from remote_env.cli.main import main
main()
"""


def build_init(version: int, directory: Path) -> Path:
    """The init as it says that link version. What it can do beyond it is not asked for by who speaks that version."""
    compiler, binary = shutil.which("cc"), directory / f"init-{version}"
    if compiler is None:
        pytest.skip("no C compiler here")
    flags = ["-std=c11", "-O2", "-static", f"-DLINK_VERSION={version}"]
    subprocess.run([compiler, *flags, "-o", str(binary), *map(str, initbuild.SOURCES.glob("*.c"))], check=True)
    return binary


@pytest.fixture
def spawn_other(tmp_path: Path) -> Callable[[Server, int, set[int]], None]:
    """Start a server of another version: its inits say this link version, it speaks those that are given."""

    def spawn(server: Server, version: int, supported: set[int]) -> None:
        script = tmp_path / f"server_{version}.py"
        init = str(build_init(version, tmp_path))
        script.write_text(OTHER_SERVER.format(version=version, supported=supported, init=init))
        server.program = (str(script),)
        server.spawn()

    return spawn


def running_command(client: Client) -> tuple[Sandbox, str]:
    """A sandbox with a command that ends with status 7 when /go is made; the command's id."""
    sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
    execution = sandbox.start("echo first | tee -a /ran; while [ ! -e /go ]; do sleep 0.02; done; echo end; exit 7")
    until(lambda: execution.refresh().record.output.total_bytes > 0, "it runs")
    return sandbox, execution.id


@pytest.mark.parametrize("version", range(1, LINK_VERSION))
def test_server_takes_over_sandboxes_of_the_versions_before_and_gives_them_no_more_than_they_can(
    make_server: Callable[..., Server], spawn_other: Callable[[Server, int, set[int]], None], version: int
) -> None:
    server = make_server(environ={"PYTHONPATH": str(ROOT)})
    spawn_other(server, version, {version})
    until(lambda: (server.data_dir / "token").exists(), "the older server has made its token")
    with server.client() as client:
        sandbox, eid = running_command(client)
        ended_meanwhile = sandbox.start("while [ ! -e /now ]; do sleep 0.02; done; echo meanwhile; exit 9")
        server.stop()
        docker("exec", str(sandbox.container_id), "touch", "/now")
        server.program = NORMAL
        server.start()
        assert (ended_meanwhile.wait().text, ended_meanwhile.returncode) == ("meanwhile\n", 9)
        for _ in range(2):
            if version < SPLIT_SINCE:
                with pytest.raises(InvalidSpec, match="make a new sandbox"):
                    sandbox.run("echo split >> /ran", streams="split")
            with pytest.raises(InvalidSpec, match="make a new sandbox"):
                sandbox.session()
            with pytest.raises(InvalidSpec, match="make a new sandbox"):
                sandbox.read_bytes("/ran")
            server.restart()  # also while its link is not up yet
        sandbox.run("echo second >> /ran; touch /go")
        execution = client.execution(eid).wait()
        assert (execution.text, execution.returncode) == ("first\nend\n", 7)
        assert runs(sandbox) == {"first": 1, "second": 1}
        new = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        split = new.run("echo out; echo err >&2", streams="split")
        assert (split.output(), split.stderr()) == (b"out\n", b"err\n")
        with new.session() as session:
            assert session.run("echo in session").text == "in session\n"


def test_init_of_a_version_that_is_not_spoken_is_refused_in_words_and_left_untouched(
    make_server: Callable[..., Server], spawn_other: Callable[[Server, int, set[int]], None]
) -> None:
    server = make_server(environ={"PYTHONPATH": str(ROOT)}).start()
    with server.client() as client:
        sandbox, eid = running_command(client)
        server.stop()
        spawn_other(server, LINK_VERSION + 1, {LINK_VERSION + 1})
        why = f"its init speaks link version {LINK_VERSION}; this server speaks [{LINK_VERSION + 1}]"
        until(lambda: why in server.log.read_text(), "the log says why")
        assert client.execution(eid).record.state != "ended"
        assert docker("inspect", "-f", "{{.State.Running}}", str(sandbox.container_id)) == "true\n"
        server.stop()
        server.program = NORMAL
        server.start()
        sandbox.run("touch /go")
        execution = client.execution(eid).wait()
        assert (execution.text, execution.returncode) == ("first\nend\n", 7)
        assert runs(sandbox) == {"first": 1}
