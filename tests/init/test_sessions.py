"""Sessions: a shell that is kept, driven over descriptors of its own, and the commands that it runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from server.messages import EndingFlag, RunFlag
from tests.init.harness import Server
from tests.init.sessions import Session

# ------------------------------------------------------------------------------------------------ what a shell keeps


def test_shell_keeps_what_a_command_changed(any_shell: Session) -> None:
    any_shell.do('cd /usr; x=5; alias twice="echo twice"; f() { echo function $1; }; set -f; export Y=6')
    assert any_shell.told("pwd; echo $x; twice; f 3; echo *; sh -c 'echo $Y'") == ("/usr\n5\ntwice\nfunction 3\n*\n6\n", 0)


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes_and_dollar_question_mark_are_exact(any_shell: Session, code: int) -> None:
    assert any_shell.told(f"(exit {code})") == ("", code)
    assert any_shell.told("echo $?") == (f"{code}\n", 0)


def test_command_sees_three_descriptors_of_its_own(any_shell: Session) -> None:
    listed = "import os; print(sorted(os.listdir('/proc/self/fd'), key=int), os.readlink('/proc/self/fd/0'))"
    assert any_shell.told(f'python3 -c "{listed}"') == ("['0', '1', '2', '3'] /dev/null\n", 0)


def test_syntax_error_is_2_and_the_session_lives(any_shell: Session) -> None:
    for command in ("if", 'echo "open', "x=(", ")"):
        said, code = any_shell.told(command)
        assert code != 0
        assert said
    assert any_shell.told("echo on") == ("on\n", 0)


def test_unset_variable_under_set_u_comes_back_to_the_session(any_shell: Session) -> None:
    said, code = any_shell.told("set -u; echo $nope; echo after")
    assert "nope" in said
    assert "after" not in said
    assert code != 0
    said, code = any_shell.told("set +u; echo ${nope:?bad}; echo after")
    assert "bad" in said
    assert "after" not in said
    assert any_shell.told("echo on")[0] == "on\n"


def test_heredocs_functions_and_unicode_come_through(any_shell: Session) -> None:
    command = "g() {\n  cat <<E\n$1 über ☃ \\$\nE\n}\ng x"
    assert any_shell.told(command) == ("x über ☃ $\n", 0)


def test_command_of_a_megabyte_runs(any_shell: Session) -> None:
    assert any_shell.told("x=" + "a" * 1_000_000 + "; echo ${#x}") == ("1000000\n", 0)


def test_background_job_belongs_to_the_session(any_shell: Session) -> None:
    server, shell = any_shell.server, any_shell.shell
    go = os.pipe()
    assert any_shell.told(f"(read x < /proc/{os.getpid()}/fd/{go[0]}; echo late) & echo soon") == ("soon\n", 0)
    os.write(go[1], b"\n")
    assert server.output_of(shell, "late").text == "late\n"
    for end in go:
        os.close(end)


def test_options_that_trace_show_the_command_alone(any_shell: Session) -> None:
    any_shell.do("set -x")
    said, code = any_shell.told("echo hi; false")
    assert [line.lstrip("+") for line in said.splitlines()] == [" echo hi", "hi", " false"]
    assert any_shell.told("set +x; echo $?")[1] == 0
    assert any_shell.told("echo off") == ("off\n", 0)
    assert code == 1


def test_redirections_of_exec_stay(any_shell: Session, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch(0o666)
    any_shell.do(f"exec 5>&2 2>{log}; echo one >&2")
    any_shell.do("echo two >&2")
    assert any_shell.told(f"exec 2>&5 5>&-; cat {log}; echo three >&2") == ("one\ntwo\nthree\n", 0)


@pytest.mark.parametrize(
    "trick",
    [
        "unset -f _remote_env", "alias printf=false read=false exit=false", "IFS=x; set -f", "set -a; y=1", "ulimit -n 50",
        "PS1='$ '; PROMPT_COMMAND=false", "break", "continue 3", "trap : INT TERM HUP", "stty sane",
    ],
)  # fmt: skip
def test_what_a_command_does_to_its_shell_does_not_end_the_session(any_shell: Session, trick: str) -> None:
    any_shell.do(trick)
    assert any_shell.told("echo still; false") == ("still\n", 1)


# ------------------------------------------------------------------------------------------------------- bash's own


@pytest.mark.parametrize(
    "trick", ["readonly PROMPT_COMMAND=1", "set -n", "set -o posix", "shopt -s nullglob extglob failglob", "set -T; set -E"]
)
def test_what_a_command_does_to_bash_does_not_end_the_session(bash: Session, trick: str) -> None:
    bash.do(trick)
    assert bash.told("echo still; false") == ("still\n", 1)
    bash.do("kill -INT $$")
    assert bash.told("echo $?") == ("130\n", 0)


def test_traps_of_bash_see_the_command_alone(bash: Session) -> None:
    bash.do("trap 'echo \"<$BASH_COMMAND>\"' DEBUG")
    assert bash.told("echo one; echo $?") == ("<echo one>\none\n<echo $?>\n0\n", 0)
    assert bash.told("trap - DEBUG; trap 'echo failed' ERR") == ("<trap - DEBUG>\n", 0)
    assert bash.told("false") == ("failed\n", 1)
    assert bash.told("echo $?") == ("1\n", 0)


def test_set_e_ends_the_session_where_it_would_end_a_shell(bash: Session) -> None:
    bash.do("set -e")
    assert bash.told("false && true") == ("", 1)
    assert bash.told("false || echo $?") == ("1\n", 0)
    assert bash.told("echo before; false; echo after") == ("before\n", 1)
    assert bash.server.ended(bash.shell).exit_code == 1


def test_driver_is_in_no_child_s_environment(bash: Session) -> None:
    bash.do("set -a; x=1; f() { :; }")
    assert bash.told("env | grep -ci -e remote -e prompt")[0] == "0\n"


def test_overwritten_prompt_command_does_not_lose_the_session(bash: Session) -> None:
    for _ in range(3):
        bash.do("PROMPT_COMMAND=true; kill -INT $$")
    assert bash.told("echo $?") == ("130\n", 0)


def test_finished_foreground_commands_are_no_jobs(bash: Session) -> None:
    bash.do("(exit 7); cat </dev/null; true | false")
    assert bash.told("jobs") == ("", 0)


def test_shell_that_is_missing_falls_back_on_sh(server: Server, tmp_path: Path) -> None:
    for name in ("sh", "cat"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    session = Session(server, "bash", env={"PATH": str(tmp_path)})
    assert session.told("echo here; false") == ("here\n", 1)


def test_sh_that_is_bash_is_driven_as_bash(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to(str(shutil.which("bash")))
    session = Session(server, str(tmp_path / "sh"))
    assert session.told("x=(1 2); echo ${x[1]}; false") == ("2\n", 1)


def test_login_shell_reads_its_profile_and_says_nothing_of_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".bash_profile").write_text("echo noise; from_profile=yes\n")
    shell = server.run(["bash", "-l"], flags=RunFlag.SESSION | RunFlag.SHELL, env={"HOME": str(tmp_path)})
    server.wait_for(lambda: shell.started, "the start")
    assert server.do("echo $from_profile", session=shell).text == "yes\n"


def test_split_session_keeps_stdout_and_stderr_apart(server: Server) -> None:
    session = Session(server, flags=RunFlag.SPLIT)
    done = session.do("echo out; echo err >&2")
    assert done.both == (b"out\n", b"err\n")


def test_cpu_time_of_a_command_is_its_shell_s_and_that_of_what_it_waited_for(any_shell: Session) -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    for command in (f"python3 -c '{burn}'", f"python3 -c '{burn}'; exit 3"):
        used = any_shell.do(command).ended
        assert used is not None
        assert used.ending.flags & EndingFlag.CPU_COUNTED
        assert 150_000 <= used.ending.cpu_us <= 10_000_000
