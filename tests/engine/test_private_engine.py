"""scripts/docker-engine and the images, as the other tests rely on them."""

from __future__ import annotations

import docker
import pytest

from tests.engine_fixtures import PrivateEngine


def start_sleeper(client: docker.DockerClient, image: str) -> str:
    """A container that runs until somebody ends it; its id."""
    # An engine that ends its containers asks with this signal first; sleep as PID 1 would ignore the usual one for 10 s.
    container = client.containers.run(image, ["sleep", "600"], detach=True, stop_signal="SIGKILL")
    assert container.id is not None
    return container.id


def state(client: docker.DockerClient, container_id: str) -> str:
    return str(client.containers.get(container_id).status)


def test_container_outlives_a_killed_engine_with_live_restore(
    private_engine: PrivateEngine, docker_client: docker.DockerClient, busybox_image: str
) -> None:
    private_engine.load(busybox_image, docker_client)
    client = private_engine.client()
    sleeper = start_sleeper(client, busybox_image)
    first_pid = private_engine.pid()

    private_engine.kill()
    private_engine.start()

    assert private_engine.pid() != first_pid
    assert state(client, sleeper) == "running"
    assert client.info()["LiveRestoreEnabled"] is True
    client.close()


def test_container_ends_with_a_killed_engine_without_live_restore(
    private_engine_without_live_restore: PrivateEngine, docker_client: docker.DockerClient, busybox_image: str
) -> None:
    engine = private_engine_without_live_restore
    engine.load(busybox_image, docker_client)
    client = engine.client()
    sleeper = start_sleeper(client, busybox_image)

    engine.kill()
    engine.start()

    assert state(client, sleeper) == "exited"
    client.close()


def test_private_engine_knows_nothing_of_the_users_containers_and_images(private_engine: PrivateEngine) -> None:
    client = private_engine.client()
    assert client.containers.list(all=True) == []
    assert client.images.list() == []
    client.close()


def test_private_engine_is_gone_with_its_containers_after_removal(
    private_engine: PrivateEngine, docker_client: docker.DockerClient, busybox_image: str
) -> None:
    private_engine.load(busybox_image, docker_client)
    client = private_engine.client()
    start_sleeper(client, busybox_image)
    client.close()

    private_engine.kill()
    private_engine.remove()

    assert not private_engine.socket.parent.exists()
    private_engine.start()  # the same name can be used again
    client = private_engine.client()
    assert client.containers.list(all=True) == []
    client.close()


@pytest.mark.parametrize("argument", ["plain", "two words", "$HOME", ""])
def test_scratch_image_shows_its_arguments_without_a_shell(docker_client: docker.DockerClient, scratch_image: str, argument: str) -> None:
    output = docker_client.containers.run(scratch_image, ["/prog", argument], remove=True)
    assert output == argument.encode() + b"\n"


def test_busybox_image_has_no_bash(docker_client: docker.DockerClient, busybox_image: str) -> None:
    output = docker_client.containers.run(busybox_image, ["sh", "-c", "command -v bash || echo none"], remove=True)
    assert output == b"none\n"


def test_nonroot_image_runs_as_an_ordinary_user(docker_client: docker.DockerClient, nonroot_image: str) -> None:
    output = docker_client.containers.run(nonroot_image, ["-c", "id -un; pwd; touch mine"], entrypoint="sh", remove=True)
    assert output == b"app\n/home/app\n"


def test_default_image_has_what_agents_use(docker_client: docker.DockerClient, sandbox_image: str) -> None:
    script = "set -e; for tool in bash git python3 pip ps; do command -v $tool >/dev/null || echo no $tool; done"
    assert docker_client.containers.run(sandbox_image, ["bash", "-c", script], remove=True) == b""
