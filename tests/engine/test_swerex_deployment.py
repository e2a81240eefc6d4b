"""The adapter's deployments, and what its runtime does apart from sessions, as SWE-ReX has it; and the documented examples."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter
from swerex.deployment import config as peer
from swerex.exceptions import (
    BashIncorrectSyntaxError,
    CommandTimeoutError,
    DeploymentNotStartedError,
    DeploymentStartupError,
    DockerPullError,
    NonZeroExitCodeError,
    SwerexException,
)
from swerex.runtime.abstract import (
    BashAction,
    BashObservation,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    UploadRequest,
    WriteFileRequest,
)

from remote_env.harness.swerex import RemoteEnvDeployment, RemoteEnvRuntime, SandboxFailure, register
from tests.support.outside import docker
from tests.support.server import BUSYBOX, SANDBOX, Server
from tests.support.swerex import PATIENCE_S, execute, run, started_runtime

Make = Callable[..., RemoteEnvDeployment]
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


@pytest.fixture
def make(server: Server, sandbox_image: str, busybox_image: str) -> Iterator[Make]:
    """Deployments on the shared server, not yet started; stopped after the test. Busybox unless told otherwise."""
    made: list[RemoteEnvDeployment] = []

    def make_one(**config: Any) -> RemoteEnvDeployment:
        fields = {"image": BUSYBOX, "docker_args": ["--memory=128m"], "url": server.url, "token": server.token, **config}
        made.append(RemoteEnvDeployment(**fields))
        return made[-1]

    yield make_one
    for each in made:
        run(each.stop())


@pytest.fixture(scope="module")
def runtime(server: Server, sandbox_image: str) -> Iterator[RemoteEnvRuntime]:
    with started_runtime(server) as started:
        yield started


# --------------------------------------------------------------------------------------------------------- execute


def test_a_command_answers_as_subprocess_does(runtime: RemoteEnvRuntime) -> None:
    script = "printf 'out \\n\\n'; printf 'err\\377' >&2; exit 3"
    answer = execute(runtime, script, shell=True)
    assert (answer.stdout, answer.stderr, answer.exit_code) == ("out \n\n", "err\\xff", 3)
    merged = execute(runtime, ["sh", "-c", script], merge_output_streams=True)
    assert (merged.stdout, merged.stderr, merged.exit_code) == ("out \n\nerr\\xff", "", 3)
    assert execute(runtime, "", shell=True, check=True).exit_code == 0
    assert execute(runtime, ["echo $1", "name", "arg"], shell=True).stdout == "arg\n"
    assert execute(runtime, ["echo", "$HOME"]).stdout == "$HOME\n"
    assert execute(runtime, ["sh", "-c", "kill -9 $$"]).exit_code == -9


def test_a_commands_directory_and_environment_are_as_subprocess_has_them(runtime: RemoteEnvRuntime) -> None:
    assert execute(runtime, "pwd; echo $FROM_CONFIG", shell=True).stdout == "/srv\n1\n"
    assert execute(runtime, ["pwd"], cwd="/usr/lib").stdout == "/usr/lib\n"
    assert execute(runtime, ["pwd"], cwd="../usr").stdout == "/usr\n"
    # Given variables are all that there are.
    bare = execute(runtime, 'echo "$A" "$FROM_CONFIG" "$PATH"; which sh', shell=True, env={"A": "a b", "PATH": "/usr/bin"})
    assert bare.stdout == "a b  /usr/bin\n/usr/bin/sh\n"


def test_a_failed_check_says_what_failed(runtime: RemoteEnvRuntime) -> None:
    with pytest.raises(NonZeroExitCodeError, match=r"(?s)^Oh dear: Command \['false'\] failed with exit code 1\. Stdout:.*Stderr:"):
        execute(runtime, ["false"], check=True, error_msg="Oh dear")


@pytest.mark.parametrize(
    ("command", "fields", "error", "name"),
    [
        ("no-such-program", {}, FileNotFoundError, "no-such-program"),
        (["/etc/passwd"], {}, PermissionError, "/etc/passwd"),
        (["true"], {"cwd": "/nowhere"}, FileNotFoundError, "/nowhere"),
        (["no-such-program"], {"env": {"A": "1"}}, FileNotFoundError, "no-such-program"),
    ],
)
def test_what_cannot_be_started_raises_as_subprocess_does(
    runtime: RemoteEnvRuntime, command: str | list[str], fields: dict[str, Any], error: type[OSError], name: str
) -> None:
    with pytest.raises(error) as raised:
        execute(runtime, command, **fields)
    assert raised.value.filename == name


def test_a_command_that_takes_too_long_is_killed(runtime: RemoteEnvRuntime) -> None:
    with pytest.raises(CommandTimeoutError, match=r"Timeout \(0\.2s\) exceeded"):
        execute(runtime, "sleep 1234567 & wait", shell=True, timeout=0.2)
    assert "1234567" not in execute(runtime, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", shell=True).stdout


# ----------------------------------------------------------------------------------------------------------- files


def test_files_are_written_and_read(runtime: RemoteEnvRuntime) -> None:
    run(runtime.write_file(WriteFileRequest(path="new/dir/é.txt", content="a\r\né")))
    assert execute(runtime, ["cat", "/srv/new/dir/é.txt"]).stdout == "a\r\né"
    assert run(runtime.read_file(ReadFileRequest(path="/srv/new/dir/é.txt"))).content == "a\né"  # as Path.read_text has it
    execute(runtime, "printf 'before \\336 after' > /srv/bytes", shell=True)
    with pytest.raises(UnicodeDecodeError):
        run(runtime.read_file(ReadFileRequest(path="/srv/bytes")))
    assert run(runtime.read_file(ReadFileRequest(path="bytes", encoding="latin-1"))).content == "before Þ after"
    assert run(runtime.read_file(ReadFileRequest(path="bytes", errors="ignore"))).content == "before  after"
    with pytest.raises(FileNotFoundError):
        run(runtime.read_file(ReadFileRequest(path="non_existent.txt")))
    with pytest.raises(IsADirectoryError):
        run(runtime.read_file(ReadFileRequest(path="/srv")))


def test_files_and_trees_are_uploaded(runtime: RemoteEnvRuntime, tmp_path: Path) -> None:
    tree = tmp_path / "tool"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "go").write_text("#!/bin/sh\necho went\n")
    (tree / "bin" / "go").chmod(0o755)
    (tree / "empty").mkdir()
    run(runtime.upload(UploadRequest(source_path=str(tree), target_path="/root/tools/tool")))
    assert execute(runtime, ["/root/tools/tool/bin/go"], check=True).stdout == "went\n"
    assert execute(runtime, ["ls", "/root/tools/tool"]).stdout == "bin\nempty\n"
    run(runtime.upload(UploadRequest(source_path=str(tree / "bin" / "go"), target_path="/root/deep/er/gone")))
    assert execute(runtime, ["/root/deep/er/gone"], check=True).stdout == "went\n"
    with pytest.raises(ValueError, match="is not a file or directory"):
        run(runtime.upload(UploadRequest(source_path=str(tmp_path / "missing"), target_path="/root/x")))


# ------------------------------------------------------------------------------------------------------ deployments


def test_a_deployment_is_there_from_start_to_stop_and_again(make: Make) -> None:
    deployment = make()
    with pytest.raises(RuntimeError):
        run(deployment.is_alive())
    for _ in range(2):
        run(deployment.start())
        assert run(deployment.is_alive(timeout=10))
        container = deployment.container_name
        assert container is not None and docker("inspect", "-f", "{{.State.Running}}", container).strip() == "true"
        with pytest.raises(DeploymentStartupError, match="started already"):
            run(deployment.start())
        run(deployment.stop())
        with pytest.raises(DeploymentNotStartedError):
            run(deployment.is_alive())
        run(deployment.stop())


def test_an_image_that_is_not_there_is_a_pull_error(make: Make) -> None:
    with pytest.raises(DockerPullError, match="no-such-image"):
        run(make(image="remote-env/no-such-image:latest", pull="never").start())


def test_a_sandbox_that_died_is_an_exception_that_swe_agent_knows(make: Make) -> None:
    deployment = make()
    run(deployment.start())
    docker("kill", str(deployment.container_name))
    with pytest.raises(SwerexException) as raised:
        execute(deployment.runtime, ["true"])
    assert isinstance(raised.value, SandboxFailure)
    assert not run(deployment.is_alive(timeout=10))


def test_an_image_without_bash_has_sessions_of_its_sh(make: Make) -> None:
    deployment = make()
    run(deployment.start())
    run(deployment.runtime.create_session(CreateBashSessionRequest(startup_timeout=PATIENCE_S)))
    assert run(deployment.runtime.run_in_session(BashAction(command="x=1; for i in a b; do echo $x$i; done"))).output == "1a\n1b\n"
    with pytest.raises(BashIncorrectSyntaxError):
        run(deployment.runtime.run_in_session(BashAction(command="(a")))
    run(deployment.runtime.close())


def test_a_server_that_is_killed_in_the_middle_costs_no_output_and_no_second_run(
    make_server: Callable[..., Server], sandbox_image: str
) -> None:
    server = make_server().start()
    deployment = RemoteEnvDeployment(image=SANDBOX, docker_args=["--memory=256m"], url=server.url, token=server.token)
    run(deployment.start())
    runtime = deployment.runtime
    run(runtime.create_session(CreateBashSessionRequest(startup_timeout=PATIENCE_S)))

    async def main() -> BashObservation:
        command = "echo ran >> /ran; x=kept; echo before; until [ -e /go ]; do sleep 0.1; done; echo after"
        running = asyncio.create_task(runtime.run_in_session(BashAction(command=command, timeout=PATIENCE_S)))
        await runtime.execute(Command(command="until [ -e /ran ]; do :; done", shell=True))
        await asyncio.to_thread(server.restart)
        await runtime.execute(Command(command="touch /go", shell=True))
        return await running

    observation = run(main())
    assert (observation.output, observation.exit_code) == ("before\nafter\n", 0)
    assert run(runtime.run_in_session(BashAction(command="echo $x; cat /ran"))).output == "kept\nran\n"
    run(deployment.stop())


# --------------------------------------------------------------------------------------------------------- examples


@pytest.fixture
def _server_in_environment(server: Server, sandbox_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTE_ENV_URL", server.url)
    monkeypatch.setenv("REMOTE_ENV_TOKEN", server.token)


@pytest.mark.usefixtures("_server_in_environment")
def test_the_documented_agent_runs() -> None:
    agent = runpy.run_path(str(EXAMPLES / "swerex_agent.py"))
    *ordinary, mistake, last, program = run(agent["run_agent"](SANDBOX))
    assert ordinary == ["54\n(exit code 0)", "(exit code 0)", "42\n(exit code 0)", "The command took too long and was interrupted."]
    assert "syntax error" in mistake
    assert (last, program) == ("/tmp\n(exit code 0)", "print(6 * 7)\n")


@pytest.mark.usefixtures("_server_in_environment")
def test_the_documented_configuration_starts_an_environment_as_swe_agent_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "DeploymentConfig", peer.DeploymentConfig)  # put back afterwards
    register()
    fields = yaml.safe_load((EXAMPLES / "sweagent.yaml").read_text())["env"]
    config = TypeAdapter(peer.DeploymentConfig).validate_python({**fields["deployment"], "image": SANDBOX})
    deployment: Any = peer.get_deployment(config)
    run(deployment.start())
    try:
        run(deployment.runtime.create_session(CreateBashSessionRequest(startup_source=["/root/.bashrc"], startup_timeout=10)))
        commands = ["export LANG=C.UTF-8 && export LC_ALL=C.UTF-8", "cd /", *fields["post_startup_commands"], "git config user.name"]
        seen = [run(deployment.runtime.run_in_session(BashAction(command=each, timeout=25, check="silent"))) for each in commands]
        assert [(each.output, each.exit_code) for each in seen] == [("", 0), ("", 0), ("", 0), ("agent\n", 0)]
    finally:
        run(deployment.stop())
