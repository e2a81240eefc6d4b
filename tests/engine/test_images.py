"""Images: what is taken from them, what is overridden, and what happens when there is none."""

from __future__ import annotations

import docker
import pytest

from remote_env import Client
from remote_env.errors import ImageNotFound
from tests.engine.conftest import MakeImage, MakeSandbox, inspect
from tests.support.server import NONROOT, SMALL


def test_missing_image_that_may_not_be_pulled_is_named(client: Client) -> None:
    with pytest.raises(ImageNotFound, match="remote-env-test/no-such-image"):
        client.create_sandbox("remote-env-test/no-such-image:1", pull="never", memory_bytes=SMALL)


def test_missing_image_that_no_registry_has_is_named(client: Client) -> None:
    # Port 9 is nobody's: the engine is refused at once.
    with pytest.raises(ImageNotFound, match="no-such-image"):
        client.create_sandbox("127.0.0.1:9/no-such-image:1", memory_bytes=SMALL)


def test_image_can_be_named_by_its_id(docker_client: docker.DockerClient, make_sandbox: MakeSandbox, busybox_image: str) -> None:
    image = str(docker_client.images.get(busybox_image).id)
    assert make_sandbox(image).run("echo hi").text == "hi\n"


def test_entrypoint_command_and_healthcheck_of_the_image_are_not_run(make_sandbox: MakeSandbox, make_image: MakeImage) -> None:
    image = make_image(
        "true",
        'ENTRYPOINT ["sh", "-c", "touch /entrypoint-ran"]', 'CMD ["touch", "/cmd-ran"]',
        "HEALTHCHECK --interval=1s CMD touch /healthcheck-ran",
    )  # fmt: skip
    sandbox = make_sandbox(image)
    found = inspect(sandbox)
    assert found["Config"]["Healthcheck"]["Test"] == ["NONE"]
    assert "Health" not in found["State"]
    assert found["Config"]["Entrypoint"] == ["/.remote-env/init"]
    assert sandbox.run("ls / | grep ran || echo none").text == "none\n"


def test_volumes_of_the_image_go_with_the_sandbox(
    docker_client: docker.DockerClient, make_sandbox: MakeSandbox, make_image: MakeImage
) -> None:
    sandbox = make_sandbox(make_image("mkdir /kept", "VOLUME /kept"))
    sandbox.run("touch /kept/file")
    (name,) = [mount["Name"] for mount in inspect(sandbox)["Mounts"] if mount["Type"] == "volume"]
    sandbox.remove()
    assert docker_client.volumes.list(filters={"name": name}) == []


def test_image_that_writes_its_own_passwd_without_root_runs_as_root(make_sandbox: MakeSandbox, make_image: MakeImage) -> None:
    sandbox = make_sandbox(make_image("rm /etc/passwd /etc/group"))
    assert sandbox.run("grep -E '^(Uid|Gid)' /proc/self/status; echo $HOME").text == "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n/\n"


def test_workdir_of_the_image_that_does_not_exist_is_made(make_sandbox: MakeSandbox, make_image: MakeImage) -> None:
    assert make_sandbox(make_image("true", "WORKDIR /not/there/yet")).run("pwd").text == "/not/there/yet\n"


def test_nonroot_image_can_be_used_as_another_user(make_sandbox: MakeSandbox) -> None:
    assert make_sandbox(NONROOT, user="root").run("id -u").text == "0\n"
