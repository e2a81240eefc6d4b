"""The adapter's sessions behave as SWE-ReX's own do: their output, exceptions, timeouts and interrupts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swerex.exceptions import (
    BashIncorrectSyntaxError,
    CommandTimeoutError,
    NonZeroExitCodeError,
    SessionDoesNotExistError,
    SessionExistsError,
)
from swerex.runtime.abstract import (
    BashAction,
    BashObservation,
    CloseBashSessionRequest,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    UploadRequest,
)

from remote_env.harness.swerex import RemoteEnvRuntime
from tests.support.server import Server
from tests.support.swerex import INTERRUPT, PATIENCE_S, Shell, execute, run, started_runtime

DEAF = "trap '' INT; while :; do read -r _ || :; done"  # heeds no Ctrl-C


@pytest.fixture(scope="module")
def runtime(server: Server, sandbox_image: str) -> Iterator[RemoteEnvRuntime]:
    with started_runtime(server) as started:
        yield started


@pytest.fixture
def bash(runtime: RemoteEnvRuntime, request: pytest.FixtureRequest) -> Iterator[Shell]:
    name = request.node.name
    run(runtime.create_session(CreateBashSessionRequest(session=name, startup_timeout=PATIENCE_S)))
    yield Shell(runtime, name)
    run(runtime.close_session(CloseBashSessionRequest(session=name)))


# -------------------------------------------------------------------------------------------------------- sessions


def test_a_session_keeps_its_state_and_gives_exact_output(bash: Shell) -> None:
    assert bash("cd /usr && x='a  b' && f() { echo \"<$x>\"; }").output == ""
    assert bash("pwd; f").output == "/usr\n<a  b>\n"
    assert bash("printf '\\n\\n  x \\n\\n'").output == "\n\n  x \n\n"
    assert bash("printf 'a\\r\\nb\\r'").output == "a\r\nb\r"
    assert bash("printf '\\033[31mred\\033[0m\\377é'").output == "\x1b[31mred\x1b[0m\\xffé"
    assert bash("head -c 300000 /dev/zero | tr '\\0' y").output == "y" * 300000


def test_what_runs_in_a_session_has_a_terminal_that_nobody_draws_on(bash: Shell) -> None:
    assert bash("test -t 0 && test -t 1 && test -t 2; echo $? $TERM").output == "0 dumb\n"


@pytest.mark.parametrize("command", ["", "\n", "\n\n \n", "# only a comment", "\n echo\n\n"])
def test_what_is_hardly_a_command_succeeds(bash: Shell, command: str) -> None:
    assert bash(command).exit_code == 0


def test_several_lines_are_one_command(bash: Shell) -> None:
    assert bash("\n\n echo 'test1' \n  \n \n echo 'test2' \n\n").output == "test1\ntest2\n"
    assert bash("cat <<EOF\n$((6*7))\n\nEOF\ncat <<'E'\n$x\nE").output == "42\n\n$x\n"
    assert bash("for i in {1..3};\n do echo $i;\n done &&\\\n echo done").output == "1\n2\n3\ndone\n"
    assert bash("A=(); echo ok; false", check="silent").exit_code == 1


def test_a_command_may_be_of_any_length_and_hold_no_nul(bash: Shell) -> None:
    assert bash(f"x={'a' * 1_000_000}; echo ${{#x}}").output == "1000000\n"
    assert bash(f"cat <<'E' | wc -c\n{'é' * 500_000}\nE").output == "1000001\n"
    assert execute(bash.runtime, f": {'a' * 1_000_000}; echo through", shell=True).stdout == "through\n"
    with pytest.raises(ValueError, match="NUL"):
        bash("echo a\0b")


def test_exit_codes_are_told_as_the_check_says(bash: Shell) -> None:
    assert bash("doesntexist", check="silent").exit_code == 127
    assert bash("false || true").exit_code == 0
    assert bash("(exit 9)", check="ignore").exit_code is None
    with pytest.raises(NonZeroExitCodeError, match=r"(?s)^Oh dear: Command 'echo no; false' failed with exit code 1\. .*'no\\n'"):
        bash("echo no; false", error_msg="Oh dear")


@pytest.mark.parametrize("command", ["(a", "a='", "for", "echo one\nif", "touch /srv/half\n)"])
def test_a_mistake_is_told_in_bashs_words_before_anything_runs(bash: Shell, command: str) -> None:
    with pytest.raises(BashIncorrectSyntaxError) as raised:
        bash(command)
    assert set(raised.value.extra_info) == {"bash_stdout", "bash_stderr"}
    assert raised.value.extra_info["bash_stderr"].startswith("bash: line ")
    assert "syntax error" in raised.value.extra_info["bash_stderr"] or "unexpected EOF" in raised.value.extra_info["bash_stderr"]
    assert bash("ls /srv/half", check="silent").exit_code == 2


def test_sessions_are_apart_and_run_side_by_side(runtime: RemoteEnvRuntime) -> None:
    async def both() -> list[Any]:
        await asyncio.gather(*(runtime.create_session(CreateBashSessionRequest(session=name, startup_timeout=PATIENCE_S)) for name in "ab"))
        meet = "x={0}; mkfifo /tmp/meet 2>/dev/null; echo $x {1} /tmp/meet"
        actions = [
            BashAction(command=meet.format(name, way), session=name, timeout=PATIENCE_S) for name, way in (("a", ">"), ("b", "; cat"))
        ]
        await asyncio.gather(*(runtime.run_in_session(action) for action in actions))
        return await asyncio.gather(*(runtime.run_in_session(BashAction(command="echo $x", session=name)) for name in "ab"))

    assert [observation.output for observation in run(both())] == ["a\n", "b\n"]
    for name in "ab":
        run(runtime.close_session(CloseBashSessionRequest(session=name)))


def test_names_of_sessions_are_taken_once(runtime: RemoteEnvRuntime) -> None:
    request = CreateBashSessionRequest(session="one", startup_timeout=PATIENCE_S)
    with pytest.raises(SessionDoesNotExistError, match="'one'"):
        run(runtime.run_in_session(BashAction(command="true", session="one")))
    run(runtime.create_session(request))
    with pytest.raises(SessionExistsError, match="one already exists"):
        run(runtime.create_session(request))
    run(runtime.close_session(CloseBashSessionRequest(session="one")))
    with pytest.raises(SessionDoesNotExistError, match="'one'"):
        run(runtime.close_session(CloseBashSessionRequest(session="one")))


def test_a_session_whose_shell_has_ended_says_so_and_its_name_is_free(runtime: RemoteEnvRuntime) -> None:
    request = CreateBashSessionRequest(session="ends", startup_timeout=PATIENCE_S)
    run(runtime.create_session(request))
    last = run(runtime.run_in_session(BashAction(command="echo bye; exit 3", session="ends", check="silent")))
    assert (last.output.startswith("bye\n"), last.exit_code, bool(last.failure_reason)) == (True, 3, True)
    with pytest.raises(SessionDoesNotExistError, match="exited with code 3"):
        run(runtime.run_in_session(BashAction(command="echo", session="ends")))
    run(runtime.create_session(request))
    assert run(runtime.run_in_session(BashAction(command="echo new", session="ends"))).output == "new\n"
    run(runtime.close_session(CloseBashSessionRequest(session="ends")))


def test_startup_files_are_read_and_a_missing_one_is_told_of_in_the_output(runtime: RemoteEnvRuntime) -> None:
    execute(runtime, "echo 'V=kept; PS1=\"mine> \"; echo hello' > /srv/startup", shell=True)
    request = CreateBashSessionRequest(session="s", startup_source=["/srv/startup", "/srv/missing"], startup_timeout=PATIENCE_S)
    output = run(runtime.create_session(request)).output
    assert "hello\n" in output and "/srv/missing: No such file" in output
    assert run(runtime.run_in_session(BashAction(command="echo $V", session="s"))).output == "kept\n"
    run(runtime.close_session(CloseBashSessionRequest(session="s")))


def test_a_session_is_an_interactive_bash_with_its_own_startup_file(runtime: RemoteEnvRuntime) -> None:
    bashrc = "case $- in *i*) ;; *) return ;; esac; FROM_BASHRC=1"
    execute(runtime, ["sh", "-c", f"cp ~/.bashrc /srv/bashrc; echo '{bashrc}' >> ~/.bashrc"], check=True)
    try:
        run(runtime.create_session(CreateBashSessionRequest(session="i", startup_timeout=PATIENCE_S)))
        assert run(runtime.run_in_session(BashAction(command="echo $FROM_BASHRC", session="i"))).output == "1\n"
        run(runtime.close_session(CloseBashSessionRequest(session="i")))
    finally:
        execute(runtime, ["sh", "-c", "cp /srv/bashrc ~/.bashrc"], check=True)


def test_startup_files_that_take_too_long_leave_no_session(runtime: RemoteEnvRuntime) -> None:
    execute(runtime, "echo 'sleep 1234' > /srv/slow", shell=True)
    request = CreateBashSessionRequest(session="slow", startup_source=["/srv/slow"], startup_timeout=0.3)
    with pytest.raises(CommandTimeoutError, match="/srv/slow"):
        run(runtime.create_session(request))
    with pytest.raises(SessionDoesNotExistError):
        run(runtime.close_session(CloseBashSessionRequest(session="slow")))


def test_a_bundle_of_tools_is_installed_as_swe_agent_installs_it(bash: Shell, tmp_path: Path) -> None:
    bundle = tmp_path / "edits"
    (bundle / "bin").mkdir(parents=True)
    (bundle / "bin" / "open_file").write_text('#!/bin/sh\necho "{}" > /root/state.json; echo opened $1\n')
    (bundle / "install.sh").write_text("export INSTALLED=$PWD\n")
    run(bash.runtime.upload(UploadRequest(source_path=str(bundle), target_path="/root/tools/edits")))
    there = "/root/tools/edits"
    bash(f"export PATH={there}/bin:$PATH && chmod +x {there}/bin/* && cd {there} && source install.sh && chmod +x {there}/bin/*")
    path = bash("cd /srv && echo $PATH").output.strip()
    assert execute(bash.runtime, "which open_file", shell=True, check=True, env={"PATH": path}).stdout == f"{there}/bin/open_file\n"
    assert bash("open_file x; echo $INSTALLED").output == f"opened x\n{there}\n"
    assert run(bash.runtime.read_file(ReadFileRequest(path="/root/state.json"))).content == "{}\n"


# -------------------------------------------------------------------------------------------- timeouts, interrupts


def test_a_command_whose_time_is_up_goes_on_until_it_is_interrupted(bash: Shell) -> None:
    with pytest.raises(CommandTimeoutError, match=r"timeout after 0\.3 seconds while running command 'echo begun; sleep 1000'"):
        bash("echo begun; sleep 1000", timeout=0.3)
    with pytest.raises(CommandTimeoutError, match="still running in this session"):
        bash("touch /srv/beside", timeout=0.3)
    observation = bash.interrupt()
    assert observation.output.startswith("begun\n") and observation.exit_code == 0
    assert bash("ls /srv/beside; echo asdf", check="ignore").output.endswith("\nasdf\n")
    assert bash("echo asdf").output == "asdf\n"


def test_what_does_not_heed_an_interrupt_is_killed_and_the_session_lives(bash: Shell) -> None:
    bash("kept=1")
    with pytest.raises(CommandTimeoutError):
        bash(f'bash -c "{DEAF}"', timeout=0.5)
    bash.interrupt(timeout=0.2, n_retry=2)
    answer = bash("echo asdf $kept").output
    assert answer.endswith("\nasdf 1\n") and "kill" in answer.lower()


def test_an_interrupt_of_an_idle_session_changes_nothing(bash: Shell) -> None:
    assert bash.interrupt().exit_code == 0
    assert bash("echo asdf").output == "asdf\n"


def test_a_command_that_somebody_waits_for_can_be_interrupted(bash: Shell) -> None:
    async def main() -> BashObservation:
        action = BashAction(command="echo up > /srv/up; sleep 1000", session=bash.name, check="silent", timeout=None)
        running = asyncio.create_task(bash.runtime.run_in_session(action))
        await bash.runtime.execute(Command(command="until [ -s /srv/up ]; do :; done", shell=True, timeout=PATIENCE_S))
        await bash.runtime.run_in_session(INTERRUPT.model_copy(update={"session": bash.name}))
        return await running

    assert run(main()).exit_code == 130
    assert bash("echo asdf").output == "asdf\n"


def test_a_deaf_command_that_somebody_waits_for_can_be_killed(bash: Shell) -> None:
    async def main() -> BashObservation:
        action = BashAction(command=f'bash -c "touch /srv/deaf; {DEAF}"', session=bash.name, check="silent", expect=["never"], timeout=None)
        running = asyncio.create_task(bash.runtime.run_in_session(action))
        await bash.runtime.execute(Command(command="until [ -e /srv/deaf ]; do :; done", shell=True, timeout=PATIENCE_S))
        await bash.runtime.run_in_session(INTERRUPT.model_copy(update={"session": bash.name, "timeout": 0.2, "n_retry": 1}))
        return await running

    assert run(main()).exit_code != 0
    assert bash("echo asdf").output.endswith("asdf\n")


# ----------------------------------------------------------------------------------------------- programs to talk with


def test_a_python_prompt_is_talked_with(bash: Shell) -> None:
    for _ in range(2):
        begun = bash.talk("python3 -q", ">>> ")
        assert (begun.expect_string, begun.exit_code) == (">>> ", 0)
        assert bash.talk("print('hello world')", ">>> ").output == "hello world\n"
        assert bash.talk("def f():\n  return 6 * 7\n", ">>> ").expect_string == ">>> "
        assert bash.talk("f()", ">>> ").output == "42\n"
        with pytest.raises(CommandTimeoutError):
            bash.talk("import time; time.sleep(1000)", ">>> ", timeout=0.3)
        interrupted = bash.interrupt(expect=[">>> "])
        assert "KeyboardInterrupt" in interrupted.output and interrupted.expect_string == ">>> "
        left = bash("quit()\n", is_interactive_quit=True)
        assert left.exit_code == 0
        assert bash("echo 'hello world'").output == "hello world\n"


def test_a_prompt_that_does_not_come_is_a_timeout(bash: Shell) -> None:
    with pytest.raises(CommandTimeoutError):
        bash.talk("python3", "WONTHITTHIS", timeout=0.5)
    assert bash.talk("1 + 1", "2\r?\n").expect_string == "2\r?\n"
    assert bash("exit()", is_interactive_quit=True).exit_code == 0


def test_a_program_that_is_not_there_is_told_by_the_shell(bash: Shell) -> None:
    observation = bash.talk("no-such-program", ">>> ")
    assert "not found" in observation.output
    assert observation.expect_string != ">>> "
