"""The limits of a sandbox, as the engine was told them, and the server's own, which refuse work before it is taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from remote_env import Sandbox, ServerBusy, Timings
from remote_env.errors import InvalidSpec, RemoteEnvError
from server.engine import CAPABILITIES
from tests.engine.conftest import Http, MakeSandbox, inspect
from tests.support.outside import runs, until
from tests.support.server import BUSYBOX, SMALL, Server

IMPATIENT = dataclasses.replace(Timings(), queue_s=0.3)


def test_limits_reach_the_engine(make_sandbox: MakeSandbox) -> None:
    config = inspect(make_sandbox(memory_bytes=SMALL, pids=99, cpus=0.5, shm_bytes=1 << 20))["HostConfig"]
    assert (config["Memory"], config["MemorySwap"]) == (SMALL, SMALL)
    assert (config["PidsLimit"], config["NanoCpus"], config["ShmSize"]) == (99, 500_000_000, 1 << 20)


def test_defaults_are_safe(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    config = inspect(sandbox)["HostConfig"]
    assert (config["CapDrop"], sorted(config["CapAdd"])) == (["ALL"], sorted(CAPABILITIES))
    assert config["SecurityOpt"] == ["no-new-privileges"]
    assert (config["Privileged"], config["PidMode"], config["IpcMode"]) == (False, "", "private")
    assert not config["Devices"]
    assert (config["PidsLimit"], config["RestartPolicy"]) == (4096, {"Name": "no", "MaximumRetryCount": 0})
    (mount,) = config["Mounts"]
    assert (mount["Target"], mount["ReadOnly"], mount["Type"]) == ("/.remote-env", True, "bind")
    assert sandbox.run("grep NoNewPrivs /proc/self/status").text.split() == ["NoNewPrivs:", "1"]


def test_new_privileges_are_an_option(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(no_new_privileges=False)
    assert sandbox.run("grep NoNewPrivs /proc/self/status").text.split() == ["NoNewPrivs:", "0"]


def test_sandbox_without_network_has_loopback_alone(make_sandbox: MakeSandbox) -> None:
    assert make_sandbox(network="none").run("ls /sys/class/net").text == "lo\n"
    assert "eth0" in make_sandbox().run("ls /sys/class/net").text


def test_shm_has_its_size(make_sandbox: MakeSandbox) -> None:
    assert make_sandbox(shm_bytes=1 << 20).run("df -k /dev/shm | awk 'NR==2 {print $2}'").text == "1024\n"


def test_open_files_are_limited_as_docker_exec_limits_them(sandbox: Sandbox, docker_client: docker.DockerClient) -> None:
    question = ["sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c"]
    _, engine = docker_client.containers.get(str(sandbox.container_id)).exec_run(question)
    assert sandbox.run(question).output() == engine


def test_more_memory_than_one_sandbox_may_have_is_refused(make_server: Callable[..., Server]) -> None:
    server = make_server("--max-sandbox-memory", "64MiB").start()
    with server.client() as client, pytest.raises(InvalidSpec, match="memory_bytes"):
        client.create_sandbox(BUSYBOX, memory_bytes=65 << 20)
    assert server.containers() == []


def test_sandbox_beyond_the_memory_of_the_server_is_turned_away(make_server: Callable[..., Server]) -> None:
    server = make_server("--capacity-memory", "256MiB").start()
    with server.client(IMPATIENT) as client:
        first = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        with pytest.raises(ServerBusy):
            client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        assert len(server.containers()) == 2
        first.remove()
        client.create_sandbox(BUSYBOX, memory_bytes=SMALL)  # what was freed can be taken


def test_command_beyond_the_executions_of_the_server_is_turned_away(make_server: Callable[..., Server]) -> None:
    server = make_server("--max-executions", "1").start()
    with server.client(IMPATIENT) as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        running = sandbox.start("echo first >> /ran; sleep 300", grace_s=0)
        until(lambda: runs(sandbox) == {"first": 1}, "the first runs")
        with pytest.raises(ServerBusy) as refused:
            sandbox.run("echo second >> /ran")
        assert [known.record.state for known in client.executions(id=refused.value.execution_id)] == ["abandoned"]
        running.cancel().wait()
        sandbox.run("echo third >> /ran")
        assert runs(sandbox) == {"first": 1, "third": 1}


def test_no_work_is_taken_when_the_disk_is_nearly_full(make_server: Callable[..., Server]) -> None:
    server = make_server("--min-free-disk", "1000TiB").start()
    with server.client(IMPATIENT) as client, pytest.raises(ServerBusy):
        client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
    assert server.containers() == []


def test_timeout_beyond_the_servers_longest_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidSpec, match="timeout_s"):
        sandbox.run("echo ran >> /ran", timeout_s=10 * 86400)
    assert runs(sandbox) == {}


def test_body_over_the_limit_is_refused_before_anything_is_journaled(http: Http, sandbox: Sandbox) -> None:
    body = b'{"id": "too-large-a-body", "command": "true", "stdin": "' + b"x" * (16 << 20) + b'"}'
    answer = http("POST", f"/v1/sandboxes/{sandbox.id}/executions", epoch=sandbox.epoch, data=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["accepted"]) == (413, "too_large", False)
    assert http("GET", "/v1/executions/too-large-a-body", epoch=sandbox.epoch).status_code == 404


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory below which sandboxes may bind, with a link that stays in it and one that leaves it."""
    base = tmp_path_factory.mktemp("binds")
    for name in ("allowed/inside", "outside", "allowedbeside"):
        (base / name).mkdir(parents=True)
    (base / "allowed" / "inside" / "file").write_text("from the host\n")
    (base / "allowed" / "link").symlink_to(base / "allowed" / "inside")
    (base / "allowed" / "escape").symlink_to(base / "outside")
    return base / "allowed"


@pytest.fixture(scope="module")
def binding(allowed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets sandboxes bind below `allowed`."""
    server = Server(tmp_path_factory.mktemp("binding") / "data", "--bind-allow", str(allowed))
    try:
        yield server.start()
    finally:
        server.remove_all()


@pytest.mark.parametrize("source", ["inside", "link"])
def test_binds_are_mounted_from_allowed_directories(binding: Server, allowed: Path, source: str) -> None:
    bind = {"source": str(allowed / source), "target": "/bound"}
    with binding.client() as client:
        with client.create_sandbox(BUSYBOX, memory_bytes=SMALL, binds=[bind]) as sandbox:
            assert sandbox.run("cat /bound/file; touch /bound/new 2>/dev/null || echo read-only").text == "from the host\nread-only\n"
        with client.create_sandbox(BUSYBOX, memory_bytes=SMALL, binds=[{**bind, "read_only": False}]) as sandbox:
            sandbox.run(f"echo from the sandbox > /bound/{source}")
    assert (allowed / "inside" / source).read_text() == "from the sandbox\n"


@pytest.mark.parametrize("source", ["/etc", "ALLOWED/../outside", "ALLOWED/escape", "ALLOWEDbeside", "/var/run/docker.sock", "/"])
def test_binds_from_elsewhere_are_refused(binding: Server, allowed: Path, source: str) -> None:
    bind = {"source": source.replace("ALLOWED", str(allowed)), "target": "/bound"}
    with binding.client() as client, pytest.raises(RemoteEnvError, match="bind-allow"):
        client.create_sandbox(BUSYBOX, memory_bytes=SMALL, binds=[bind])
    assert binding.containers() == []
