"""The adapter behaves as mini-swe-agent's own docker environment does, and the agent's own loop runs on it."""

from __future__ import annotations

import gc
import json
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remote_env import ImageNotFound, SandboxGone
from remote_env.harness.minisweagent import RemoteDockerEnvironment
from tests.support.outside import docker, processes, until
from tests.support.server import BUSYBOX, SANDBOX, Server

SH: dict[str, Any] = {"image": BUSYBOX, "interpreter": ["sh", "-c"], "run_args": ["--rm", "--memory", "128m"]}
Make = Callable[..., RemoteDockerEnvironment]


@pytest.fixture(autouse=True)
def _quiet_peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MSWEA_SILENT_STARTUP", "1")
    monkeypatch.setenv("MSWEA_GLOBAL_CONFIG_DIR", str(tmp_path))


@pytest.fixture
def make(server: Server, sandbox_image: str, busybox_image: str) -> Iterator[Make]:
    """Environments on the shared server; cleaned up after the test. Busybox unless told otherwise."""
    made: list[RemoteDockerEnvironment] = []

    def make_one(**config: Any) -> RemoteDockerEnvironment:
        made.append(RemoteDockerEnvironment(**{**SH, "url": server.url, "token": server.token, **config}))
        return made[-1]

    yield make_one
    for each in made:
        each.cleanup()


@pytest.fixture(scope="module")
def shared(server: Server, sandbox_image: str) -> Iterator[RemoteDockerEnvironment]:
    """One environment of the default image and the default interpreter."""
    env = RemoteDockerEnvironment(
        image=SANDBOX, cwd="/tmp", url=server.url, token=server.token, run_args=["--memory", "256m"], env={"A": "1", "B": "2"}
    )
    yield env
    env.cleanup()


def exists(container_id: str | None) -> bool:
    return subprocess.run(["docker", "inspect", str(container_id)], capture_output=True, check=False).returncode == 0


# ------------------------------------------------------------------------------------------------- as its own does


def test_output_and_exit_code_come_back(shared: RemoteDockerEnvironment) -> None:
    answer = shared.execute({"command": "echo 'hello world'; echo apart >&2; exit 42"})
    assert (answer["output"], answer["returncode"], answer["exception_info"]) == ("hello world\napart\n", 42, "")
    assert "exception_type" not in answer["extra"]


def test_a_bare_string_is_a_command_too(shared: RemoteDockerEnvironment) -> None:
    assert shared.execute("echo bare")["output"] == "bare\n"


def test_commands_run_in_the_configured_directory_unless_told_otherwise(shared: RemoteDockerEnvironment) -> None:
    assert shared.execute({"command": "pwd"})["output"] == "/tmp\n"
    assert shared.execute({"command": "pwd"}, cwd="/usr/lib")["output"] == "/usr/lib\n"


def test_a_missing_working_directory_of_the_configuration_is_made(make: Make) -> None:
    assert make(cwd="/testbed/deep").execute({"command": "pwd"})["output"] == "/testbed/deep\n"


def test_a_directory_that_does_not_exist_is_told_and_nothing_runs(shared: RemoteDockerEnvironment) -> None:
    answer = shared.execute({"command": "echo ran > /tmp/ran-nowhere"}, cwd="/nowhere")
    assert (answer["returncode"], answer["extra"]["ran"]) == (-1, False)
    assert "working directory" in answer["exception_info"]
    assert shared.execute({"command": "test -e /tmp/ran-nowhere"})["returncode"] == 1


def test_variables_of_the_configuration_are_set(shared: RemoteDockerEnvironment) -> None:
    assert shared.execute({"command": "echo $A $B"})["output"] == "1 2\n"


def test_variables_are_forwarded_as_they_are_when_the_command_runs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(forward_env=["HOST_A", "HOST_B"])
    monkeypatch.setenv("HOST_A", "from the host")
    monkeypatch.delenv("HOST_B", raising=False)
    assert env.execute({"command": 'echo "[$HOST_A][$HOST_B]"; env | grep -c HOST_B'})["output"] == "[from the host][]\n0\n"
    monkeypatch.setenv("HOST_A", "another day")
    assert env.execute({"command": "echo $HOST_A"})["output"] == "another day\n"


def test_a_variable_of_the_configuration_goes_before_a_forwarded_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFLICT", "from the host")
    assert make(env={"CONFLICT": "from the configuration"}, forward_env=["CONFLICT"]).execute("echo $CONFLICT")["output"] == (
        "from the configuration\n"
    )


def test_forwarded_values_are_not_in_the_containers_own_environment(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker inspect` shows a container's environment to everybody; keys are forwarded."""
    monkeypatch.setenv("API_KEY", "k3y")
    env = make(forward_env=["API_KEY"])
    assert env.execute("echo $API_KEY")["output"] == "k3y\n"
    assert "k3y" not in docker("inspect", str(env.container_id))


def test_a_timeout_keeps_the_output_and_speaks_as_its_own_does(shared: RemoteDockerEnvironment) -> None:
    answer = shared.execute({"command": "echo before; sleep 1000; echo after"}, timeout=1)
    assert (answer["output"], answer["returncode"]) == ("before\n", -1)
    expected = str(subprocess.TimeoutExpired(["bash", "-lc", "echo before; sleep 1000; echo after"], 1))
    assert answer["extra"]["exception"] == expected
    assert answer["extra"]["exception_type"] == "TimeoutExpired"
    assert answer["exception_info"] == f"An error occurred while executing the command: {expected}"


def test_a_timed_out_command_is_gone_with_everything_it_started(shared: RemoteDockerEnvironment) -> None:
    """Its own leaves it running."""
    assert shared.execute({"command": "setsid sleep 4321 & sleep 4321"}, timeout=1)["returncode"] == -1
    assert not [line for line in processes(shared.sandbox) if "4321" in line]


def test_the_configured_timeout_holds_where_none_is_given(make: Make) -> None:
    assert "timed out after 1 seconds" in make(timeout=1).execute("sleep 1000")["exception_info"]


def test_what_is_no_utf8_is_replaced(shared: RemoteDockerEnvironment) -> None:
    assert shared.execute("printf 'a\\377b'")["output"] == "a\ufffdb"


def test_the_interpreter_is_the_configured_one(make: Make) -> None:
    assert make(image=SANDBOX, interpreter=["python3", "-c"]).execute("import sys; print(sys.version_info[0])")["output"] == "3\n"


def test_a_missing_interpreter_is_told_in_words(make: Make) -> None:
    answer = make(interpreter=["bash", "-lc"]).execute("echo hi")
    assert answer["returncode"] == 127
    assert "could not be started" in answer["output"]


def test_the_default_interpreter_is_a_login_shell(shared: RemoteDockerEnvironment) -> None:
    assert shared.execute("shopt -q login_shell && echo login")["output"] == "login\n"


def test_the_container_id_is_the_engines_own(shared: RemoteDockerEnvironment) -> None:
    assert docker("inspect", "--format", "{{.Id}}", str(shared.container_id)).strip() == shared.container_id


def test_run_args_reach_the_container(make: Make) -> None:
    env = make(run_args=["--rm", "--memory=96m", "--cpus", "0.5", "--network", "none", "--pids-limit", "64", "-e", "X=y", "--user", "app"])
    host = json.loads(docker("inspect", str(env.container_id)))[0]["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["NetworkMode"], host["PidsLimit"]) == (96 << 20, 500_000_000, "none", 64)
    assert env.execute("echo $X; id -un")["output"] == "y\napp\n"


@pytest.fixture(scope="module")
def pair(server: Server, sandbox_image: str) -> Iterator[tuple[Any, RemoteDockerEnvironment]]:
    """mini-swe-agent's own docker environment, and ours, from one configuration."""
    from minisweagent.environments.docker import DockerEnvironment

    config: dict[str, Any] = {"image": SANDBOX, "cwd": "/srv", "env": {"A": "ä b"}, "run_args": ["--rm", "--network", "none", "-m", "256m"]}
    theirs: Any = DockerEnvironment(**config)
    try:
        ours = RemoteDockerEnvironment(**config, url=server.url, token=server.token)
        yield theirs, ours
        ours.cleanup()
    finally:
        docker("rm", "-f", theirs.container_id)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "true",
        "exit 255",
        "echo to stderr >&2; exit 3",
        "printf 'no newline'",
        "echo 'quotes \" $A `date +%Y` '\\''single'\\'' \\ ünïcödé'",
        "echo one\necho two\nfalse",
        "cat <<'END'\n$A stays\nEND",
        "pwd; cd /; pwd",
        "cat",
        "printf '\\377\\000x'",
        "kill -9 $$",
        "kill -TERM $$",
        "no-such-program",
        "syntax ( error",
        "echo $A $HOME $USER $PATH $PWD $SHLVL; env | cut -d= -f1 | sort",
        "id; umask; test -t 0; echo $?; ls /proc/self/fd",
        "sleep 1000 & echo left",
        "seq 20000",
    ],
)
def test_an_answer_is_the_same_as_from_its_own_environment(pair: tuple[Any, RemoteDockerEnvironment], command: str) -> None:
    theirs, ours = (env.execute({"command": command}) for env in pair)
    assert (ours["output"], ours["returncode"], ours["exception_info"]) == (
        theirs["output"],
        theirs["returncode"],
        theirs["exception_info"],
    )


def test_a_timeout_has_the_same_keys_and_types_as_from_its_own_environment(pair: tuple[Any, RemoteDockerEnvironment]) -> None:
    theirs, ours = (env.execute({"command": "echo before; sleep 1000"}, timeout=1) for env in pair)
    assert (ours["output"], ours["returncode"]) == (theirs["output"], theirs["returncode"]) == ("before\n", -1)
    assert ours.keys() == theirs.keys()
    assert ours["extra"].keys() >= theirs["extra"].keys()
    assert ours["extra"]["exception_type"] == theirs["extra"]["exception_type"]


def test_carriage_returns_are_kept(shared: RemoteDockerEnvironment) -> None:
    """Its own makes newlines of them, so that a submitted patch of a file with CRLF does not apply."""
    assert shared.execute("printf 'a\\r\\nb\\rc'")["output"] == "a\r\nb\rc"


# ------------------------------------------------------------------------------------------------------ submission


def test_the_marker_on_the_first_line_submits_what_follows(shared: RemoteDockerEnvironment) -> None:
    from minisweagent.exceptions import Submitted

    with pytest.raises(Submitted) as caught:
        shared.execute("echo; echo '  COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT '; echo the; echo patch")
    expected = {"role": "exit", "content": "the\npatch\n", "extra": {"exit_status": "Submitted", "submission": "the\npatch\n"}}
    assert caught.value.messages == (expected,)


@pytest.mark.parametrize(
    "command",
    [
        "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; false",
        "echo first; echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT",
        "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT and more",
        "true",
    ],
)
def test_nothing_else_submits(shared: RemoteDockerEnvironment, command: str) -> None:
    assert "COMPLETE" in shared.execute(command)["output"] or command == "true"


# ------------------------------------------------------------------------------------------- templates, trajectories


def test_template_variables_have_its_keys_and_speak_of_the_sandbox(make: Make) -> None:
    from minisweagent.environments.docker import DockerEnvironmentConfig

    env = make()
    variables = env.get_template_vars(task="x", env={"more": "1"})
    assert variables.keys() >= {*DockerEnvironmentConfig.model_fields, *platform.uname()._asdict(), "task"}
    assert variables["node"] == str(env.container_id)[:12]
    assert variables["system"] == "Linux"
    assert variables["release"] == env.execute("uname -r")["output"].strip()
    assert variables["env"] == {"more": "1"}


def test_its_own_prompt_renders_with_them(make: Make) -> None:
    import yaml  # type: ignore[import-untyped]
    from jinja2 import StrictUndefined, Template
    from minisweagent import package_dir

    template = yaml.safe_load((package_dir / "config" / "default.yaml").read_text())["agent"]["instance_template"]
    assert "Linux" in Template(template, undefined=StrictUndefined).render(**make().get_template_vars(task="a task"))


def test_a_trajectory_has_its_shape_and_no_token(server: Server, make: Make) -> None:
    serialized = make(env={"A": "1"}).serialize()
    assert serialized["info"]["config"]["environment_type"] == "remote_env.harness.minisweagent.RemoteDockerEnvironment"
    assert serialized["info"]["config"]["environment"]["env"] == {"A": "1"}
    assert server.token not in json.dumps(serialized)


# ------------------------------------------------------------------------------------------------------ life and end


def test_cleanup_removes_the_container_and_may_be_repeated(make: Make) -> None:
    env = make()
    assert exists(env.container_id)
    env.cleanup()
    assert not exists(env.container_id)
    env.cleanup()
    with pytest.raises(SandboxGone):
        env.execute("echo hi")


def test_a_collected_environment_takes_its_container_along(server: Server, busybox_image: str) -> None:
    env = RemoteDockerEnvironment(**SH, url=server.url, token=server.token)
    container_id = env.container_id
    del env
    gc.collect()
    until(lambda: not exists(container_id), "the container of a collected environment is removed")


def test_after_container_timeout_the_sandbox_is_removed_and_the_agent_is_told_once(make: Make) -> None:
    env = make(container_timeout="3s")
    assert env.execute("echo here")["returncode"] == 0
    until(lambda: not exists(env.container_id), "the container is removed after its time")
    until(lambda: env.sandbox.gone is not None, "the environment knows")
    answer = env.execute("echo hi")
    assert (answer["returncode"], answer["extra"]["exception_type"], answer["extra"]["ran"]) == (-1, "SandboxGone", False)
    assert "container_timeout" in answer["exception_info"]
    with pytest.raises(SandboxGone):
        env.execute("echo hi")


def test_a_command_that_runs_when_the_time_is_over_is_ended_with_its_sandbox(make: Make) -> None:
    env = make(container_timeout="2s")
    assert env.execute("sleep 1000", timeout=100)["returncode"] == -1
    until(lambda: not exists(env.container_id), "the container is removed after its time")


def test_a_container_removed_by_somebody_else_is_told_once_and_then_raised(make: Make) -> None:
    """An agent must not go on with a corpse."""
    env = make()
    docker("rm", "-f", str(env.container_id))
    answer = env.execute("echo hi")
    assert (answer["output"], answer["returncode"]) == ("", -1)
    assert answer["exception_info"].startswith("An error occurred while executing the command: ")
    with pytest.raises(SandboxGone):
        env.execute("echo hi")


def test_a_missing_image_is_told_by_name(make: Make) -> None:
    with pytest.raises(ImageNotFound, match="remote-env/no-such-image"):
        make(image="remote-env/no-such-image:latest", run_args=["--pull", "never"])


def test_threads_share_an_environment(make: Make) -> None:
    env = make()
    outputs: list[str] = []
    threads = [threading.Thread(target=lambda n=n: outputs.append(env.execute(f"echo {n}")["output"])) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs, key=int) == [f"{n}\n" for n in range(16)]


# ------------------------------------------------------------------------------------------------- the agent's loop


def run_agent(environment: dict[str, Any], commands: list[str], **agent: Any) -> tuple[dict[str, Any], Any]:
    """mini-swe-agent's own agent with its deterministic model, and an environment made from a configuration."""
    from minisweagent.agents.default import DefaultAgent
    from minisweagent.environments import get_environment
    from minisweagent.models.test_models import DeterministicModel, make_output

    outputs = [make_output(command, [{"command": command}], cost=0.0) for command in commands]
    model = DeterministicModel(outputs=outputs, cost_per_call=0.0)  # type: ignore[no-untyped-call]
    env: Any = get_environment({"environment_class": "remote_env.harness.minisweagent.RemoteDockerEnvironment", **environment})
    player = DefaultAgent(model, env, system_template="You are on {{system}}.", instance_template="{{task}}", **agent)
    try:
        return player.run("a task"), player
    finally:
        env.cleanup()


SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat /tmp/x"


def test_the_agents_own_loop_runs_and_its_trajectory_names_each_execution(server: Server, busybox_image: str, tmp_path: Path) -> None:
    config = {**SH, "url": server.url, "token": server.token, "timeout": 1}
    commands = ["echo one >> /tmp/x", "echo slow; sleep 1000", "echo two >> /tmp/x", SUBMIT]
    result, player = run_agent(config, commands, output_path=tmp_path / "trajectory.json")
    assert result == {"exit_status": "Submitted", "submission": "one\ntwo\n"}
    observations = [message for message in player.messages if "raw_output" in message.get("extra", {})]
    assert [message["extra"]["returncode"] for message in observations] == [0, -1, 0]
    assert "timed out after 1 seconds" in observations[1]["content"]
    trajectory = (tmp_path / "trajectory.json").read_text()
    assert server.token not in trajectory
    assert all(message["extra"]["execution_id"] in trajectory for message in observations)


def test_the_agent_does_not_notice_a_server_killed_and_started_again(make_server: Callable[..., Server], busybox_image: str) -> None:
    """A server update in the middle of a batch."""
    own = make_server().start()
    config = {**SH, "url": own.url, "token": own.token, "run_id": "run-of-this-test"}
    commands = ["echo begin >> /tmp/x; touch /tmp/begun; until test -e /tmp/go; do sleep 0.05; done; echo end >> /tmp/x", SUBMIT]

    def crash() -> None:
        until(own.containers, "the sandbox is there")
        container_id = own.containers()[0]
        begun = ["docker", "exec", container_id, "test", "-e", "/tmp/begun"]
        until(lambda: subprocess.run(begun, capture_output=True, check=False).returncode == 0, "the command has begun")
        own.restart()
        docker("exec", container_id, "touch", "/tmp/go")

    saboteur = threading.Thread(target=crash)
    saboteur.start()
    result, _ = run_agent(config, commands)
    saboteur.join()
    assert result == {"exit_status": "Submitted", "submission": "begin\nend\n"}
