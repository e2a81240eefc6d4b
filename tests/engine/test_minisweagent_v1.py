"""The adapter for version 1 behaves as that version's own docker environment does. Its agent's loop: `test_minisweagent_batch`."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
from collections.abc import Iterator

import pytest

from remote_env import SandboxGone
from remote_env.harness.minisweagent_v1 import RemoteDockerEnvironment
from tests.engine.test_minisweagent_batch import VERSION_1
from tests.support.outside import docker, processes
from tests.support.peers import package_directory
from tests.support.server import BUSYBOX, Server


@pytest.fixture
def env(server: Server, busybox_image: str) -> Iterator[RemoteDockerEnvironment]:
    made = RemoteDockerEnvironment(
        image=BUSYBOX, interpreter=["sh", "-c"], run_args=["--memory", "128m"], url=server.url, token=server.token, env={"A": "1"}
    )
    yield made
    made.cleanup()


def own_fields() -> dict[str, str]:
    """The fields of its own configuration, read from its source: its package would be in the way of the other version's."""
    source = (package_directory(VERSION_1) / "minisweagent/environments/docker.py").read_text()
    config = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef) and node.name.endswith("Config"))
    return {
        each.target.id: ast.unparse(each.value) if each.value else ""
        for each in config.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def test_output_and_exit_code_come_back(env: RemoteDockerEnvironment) -> None:
    answer = env.execute("echo $A; echo apart >&2; exit 42")
    assert (answer["output"], answer["returncode"]) == ("1\napart\n", 42)
    assert env.execute("pwd", cwd="/tmp")["output"] == "/tmp\n"


def test_a_timeout_is_raised_with_the_output_until_then_and_the_command_is_dead(env: RemoteDockerEnvironment) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as raised:
        env.execute("echo before; sleep 1000", timeout=1)
    assert raised.value.output == b"before\n"
    assert raised.value.timeout == 1
    assert not any("sleep" in each for each in processes(env.sandbox))


def test_an_output_that_submits_is_left_to_the_agent(env: RemoteDockerEnvironment) -> None:
    assert env.execute("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo patch")["output"].endswith("\npatch\n")


def test_the_template_variables_are_the_configuration_with_its_own_fields_and_no_token(
    server: Server, env: RemoteDockerEnvironment
) -> None:
    variables = env.get_template_vars()
    assert own_fields().keys() <= variables.keys()
    assert variables == dataclasses.asdict(env.config)
    assert server.token not in json.dumps(variables)


def test_the_container_id_is_the_engines_own(env: RemoteDockerEnvironment) -> None:
    assert docker("inspect", "--format", "{{.Id}}", str(env.container_id)).strip() == env.container_id


def test_a_lost_sandbox_is_told_in_the_output_once_and_then_raised(env: RemoteDockerEnvironment) -> None:
    docker("rm", "-f", str(env.container_id))
    answer = env.execute("echo hi")
    assert answer["returncode"] == -1
    assert answer["exception_info"] in answer["output"]
    with pytest.raises(SandboxGone):
        env.execute("echo hi")
