"""`remote-env cp`, `diff` and `snapshot` as a person uses them, and the images that come of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from remote_env import InvalidSpec, Sandbox, SandboxGone
from remote_env.protocol import EPOCH_HEADER
from server.committing import commit
from server.engine import INSTANCE_LABEL, RUN_LABEL, SANDBOX_LABEL
from tests.engine.conftest import Http, MakeSandbox
from tests.support.outside import docker as engine
from tests.support.server import NONROOT, Server

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[bytes]
Cli = Callable[..., Done]
OURS = (INSTANCE_LABEL, SANDBOX_LABEL, RUN_LABEL)


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    """Runs `remote-env WORDS…` against the shared server, in a directory of its own."""
    environ = {**os.environ, **server.env, "REMOTE_ENV_SERVER_DATA_DIR": str(server.data_dir), "PYTHONPATH": str(ROOT)}

    def run(*words: str, stdin: bytes = b"") -> Done:
        command = [sys.executable, "-m", "remote_env.cli.main", *words]
        return subprocess.run(command, input=stdin, capture_output=True, env=environ, cwd=tmp_path, timeout=60, check=False)

    return run


@pytest.fixture
def image_name(docker_client: docker.DockerClient) -> Iterator[str]:
    """A name for an image, which is removed after the test; to be asked for before the sandboxes that are made of it."""
    name = f"remote-env-test/snapshot:{uuid.uuid4().hex[:12]}"
    yield name
    for image in docker_client.images.list(name):
        docker_client.images.remove(image.id, force=True)


def config_of(image: str) -> dict[str, Any]:
    (found,) = json.loads(engine("image", "inspect", image))
    config: dict[str, Any] = found["Config"]
    return config


# ------------------------------------------------------------------------------------------------------------ cp


def test_a_project_goes_in_and_its_results_come_out(sandbox: Sandbox, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "project" / "src").mkdir(parents=True)
    (tmp_path / "project" / "build").write_text("#!/bin/sh\nmkdir -p out; wc -c < src/data > out/size; ln -s size out/latest\n")
    (tmp_path / "project" / "build").chmod(0o755)
    (tmp_path / "project" / "src" / "data").write_bytes(bytes(1234567))
    assert cli("cp", "project", f"{sandbox.id}:/srv/").returncode == 0
    sandbox.run("cd /srv/project && ./build", check=True)
    done = cli("cp", f"{sandbox.id}:/srv/project/out/.", "results")
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "results" / "size").read_text().strip() == "1234567"
    assert os.readlink(tmp_path / "results" / "latest") == "size"


def test_streams_go_both_ways(sandbox: Sandbox, cli: Cli) -> None:
    content = bytes(range(256)) * 20_000
    assert cli("cp", "-", f"{sandbox.id}:/f", stdin=content).returncode == 0
    assert cli("cp", f"{sandbox.id}:/f", "-").stdout == content
    tar = cli("cp", f"{sandbox.id}:/etc", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        assert "etc/passwd" in opened.getnames()
    assert cli("cp", "--tar", "-", f"{sandbox.id}:/copy", stdin=tar).returncode == 0
    assert sandbox.run("cmp /etc/passwd /copy/etc/passwd").returncode == 0


def test_failures_are_one_line_and_exit_code_1(sandbox: Sandbox, cli: Cli) -> None:
    for words in (("cp", f"{sandbox.id}:/none", "."), ("cp", "none", f"{sandbox.id}:/"), ("cp", f"{sandbox.id}:/dev/zero", "x")):
        done = cli(*words)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1), done.stderr


# ---------------------------------------------------------------------------------------------------------- diff


def test_diff_says_what_has_changed_and_nothing_of_ours(sandbox: Sandbox, cli: Cli) -> None:
    assert sandbox.diff() == []
    assert cli("diff", sandbox.id).stdout == b""
    sandbox.run("echo x > /new; rm /etc/group; chmod 600 /etc/passwd", check=True)
    assert cli("diff", sandbox.id).stdout.decode().splitlines() == ["C /etc", "D /etc/group", "C /etc/passwd", "A /new"]
    document = json.loads(cli("diff", "--json", sandbox.id).stdout)
    assert {"path": "/new", "kind": "added"} in document["changes"]


# ------------------------------------------------------------------------------------------------------ snapshot


def images_that_name(client: docker.DockerClient, sandbox_id: str) -> list[str]:
    """The engine's images in whose description the sandbox occurs."""
    found = []
    for image in client.images.list(all=True):
        with contextlib.suppress(docker.errors.ImageNotFound):  # another test's, gone since
            image.reload()
            if sandbox_id in json.dumps(image.attrs):
                found.append(str(image.id))
    return found


def test_an_image_of_a_sandbox_is_as_its_own_but_for_the_files(
    image_name: str, make_sandbox: MakeSandbox, cli: Cli, nonroot_image: str, docker_client: docker.DockerClient
) -> None:
    sandbox = make_sandbox(NONROOT, env={"SECRET": "x", "IMAGE_SETTING": "changed"}, labels={"mine": "too"}, workdir="/tmp")
    sandbox.run("echo kept > /home/app/file", check=True)
    done = cli("snapshot", sandbox.id, image_name)
    assert done.returncode == 0
    assert done.stdout.decode().strip() == json.loads(engine("image", "inspect", image_name))[0]["Id"]
    assert config_of(image_name) == config_of(NONROOT)
    assert images_that_name(docker_client, sandbox.id) == []  # nothing lies about beside it
    again = make_sandbox(image_name)
    shown = again.run("cat file; id -un; pwd; echo ${SECRET-none} $IMAGE_SETTING", check=True).text
    assert shown == "kept\napp\n/home/app\nnone kept\n"


def test_a_command_goes_on_while_an_image_is_made(sandbox: Sandbox, image_name: str) -> None:
    running = sandbox.start("i=0; while [ ! -e /stop ]; do i=$((i + 1)); echo $i > /count; done; echo done")
    taken = sandbox.snapshot(image_name)
    assert (taken.state, taken.image) == ("ready", image_name)
    counted = int(sandbox.read_text("/count") or 0)
    sandbox.run("touch /stop", check=True)
    assert running.wait(30).text == "done\n"
    assert int(sandbox.read_text("/count")) >= counted
    assert sandbox.record.state == "running"


def test_the_same_snapshot_asked_for_again_is_made_once(sandbox: Sandbox, http: Http, image_name: str) -> None:
    body = {"id": uuid.uuid4().hex, "image": image_name}
    path = f"/v1/sandboxes/{sandbox.id}/snapshot"
    first = http("POST", path, epoch=sandbox.epoch, wait=30, json=body)
    assert (first.status_code, first.headers[EPOCH_HEADER]) == (201, sandbox.epoch)
    sandbox.write("/later", b"x")
    assert http("POST", path, epoch=sandbox.epoch, wait=30, json=body).json() == first.json()
    other = http("POST", path, epoch=sandbox.epoch, wait=30, json={**body, "image": f"{image_name}-2"})
    assert (other.status_code, other.json()["code"]) == (422, "id_conflict")


def test_a_snapshot_needs_a_name_a_sandbox_and_its_epoch(sandbox: Sandbox, http: Http) -> None:
    for name in ("Upper/Case", "a b", "../x", "name@sha256:" + "0" * 64, ""):
        with pytest.raises(InvalidSpec):
            sandbox.snapshot(name)
    path = f"/v1/sandboxes/{sandbox.id}"
    assert http("POST", f"{path}/snapshot", json={"image": "x"}).status_code == 428
    assert http("GET", f"{path}/diff", epoch="another").status_code == 412
    assert http("GET", f"/v1/sandboxes/{'0' * 32}/diff", epoch="another").status_code == 404


def test_a_sandbox_that_is_gone_has_no_image(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    again = sandbox._client.sandbox(sandbox.id)
    sandbox.remove()
    with pytest.raises(SandboxGone):
        again.snapshot("remote-env-test/none")
    with pytest.raises(SandboxGone):
        sandbox.diff()


class Reluctant(docker.APIClient):
    """An engine that wants each layer to be in an archive that it loads."""

    def load_image(self, data: Any, quiet: bool | None = None) -> Any:
        return iter([{"error": "layer not found"}])


def test_an_engine_that_takes_no_configuration_alone_makes_an_image_that_is_none_of_ours(
    image_name: str, make_sandbox: MakeSandbox, docker_host: str, nonroot_image: str
) -> None:
    sandbox = make_sandbox(NONROOT, env={"SECRET": "x"})
    sandbox.run("echo kept > file", check=True)
    api = Reluctant(base_url=docker_host, version="auto")
    try:
        commit(api, str(sandbox.container_id), image_name, OURS)
    finally:
        api.close()
    made, original = config_of(image_name), config_of(NONROOT)
    assert [made["Labels"][label] for label in OURS] == ["", "", ""]
    assert {name: made[name] for name in ("Entrypoint", "Cmd", "User", "WorkingDir")} == {
        name: original[name] for name in ("Entrypoint", "Cmd", "User", "WorkingDir")
    }
    assert "SECRET=" in made["Env"] and "IMAGE_SETTING=kept" in made["Env"]
    assert make_sandbox(image_name).run("cat file").text == "kept\n"
