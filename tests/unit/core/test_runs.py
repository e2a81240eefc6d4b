"""A spec as the init's message: flags, shells, what no kernel takes."""

from __future__ import annotations

from typing import Any

import pytest

from remote_env.protocol import ExecutionSpec
from server.messages import SPLIT_SINCE, Run, RunFlag
from server.runs import ARGUMENT_LIMIT, run_message, too_long_for_the_kernel

SANDBOX = {"user": "app", "workdir": "/home/app"}
LONG = "x" * (ARGUMENT_LIMIT - 1)


def spec(**fields: Any) -> ExecutionSpec:
    return ExecutionSpec(id="execution-1", **fields)


def run(**fields: Any) -> Run:
    return run_message(spec(**fields), 7, SANDBOX)[0]


@pytest.mark.parametrize(
    ("fields", "argv", "flags"),
    [
        ({"opens": "session"}, ("bash",), RunFlag.SESSION | RunFlag.SHELL),
        ({"opens": "session", "shell": "/bin/zsh", "login": True}, ("/bin/zsh", "-l"), RunFlag.SESSION),
        ({"opens": "session", "tty": {}}, ("bash",), RunFlag.SESSION | RunFlag.SHELL | RunFlag.TTY),
        ({"command": "ls", "tty": {"echo": False}}, ("bash", "-c", "ls"), RunFlag.SHELL | RunFlag.TTY | RunFlag.ECHO_OFF),
        ({"argv": ["cat"], "stdin_path": "/in", "stdin_unlink": True}, ("cat",), RunFlag.UNLINK_STDIN),
        ({"argv": ["cat"], "stdin_path": "/in"}, ("cat",), RunFlag(0)),
    ],
)
def test_how_it_is_started(fields: dict[str, Any], argv: tuple[str, ...], flags: RunFlag) -> None:
    message = run(**fields)
    assert (message.argv, message.flags) == (argv, flags)


def test_a_sessions_shell_has_no_clock_and_a_command_without_timeout_none_either() -> None:
    assert run(opens="session", timeout_s=5).timeout_ms == 0
    assert run(command="ls", timeout_s=None).timeout_ms == 0
    assert run(command="ls", timeout_s=1.5).timeout_ms == 1500


def test_a_sessions_command_is_the_command_and_nothing_of_the_sandboxes() -> None:
    message = run(command="cd /; ls", session="session-0001", timeout_s=2)
    assert (message.argv, message.session, message.user, message.workdir, message.env) == (("cd /; ls",), "session-0001", "", "/", ())


def test_a_terminal_has_its_size_and_its_kind_unless_the_environment_says_another() -> None:
    message = run(command="ls", tty={"rows": 50, "cols": 132, "term": "vt100"})
    assert (message.rows, message.cols, message.env) == (50, 132, ("TERM=vt100",))
    assert run(command="ls", tty={}, env={"TERM": "dumb"}).env == ("TERM=dumb",)


def test_a_terminals_kind_comes_before_the_sandboxs_environment_as_the_containers_own_would_come_behind_it() -> None:
    message, _ = run_message(spec(command="ls", tty={"term": "vt100"}), 7, SANDBOX, sandbox_env={"TERM": "dumb", "A": "b"})
    assert set(message.env) == {"TERM=vt100", "A=b"}


def test_a_command_too_long_for_an_argument_goes_as_a_script_and_one_byte_less_does_not() -> None:
    assert not run(command=LONG).flags & RunFlag.SCRIPT
    assert run(command=LONG + "x").flags & RunFlag.SCRIPT
    assert run(command="é" * (ARGUMENT_LIMIT // 2)).flags & RunFlag.SCRIPT


def test_an_init_that_knows_no_scripts_is_given_none() -> None:
    assert not run_message(spec(command=LONG + "x"), 7, SANDBOX, SPLIT_SINCE)[0].flags & RunFlag.SCRIPT


@pytest.mark.parametrize(
    ("fields", "which"), [({"argv": ["echo", LONG + "x"]}, "argv[1]"), ({"command": "env", "env": {"A": LONG[2:] + "x"}}, "env.A")]
)
def test_what_no_program_takes_in_one_argument_is_refused_with_its_name(fields: dict[str, Any], which: str) -> None:
    refusal = too_long_for_the_kernel(spec(**fields))
    assert refusal is not None
    assert refusal.startswith(which)
    assert "stdin" in refusal


@pytest.mark.parametrize("fields", [{"argv": ["echo", LONG]}, {"command": "env", "env": {"A": LONG[2:]}}, {"command": LONG * 8}])
def test_what_fits_is_not_refused(fields: dict[str, Any]) -> None:
    assert too_long_for_the_kernel(spec(**fields)) is None
