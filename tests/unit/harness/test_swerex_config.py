"""The deployment's configuration, alone and in configurations that are made of SWE-ReX's union of deployments."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from swerex.deployment import config as peer
from swerex.deployment.abstract import AbstractDeployment
from swerex.exceptions import DeploymentNotStartedError

from remote_env.harness.swerex import RemoteEnvDeployment, RemoteEnvDeploymentConfig, register


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "DeploymentConfig", peer.DeploymentConfig)  # put back afterwards
    register()
    register()


def environment_config() -> type[BaseModel]:
    """Made as SWE-agent makes its EnvironmentConfig."""

    class EnvironmentConfig(BaseModel):
        deployment: peer.DeploymentConfig = Field(default_factory=lambda: peer.DockerDeploymentConfig(image="python:3.11"))
        model_config = ConfigDict(extra="forbid")

    return EnvironmentConfig


def read(deployment: dict[str, Any]) -> Any:
    return environment_config().model_validate({"deployment": deployment}).deployment  # type: ignore[attr-defined]


DOCKER: dict[str, Any] = {
    "image": "python:3.12", "port": 8000, "docker_args": ["--memory=10g", "--platform", "linux/amd64"], "startup_timeout": 20.0,
    "pull": "never",    "python_standalone_dir": "/root", "container_runtime": "docker",
}  # fmt: skip


@pytest.mark.usefixtures("registered")
def test_of_a_docker_deployment_one_line_is_changed() -> None:
    assert isinstance(read({"type": "docker", **DOCKER}), peer.DockerDeploymentConfig)
    changed = read({"type": "remote_env", **DOCKER})
    assert isinstance(changed, RemoteEnvDeploymentConfig)
    assert (changed.image, changed.platform, changed.docker_args) == ("python:3.12", "linux/amd64", ["--memory=10g"])
    assert isinstance(peer.get_deployment(changed), RemoteEnvDeployment)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("kind", ["local", "docker", "dummy"])
def test_other_deployments_stay_what_they_are(kind: str) -> None:
    fields = {} if kind != "docker" else {"image": "x"}
    assert read({"type": kind, **fields}).type == kind


@pytest.mark.usefixtures("registered")
def test_what_names_no_type_stays_a_docker_deployment() -> None:
    assert type(read({"image": "x"})) is peer.DockerDeploymentConfig


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("fields", "complaint"),
    [({"imag": "x"}, "deployment.imag\n"), ({"docker_args": ["--privileged"]}, "docker_args: --privileged is not possible")],
)
def test_a_mistake_in_it_is_told_and_makes_no_other_deployment(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        read({"type": "remote_env", **fields})


def test_in_python_it_is_taken_without_being_registered() -> None:
    made = environment_config()(deployment=RemoteEnvDeploymentConfig(image="x", url="http://h"))
    assert made.model_copy(deep=True).deployment.get_deployment()._config.url == "http://h"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("registered")
def test_the_token_is_in_no_dump_and_reaches_the_deployment() -> None:
    made = environment_config().model_validate({"deployment": {"type": "remote_env", "image": "x", "token": "s3cret"}})
    assert "s3cret" not in made.model_dump_json() and "s3cret" not in repr(made)
    deployment = made.deployment.get_deployment()  # type: ignore[attr-defined]
    assert deployment._config.token.get_secret_value() == "s3cret"


def test_what_a_batch_sets_afterwards_is_heeded() -> None:
    config = RemoteEnvDeploymentConfig(image="x")
    config.image, config.platform = "swebench/one:latest", "linux/amd64"
    deployment = RemoteEnvDeployment.from_config(config)
    assert (deployment._config.image, deployment._config.platform) == ("swebench/one:latest", "linux/amd64")


def test_a_deployment_that_is_not_started_says_so_and_stops_all_the_same() -> None:
    deployment = RemoteEnvDeployment(image="x")
    assert isinstance(deployment, AbstractDeployment)
    with pytest.raises(DeploymentNotStartedError):
        asyncio.run(deployment.is_alive())
    with pytest.raises(DeploymentNotStartedError):
        _ = deployment.runtime
    asyncio.run(deployment.stop())


def test_the_launcher_registers_before_swe_agent_is_imported_and_hands_its_arguments_on(tmp_path: Path) -> None:
    package = tmp_path / "sweagent" / "run"
    package.mkdir(parents=True)
    (package / "run.py").write_text(
        "import sys\n"
        "from pydantic import TypeAdapter\n"
        "from swerex.deployment.config import DeploymentConfig\n"
        "read = TypeAdapter(DeploymentConfig).validate_python\n"
        "def main():\n"
        "    print(type(read({'type': 'remote_env', 'image': 'x'})).__name__, *sys.argv[1:])\n"
    )
    command = [sys.executable, "-m", "remote_env.harness.sweagent", "run", "--config", "my.yaml"]
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("RemoteEnvDeploymentConfig run --config my.yaml\n", 0), done.stderr
