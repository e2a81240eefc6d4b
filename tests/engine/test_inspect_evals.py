"""Inspect's own evaluations run on the provider; its sandboxes are cleaned up, by samples, by tasks and by hand; bad weather included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from inspect_ai import Task, eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import SandboxEnvironmentSpec, SandboxUnavailableError
from inspect_ai.util import sandbox as sample_sandbox

from remote_env import ImageNotFound
from remote_env.harness.inspect_ai import RemoteEnvSandboxEnvironment as Provider
from remote_env.harness.inspect_config import SandboxConfig
from remote_env.harness.inspect_results import OutcomeUnknown
from tests.support.inspect_samples import go, made, wait_for
from tests.support.outside import docker, until
from tests.support.server import BUSYBOX, SANDBOX, Server

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "docs/examples/inspect_task.py"

Config = Callable[..., SandboxConfig]


@pytest.fixture(scope="module")
def config(server: Server, sandbox_image: str, busybox_image: str) -> Config:
    return partial(SandboxConfig, url=server.url, token_file=str(server.data_dir / "token"), memory=256 << 20)


def own(server: Server, config: Config) -> SandboxConfig:
    """Sandboxes on a server of one's own."""
    return config(image=BUSYBOX, url=server.start().url, token_file=str(server.data_dir / "token"))


# ----------------------------------------------------------------------------------------------- samples and cleanup


def test_a_sample_may_have_several_sandboxes(config: Config) -> None:
    several = config(image=BUSYBOX, env={"WHO": "all"}, services={"other": {"env": {"WHO": "other"}}, "default": {}})
    with made(several) as environments:
        assert list(environments) == ["default", "other"]
        assert [go(each.exec, ["sh", "-c", "echo $WHO"]).stdout for each in environments.values()] == ["all\n", "other\n"]
        ids = {each.sandbox.id for each in environments.values()}
    assert len(ids) == 2
    assert all(each.sandbox.gone for each in environments.values())


def test_when_one_of_several_cannot_be_made_none_is_left(server: Server, config: Config) -> None:
    several = config(image=BUSYBOX, services={"default": {}, "other": {"image": "nowhere.invalid/nothing:1", "pull": "never"}})
    before = set(server.containers())
    with pytest.raises(ImageNotFound, match="nothing"):
        go(Provider.sample_init, "test", several, {})
    until(lambda: set(server.containers()) <= before, "the sandbox that was made is removed")


def test_a_sample_that_is_cancelled_while_its_sandbox_is_made_leaves_none(make_server: Callable[..., Server], config: Config) -> None:
    server = make_server()
    mine = own(server, config)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(Provider.sample_init, "test", mine, {})
            await anyio.to_thread.run_sync(partial(until, server.containers, "the container is there"))
            group.cancel_scope.cancel()

    anyio.run(run)
    until(lambda: not server.containers(), "the container is gone")


def test_a_server_that_is_not_there_is_told_before_the_first_sample(config: Config) -> None:
    with pytest.raises(PrerequisiteError) as refused:
        go(Provider.task_init, "test", config(url="http://127.0.0.1:9"))
    assert "remote_env" in str(refused.value.message)


def test_a_configuration_that_is_wrong_is_told_before_the_first_sample(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("imagine: a")
    with pytest.raises(PrerequisiteError) as refused:
        go(Provider.task_init, "test", str(tmp_path / "c.yaml"))
    assert "c.yaml: imagine: Extra inputs are not permitted" in str(refused.value.message)


def test_an_interrupted_sample_leaves_no_sandbox(server: Server, config: Config) -> None:
    async def run() -> str:
        environments: Any = await Provider.sample_init("test", config(image=BUSYBOX), {})
        with anyio.CancelScope(shield=True):
            await Provider.sample_cleanup("test", None, environments, True)
        container: str = environments["default"].sandbox.container_id
        return container

    assert anyio.run(run) not in server.containers()


def test_what_samples_left_behind_is_removed_at_the_tasks_end(server: Server, config: Config) -> None:
    async def run() -> list[str]:
        left = config(image=BUSYBOX, pids=77)
        other = config(image=BUSYBOX, pids=78)
        environments: Any = [await Provider.sample_init("test", each, {}) for each in (left, other)]
        await Provider.task_cleanup("shutdown", left, True)
        assert (await environments[1]["default"].exec(["true"])).success  # another task's is left alone
        await Provider.sample_cleanup("test", other, environments[1], False)
        return [each["default"].sandbox.container_id for each in environments]

    assert not set(anyio.run(run)) & set(server.containers())


def test_a_sandbox_that_was_removed_is_unavailable_to_commands_and_to_people(config: Config) -> None:
    with made(config(image=BUSYBOX)) as environments:
        env = environments["default"]
        env.sandbox._base.sandbox(env.sandbox.id).remove()  # type: ignore[attr-defined]  # by another handle, as somebody else would
        with pytest.raises(SandboxUnavailableError):
            go(env.exec, ["true"])
        with pytest.raises(ConnectionError, match="gone"):
            go(env.connection)


# -------------------------------------------------------------------------------------------- evaluations of Inspect


@pytest.fixture
def around(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Where somebody evaluates: in the project's directory, with the server's address and token."""
    monkeypatch.chdir(ROOT)
    variables = {**server.env, "TASK_IMAGE": SANDBOX, "INSPECT_LOG_DIR": str(tmp_path / "logs"), "INSPECT_DISPLAY": "none"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **variables}


def evaluate(task: Any, *outputs: ModelOutput, **options: Any) -> EvalLog:
    for output in outputs:
        output.usage = ModelUsage()  # else the mock model would count tokens, with a table from the internet
    return eval(task, model=get_model("mockllm/model", custom_outputs=list(outputs)), display="none", **options)[0]


def test_the_documented_example_is_evaluated(around: dict[str, str], server: Server) -> None:
    repair = ModelOutput.for_tool_call("mockllm", "bash", {"command": "sed -i 's/(len(numbers) - 1)/len(numbers)/' statistic.py"})
    log = evaluate(EXAMPLE, repair, ModelOutput.from_content("mockllm", "Done."))
    assert log.status == "success", log.error
    assert log.samples is not None
    score = next(iter((log.samples[0].scores or {}).values()))
    assert score.value == "C", score.explanation
    assert "sum(numbers) / len(numbers)" in (score.answer or "")
    assert log.eval.sandbox == SandboxEnvironmentSpec("remote_env", "inspect_task.yaml")


def test_a_model_is_told_of_a_tool_that_fails(around: dict[str, str]) -> None:
    """A timeout and a missing program reach it as Inspect words them, and the sample goes on."""
    slow = ModelOutput.for_tool_call("mockllm", "bash", {"command": "echo begun; sleep 600"})
    log = evaluate(EXAMPLE, slow, ModelOutput.from_content("mockllm", "I give up."), task_args={"timeout": 1})
    assert log.status == "success", log.error
    assert log.samples is not None
    [answer] = [message for message in log.samples[0].messages if message.role == "tool"]
    assert answer.error is not None and answer.error.type == "timeout"
    assert "begun" in answer.text


@solver
def look(seen: list[str]) -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        for name in ("default", "other"):
            result = await sample_sandbox(name).exec(["sh", "-c", "echo $NAME; cat file setup"])
            seen.append(result.stdout)
        return state

    return solve


def test_files_setup_and_metadata_of_a_sample_reach_its_sandboxes(around: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        f"{{image: '{SANDBOX}', memory: 128m, env: {{NAME: '${{SAMPLE_METADATA_NAME}}'}}, workdir: /tmp, services: {{default: , other: }}}}"
    )
    sample = Sample(
        input="x", metadata={"name": "sam"}, files={"file": "of default\n", "other:file": "of other\n"}, setup="echo set up > setup"
    )
    seen: list[str] = []
    task = Task(dataset=[sample], solver=look(seen), sandbox=("remote_env", str(tmp_path / "c.yaml")))
    log = evaluate(task)
    assert log.status == "success", log.error
    assert seen == ["sam\nof default\nset up\n", "sam\nof other\n"]


PROGRAM = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.solver import solver
from inspect_ai.util import sandbox

@solver
def touch():
    async def solve(state, generate):
        assert (await sandbox().exec(["touch", "x"])).success
        return state
    return solve

@task
def touching():
    return Task(dataset=[Sample(input="x")], solver=touch(), sandbox="remote_env")
"""


def inspect(around: dict[str, str], directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("inspect")), *words]
    options: dict[str, Any] = {"cwd": directory, "stdin": subprocess.DEVNULL, "timeout": 120}
    return subprocess.run(command, env=around, capture_output=True, text=True, check=False, **options)


def test_the_command_line_evaluates_keeps_and_cleans_up(
    around: dict[str, str], make_server: Callable[..., Server], tmp_path: Path
) -> None:  # fmt: skip
    """The configuration beside the task is found. `--no-sandbox-cleanup` leaves the sandbox and says how to get at it; `inspect
    sandbox cleanup` removes it, and nobody else's."""
    (tmp_path / "touching.py").write_text(PROGRAM)
    (tmp_path / "remote_env.yaml").write_text(f"image: {BUSYBOX}")
    server = make_server()
    around |= server.start().env
    done = inspect(around, tmp_path, "eval", "touching.py", "--model", "mockllm/model", "--no-sandbox-cleanup", "--display", "plain")
    assert done.returncode == 0, done.stdout + done.stderr
    with server.client() as client:
        foreign = client.create_sandbox(BUSYBOX)
        [left] = [each for each in client.sandboxes() if each.id != foreign.id]
        assert left.record.image == BUSYBOX
        assert left.id in done.stdout
        refused = inspect(around, tmp_path, "sandbox", "cleanup", "remote_env", foreign.id)
        assert refused.returncode != 0 and "has not made" in refused.stdout + refused.stderr
        cleaned = inspect(around, tmp_path, "sandbox", "cleanup", "remote_env")
        assert cleaned.returncode == 0 and left.id in cleaned.stdout, cleaned.stdout + cleaned.stderr
        assert [each.id for each in client.sandboxes()] == [foreign.id]
        foreign.remove()


def test_one_sandbox_is_cleaned_up_by_its_id(around: dict[str, str], config: Config) -> None:
    with made(config(image=BUSYBOX)) as one, made(config(image=BUSYBOX)) as other:
        cleaned = inspect(around, ROOT, "sandbox", "cleanup", "remote_env", one["default"].sandbox.id)
        assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
        with pytest.raises(SandboxUnavailableError):
            go(one["default"].exec, ["true"])
        assert go(other["default"].exec, ["true"]).success


def test_a_configuration_comes_back_from_the_log(around: dict[str, str], config: Config) -> None:
    log = evaluate(Task(dataset=[Sample(input="x")], solver=[], sandbox=SandboxEnvironmentSpec("remote_env", config(image=BUSYBOX))))
    assert log.status == "success", log.error
    read = EvalLog.model_validate(json.loads(log.model_dump_json()))
    assert read.eval.sandbox is not None and read.eval.sandbox.config == config(image=BUSYBOX)


# ------------------------------------------------------------------------------------------------------- bad weather


async def beside(meanwhile: Callable[[], object], env: Provider, command: Callable[[], Any]) -> None:
    """Runs the command, which makes /tmp/begun, and in a thread what happens once it has."""

    async def happen() -> None:
        await env.exec(wait_for("/tmp/begun"))
        await anyio.to_thread.run_sync(meanwhile)

    async with anyio.create_task_group() as group:
        group.start_soon(happen)
        await command()


def test_a_command_runs_once_over_the_servers_restart(make_server: Callable[..., Server], config: Config) -> None:
    server = make_server()
    with made(own(server, config)) as environments:
        env = environments["default"]

        async def command() -> None:
            result = await env.exec(["sh", "-c", "echo x >> /tmp/begun; until [ -e /tmp/go ]; do sleep 0.02; done; cat /tmp/begun"])
            assert (result.stdout, result.returncode) == ("x\n", 0)

        def restart() -> None:
            server.restart()
            go(env.exec, ["touch", "/tmp/go"])

        go(beside, restart, env, command)


def test_a_sandbox_that_dies_under_a_command_is_unavailable_and_says_that_it_ran(config: Config) -> None:
    with made(config(image=BUSYBOX)) as environments:
        env = environments["default"]

        async def command() -> None:
            with pytest.raises(SandboxUnavailableError, match="it ran in part"):
                await env.exec(["sh", "-c", "touch /tmp/begun; sleep 600"])

        go(beside, partial(docker, "kill", env.sandbox.container_id), env, command)


def test_a_command_whose_fate_nobody_knows_is_told_so_and_not_run_again(make_server: Callable[..., Server], config: Config) -> None:
    """The server that comes back has another journal: it knows nothing of what was sent before."""
    server = make_server()
    with made(own(server, config)) as environments:
        env = environments["default"]

        async def command() -> None:
            with pytest.raises(OutcomeUnknown) as unknown:
                await env.exec(["sh", "-c", "touch /tmp/begun; sleep 600"])
            assert unknown.value.execution_id is not None
            assert unknown.value.execution_id in str(unknown.value)

        def lose_the_journal() -> None:
            server.kill()
            for file in server.data_dir.glob("journal*"):
                file.unlink()
            server.start()

        go(beside, lose_the_journal, env, command)
