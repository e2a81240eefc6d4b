"""compose.yaml and the Dockerfile, as a user starts them: the server in a container beside the host's engine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container
from pytest_docker.plugin import Services

from remote_env import Client
from tests.engine_fixtures import ROOT, skip_unless_ci
from tests.support.server import free_port

COMPOSE_FILE = ROOT / "compose.yaml"
TOKEN_LINE = "compose exec -T server cat /var/lib/remote-env/token"  # as compose.yaml and the README show it
HEALTHY_S = 60.0
SMALL = 128 << 20  # bytes of memory of a sandbox here


@pytest.fixture(scope="session")
def compose_port() -> int:
    """Where this run publishes the server: 9527 may be the user's own."""
    return free_port()


@pytest.fixture(scope="session")
def docker_compose_command(docker_host: str, compose_port: int, sandbox_image: str) -> str:
    """Whichever compose this machine has, with what compose.yaml leaves open."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        compose = "docker compose"
    elif shutil.which("docker-compose"):
        compose = "docker-compose"
    else:
        skip_unless_ci("neither `docker compose` nor docker-compose is installed")
    settings = {
        "REMOTE_ENV_COMPOSE_BASE": sandbox_image,
        "REMOTE_ENV_COMPOSE_CONTEXT": str(ROOT / "build" / "server-image"),
        "REMOTE_ENV_COMPOSE_IMAGE": "remote-env/server:test",
        "REMOTE_ENV_COMPOSE_PORT": str(compose_port),
        "DOCKER_HOST": docker_host,
        # Without the buildx plugin a newer client insists on it.
        "DOCKER_BUILDKIT": "0",
    }
    return " ".join(["env", *(f"{name}={value}" for name, value in settings.items()), compose])


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(COMPOSE_FILE)


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return f"remote-env-test-{os.getpid()}"


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    """Nothing: `docker_setup` cleans up, and does so too when the start fails halfway."""
    return []


@pytest.fixture(scope="session")
def docker_setup(
    sandbox_image: str,
    docker_client: docker.DockerClient,
    docker_compose_command: str,
    docker_compose_file: str,
    docker_compose_project_name: str,
) -> Iterator[list[str]]:
    subprocess.run([ROOT / "scripts" / "server-context", sandbox_image, ROOT / "build" / "server-image"], check=True)
    try:
        yield ["up -d --build"]
    finally:
        down = f"{docker_compose_command} -f {docker_compose_file} -p {docker_compose_project_name} down -v"
        subprocess.run(down.split(), check=True, capture_output=True)
        # Each build leaves the one before it untagged: a few hundred MB a run.
        with contextlib.suppress(docker.errors.APIError):  # somebody else is at it just now
            docker_client.images.prune({"dangling": True, "label": "remote-env.image=server"})


@pytest.fixture(scope="session")
def server_container(docker_services: Services, docker_client: docker.DockerClient, docker_compose_project_name: str) -> Container:
    """The container that compose started, once its own health check has passed."""
    label = f"com.docker.compose.project={docker_compose_project_name}"
    (container,) = docker_client.containers.list(all=True, filters={"label": label})

    def healthy() -> bool:
        container.reload()
        assert container.status == "running", container.logs(tail=50).decode(errors="replace")
        return bool(container.attrs["State"]["Health"]["Status"] == "healthy")

    docker_services.wait_until_responsive(healthy, timeout=HEALTHY_S, pause=0.25)
    return container


@pytest.fixture(scope="session")
def host_environment(
    server_container: Container,
    docker_compose_command: str,
    docker_compose_file: str,
    docker_compose_project_name: str,
    compose_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """What the host's user exports: the token by the documented line, the URL because the port is not the usual one."""
    line = TOKEN_LINE.replace("compose", f"{docker_compose_command} -f {docker_compose_file} -p {docker_compose_project_name}", 1)
    shell = subprocess.run(
        ["sh", "-c", f'export REMOTE_ENV_TOKEN=$({line}); printf %s "$REMOTE_ENV_TOKEN"'], capture_output=True, text=True, check=True
    )
    assert shell.stdout, shell.stderr
    return {
        "REMOTE_ENV_TOKEN": shell.stdout,
        "REMOTE_ENV_URL": f"http://127.0.0.1:{compose_port}",
        "HOME": str(tmp_path_factory.mktemp("home")),
        "PATH": os.environ["PATH"],
    }


@pytest.fixture
def compose_client(host_environment: dict[str, str]) -> Iterator[Client]:
    with Client(host_environment["REMOTE_ENV_URL"], host_environment["REMOTE_ENV_TOKEN"]) as client:
        yield client


def test_compose_file_and_this_test_document_the_same_token_line() -> None:
    assert f"export REMOTE_ENV_TOKEN=$(docker {TOKEN_LINE})" in COMPOSE_FILE.read_text()


def test_server_is_published_on_loopback_only(server_container: Container, compose_port: int) -> None:
    assert server_container.ports["9527/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": str(compose_port)}]


def test_host_cli_runs_a_command_through_the_composed_server(host_environment: dict[str, str], busybox_image: str) -> None:
    cli = Path(sys.executable).with_name("remote-env")
    script = "echo out of the sandbox; exit 7"
    done = subprocess.run(
        [cli, "run", busybox_image, "--", "sh", "-c", script],
        env=host_environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, b"out of the sandbox\n"), done.stderr.decode()


def test_command_outlives_the_killed_server_container_and_runs_once(
    compose_client: Client,
    server_container: Container,
    docker_client: docker.DockerClient,
    busybox_image: str,
) -> None:
    with compose_client.create_sandbox(busybox_image, memory_bytes=SMALL) as sandbox:
        execution = sandbox.start("echo ran >> /tmp/runs; echo begun; until [ -e /tmp/go ]; do sleep 0.05; done; echo finished")
        assert next(execution.follow()) == b"begun\n"

        server_container.kill()
        assert sandbox.container_id is not None
        docker_client.containers.get(sandbox.container_id).exec_run(["touch", "/tmp/go"])
        server_container.start()

        execution.wait()  # the client finds the way back by itself
        assert execution.returncode == 0
        assert execution.output() == b"begun\nfinished\n"
        assert sandbox.run("cat /tmp/runs").output() == b"ran\n"


def test_sandboxes_see_nothing_of_the_servers_volume_but_their_own_directory(compose_client: Client, busybox_image: str) -> None:
    with compose_client.create_sandbox(busybox_image, memory_bytes=SMALL) as sandbox:
        seen = (
            sandbox.run("ls /.remote-env; ls /var/lib/remote-env 2>/dev/null; ls /var/run/docker.sock 2>/dev/null; true").output().split()
        )
        assert sorted(seen) == [b"init", b"server.sock"]
