"""The provider is what Inspect expects of one: its own self-check passes, as root and as an ordinary user, and its edge cases hold."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anyio
import docker
import pytest
from inspect_ai.util import OutputLimitExceededError, SandboxEnvironmentLimits
from inspect_ai.util._sandbox import self_check
from inspect_ai.util._sandbox.limits import override_max_exec_output_size, override_max_read_file_size

from remote_env.harness.inspect_ai import RemoteEnvSandboxEnvironment as Provider
from remote_env.harness.inspect_config import SandboxConfig
from tests.support.inspect_samples import go, made, wait_for
from tests.support.server import NONROOT, SANDBOX, Server

SELF_CHECKS = self_check.__all__
USER_IMAGE = "remote-env/user:latest"

Config = Callable[..., SandboxConfig]


@pytest.fixture(scope="module")
def config(server: Server, sandbox_image: str, busybox_image: str, nonroot_image: str) -> Config:
    return partial(SandboxConfig, url=server.url, token_file=str(server.data_dir / "token"), memory=256 << 20)


@pytest.fixture(scope="module")
def user_image(sandbox_image: str, docker_client: docker.DockerClient) -> str:
    """The default image with an ordinary user of its own."""
    recipe = f"FROM {sandbox_image}\nRUN useradd --create-home --shell /bin/bash app\nUSER app\nWORKDIR /home/app\n"
    docker_client.images.build(fileobj=io.BytesIO(recipe.encode()), tag=USER_IMAGE, rm=True)
    return USER_IMAGE


@pytest.fixture(params=["root", "ordinary-user"], scope="module")
def env(request: pytest.FixtureRequest, config: Config, user_image: str) -> Iterator[Provider]:
    """One sandbox whose commands are root's, one of an image with an ordinary user."""
    with made(config(image=SANDBOX if request.param == "root" else user_image)) as environments:
        yield environments["default"]


@pytest.fixture(scope="module")
def root(config: Config) -> Iterator[Provider]:
    with made(config(image=SANDBOX, workdir="/tmp/work")) as environments:
        yield environments["default"]


# ---------------------------------------------------------------------------------------------------- the self-check


@pytest.mark.parametrize("name", SELF_CHECKS)
def test_inspects_own_self_check_passes(env: Provider, name: str) -> None:
    go(getattr(self_check, name), env)


# ------------------------------------------------------------------------------------------------------------ exec


def test_a_script_of_a_mebibyte_runs_in_the_shell_that_was_named(root: Provider) -> None:
    """No program can be given so long an argument: the shell gets it by descriptor."""
    script = f"x='{'y' * (1 << 20)}'\necho ${{#x}} $0"
    for shell in (["sh", "-c"], ["bash", "--login", "-c"]):
        result = go(root.exec, [*shell, script])
        assert (result.returncode, result.stdout.split()[0], result.stderr) == (0, str(1 << 20), "")


def test_an_argument_that_no_program_can_get_is_a_result_that_says_so(root: Provider) -> None:
    result = go(root.exec, ["printf", "%s", "x" * (200 << 10)])
    assert (result.success, result.returncode) == (False, 126)
    assert "Argument list too long, so it did not run" in result.stderr


def test_both_streams_come_apart_with_the_code(root: Provider) -> None:
    result = go(root.exec, ["sh", "-c", "printf out; printf 'err\\r\\n' >&2; exit 3"])
    assert (result.success, result.returncode, result.stdout, result.stderr) == (False, 3, "out", "err\r\n")


def test_what_is_not_utf8_is_replaced(root: Provider) -> None:
    assert go(root.exec, ["printf", "a\\377b"]).stdout == "a�b"


def test_input_that_nobody_reads_hurts_nobody(root: Provider) -> None:
    assert go(root.exec, ["true"], input="x" * (1 << 20)).success


@pytest.mark.parametrize(("cmd", "code"), [("md5sum", 0), ("true", 0), ("no-such-program", 127)])
def test_an_input_too_large_for_a_request_leaves_nothing_in_the_sandbox(root: Provider, cmd: str, code: int) -> None:
    assert go(root.exec, [cmd], input=b"x" * (9 << 20)).returncode == code
    assert go(root.exec, ["sh", "-c", "ls -A /tmp | grep remote-env"]).stdout == ""


def test_no_input_is_an_empty_one(root: Provider) -> None:
    assert go(root.exec, ["cat"]).stdout == ""


def test_directories_that_are_relative_lie_in_the_working_directory(root: Provider) -> None:
    go(root.write_file, "deep/er/file", "x")
    assert go(root.exec, ["pwd"]).stdout == "/tmp/work\n"
    assert go(root.exec, ["pwd"], cwd="deep/er").stdout == "/tmp/work/deep/er\n"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"cmd": ["no-such-program"]}, 127, "no-such-program"),
        ({"cmd": ["ls"], "cwd": "/nowhere"}, 126, "working directory"),
        ({"cmd": ["ls"], "user": "nobody-here"}, 126, "user nobody-here"),
    ],
)
def test_a_command_that_cannot_start_is_a_result_that_says_why(root: Provider, options: Any, code: int, words: str) -> None:
    result = go(root.exec, **options)
    assert (result.success, result.returncode) == (False, code)
    assert words in result.stderr


def test_a_nul_is_the_callers_mistake(root: Provider) -> None:
    with pytest.raises(ValueError, match="embedded null byte"):
        go(root.exec, ["echo", "\0"])


@pytest.mark.parametrize("stream", ["1", "2"])
def test_too_much_output_of_a_stream_is_refused_with_what_is_kept(root: Provider, stream: str) -> None:
    async def run() -> None:
        with override_max_exec_output_size(1024):
            at_limit = await root.exec(["sh", "-c", f"head -c 1024 /dev/zero | tr '\\0' x >&{stream}"])
            assert len(at_limit.stdout + at_limit.stderr) == 1024
            with pytest.raises(OutputLimitExceededError, match="limit of 1 KiB was exceeded") as refused:
                await root.exec(["sh", "-c", f"{{ printf first; head -c 1500 /dev/zero | tr '\\0' x; printf last; }} >&{stream}"])
        kept = refused.value.truncated_output
        assert kept is not None and len(kept) == 1024 and kept.startswith("first") and kept.endswith("last")

    anyio.run(run)


def test_a_timeout_tells_what_was_written_and_leaves_nothing_running(root: Provider) -> None:
    with pytest.raises(TimeoutError) as raised:
        go(root.exec, ["sh", "-c", "echo begun; setsid sleep 4711 & sleep 4711"], timeout=1)
    assert raised.value.truncated_output == "begun\n"  # type: ignore[attr-defined]
    assert go(root.exec, ["sh", "-c", "ps ax -o args | grep -c '[s]leep 4711'"]).stdout == "0\n"


def test_a_command_that_timed_out_is_not_run_again(root: Provider) -> None:
    with pytest.raises(TimeoutError):
        go(root.exec, ["sh", "-c", "echo x >> runs; sleep 60"], timeout=1, timeout_retry=True)
    assert go(root.read_file, "runs") == "x\n"


def test_who_is_cancelled_ends_his_command(root: Provider) -> None:
    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(root.exec, ["sh", "-c", "touch begun; exec sleep 4712"])
            await root.exec(wait_for("begun"))
            group.cancel_scope.cancel()
        await root.exec(["sh", "-c", "while pgrep -f '^sleep 4712'; do sleep 0.02; done"])

    anyio.run(run)


def test_many_commands_run_beside_each_other(root: Provider) -> None:
    """All of them are under way at once: the last one lets the others go."""
    count = 60

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(root.exec, ["sh", "-c", f"touch /tmp/c{number}; until [ -e /tmp/go ]; do sleep 0.05; done"])
            group.start_soon(root.exec, ["sh", "-c", f"until [ $(ls /tmp/c* | wc -l) = {count} ]; do sleep 0.05; done; touch /tmp/go"])

    anyio.run(run)
    assert go(root.exec, ["test", "-e", "/tmp/go"]).success


def test_the_memory_limit_is_a_result_that_says_so(root: Provider) -> None:
    result = go(root.exec, ["python3", "-c", "x = 'x' * (1 << 30)"])
    assert (result.success, result.returncode) == (False, 137)
    assert result.stderr.endswith("Killed: the sandbox reached its memory limit.\n")


# ----------------------------------------------------------------------------------------------------------- files


def test_files_keep_their_bytes_and_their_line_ends(root: Provider) -> None:
    go(root.write_file, "crlf", "a\r\nb\rc\n")
    assert go(root.read_file, "crlf") == "a\r\nb\rc\n"
    assert go(root.read_file, "crlf", text=False) == b"a\r\nb\rc\n"


def test_a_file_that_is_no_text_is_told_so(root: Provider) -> None:
    go(root.write_file, "binary", b"\xff\xfe")
    with pytest.raises(UnicodeDecodeError):
        go(root.read_file, "binary")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("/etc", IsADirectoryError), ("/etc/passwd/x", FileNotFoundError), ("/nowhere/x", FileNotFoundError), ("/dev/zero", OSError)],
)
def test_what_cannot_be_read_raises_as_open_would_with_the_name(root: Provider, name: str, kind: type[OSError]) -> None:
    with pytest.raises(kind) as raised:
        go(root.read_file, name)
    assert raised.value.filename == name and name in str(raised.value)


def test_a_fifo_is_refused_and_not_waited_for(root: Provider) -> None:
    go(root.exec, ["mkfifo", "fifo"])
    with pytest.raises(OSError, match="fifo"):
        go(root.read_file, "fifo")


def test_a_file_as_long_as_the_limit_is_read_and_one_byte_more_is_not(root: Provider) -> None:
    async def run() -> None:
        await root.write_file("limit", b"x" * 1025)
        assert SandboxEnvironmentLimits.MAX_READ_FILE_SIZE == 100 << 20
        with override_max_read_file_size(1025):
            assert len(await root.read_file("limit")) == 1025
        with override_max_read_file_size(1024), pytest.raises(OutputLimitExceededError, match="1 KiB"):
            await root.read_file("limit")

    anyio.run(run)


def test_files_of_the_kernel_are_read_though_they_have_no_size(root: Provider) -> None:
    assert "MemTotal" in go(root.read_file, "/proc/meminfo")


def test_the_mode_of_a_file_outlives_a_new_content(root: Provider) -> None:
    go(root.write_file, "script", "#!/bin/sh\necho one\n")
    go(root.exec, ["chmod", "755", "script"])
    go(root.write_file, "script", "#!/bin/sh\necho two\n")
    assert go(root.exec, ["./script"]).stdout == "two\n"


def test_files_are_the_sandbox_users(config: Config) -> None:
    with made(config(image=NONROOT)) as environments:
        go(environments["default"].write_file, "new/file", "x")
        assert go(environments["default"].exec, ["stat", "-c", "%U %a", "new/file"]).stdout == "app 644\n"
        with pytest.raises(PermissionError, match="/etc/new"):
            go(environments["default"].write_file, "/etc/new", "x")


def test_the_way_into_a_sandbox_is_told_and_leads_there(root: Provider, server: Server) -> None:
    connection = go(root.connection, user="nobody")
    assert connection.type == "remote_env"
    assert connection.command == f"remote-env --url {server.url} shell --user nobody {root.sandbox.id}"
    assert connection.container == root.sandbox.container_id
    words = [sys.executable, "-m", "remote_env.cli.main", *shlex.split(connection.command)[1:]]
    shell = subprocess.run(words, input="id -un; exit 3", env={**os.environ, **server.env}, capture_output=True, text=True, check=False)
    assert (shell.stdout, shell.returncode) == ("nobody\n", 3), shell.stderr
