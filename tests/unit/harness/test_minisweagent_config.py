"""The adapter for mini-swe-agent, as far as it needs no server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from remote_env import InvalidSpec
from remote_env.harness.minisweagent import RemoteDockerEnvironment, RemoteDockerEnvironmentConfig

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _quiet_peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """mini-swe-agent greets when it is imported, and makes a directory for its settings."""
    monkeypatch.setenv("MSWEA_SILENT_STARTUP", "1")
    monkeypatch.setenv("MSWEA_GLOBAL_CONFIG_DIR", str(tmp_path))


def test_its_own_fields_are_here_with_its_defaults() -> None:
    from minisweagent.environments.docker import DockerEnvironmentConfig

    theirs = DockerEnvironmentConfig(image="python:3.12").model_dump()
    ours = RemoteDockerEnvironmentConfig(image="python:3.12").model_dump()
    assert {name: ours[name] for name in theirs} == theirs


def test_it_is_found_under_its_class_path_as_a_configuration_names_it() -> None:
    from minisweagent.environments import get_environment_class

    assert get_environment_class("remote_env.harness.minisweagent.RemoteDockerEnvironment") is RemoteDockerEnvironment


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="time_out"):
        RemoteDockerEnvironment(image="python:3.12", time_out=60)


def test_refused_run_args_are_told_before_any_server_is_asked() -> None:
    with pytest.raises(InvalidSpec, match="--privileged"):
        RemoteDockerEnvironment(image="python:3.12", url="http://127.0.0.1:9", run_args=["--rm", "--privileged"])


def test_a_bad_container_timeout_is_told_before_any_server_is_asked() -> None:
    with pytest.raises(InvalidSpec, match="container_timeout"):
        RemoteDockerEnvironment(image="python:3.12", url="http://127.0.0.1:9", container_timeout="soon")


def test_the_token_is_in_no_dump_and_no_repr() -> None:
    config = RemoteDockerEnvironmentConfig(image="python:3.12", token="s3cret-token")
    assert config.token is not None
    assert config.token.get_secret_value() == "s3cret-token"
    assert "s3cret-token" not in f"{config!r} {config.model_dump()} {config.model_dump(mode='json')} {config.model_dump_json()}"
    assert "token" not in config.model_dump()


def test_importing_neither_the_package_nor_the_adapter_imports_the_peer() -> None:
    program = "import sys, remote_env, remote_env.harness.minisweagent; print([m for m in sys.modules if m.startswith('minisweagent')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_peer_the_adapter_still_imports() -> None:
    program = "import sys; sys.modules['minisweagent'] = None; import remote_env.harness.minisweagent"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_environment_that_could_not_be_made_is_collected_without_a_word() -> None:
    """`__del__` runs on an object whose `__init__` failed half way."""
    program = (
        "from remote_env.harness.minisweagent import RemoteDockerEnvironment as E\n"
        "try: E(image='x', run_args=['--privileged'])\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    environ = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "InvalidSpec\n", "")
