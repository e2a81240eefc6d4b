"""Sessions: a shell that is kept, driven over descriptors of its own, and the commands that it runs."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

from server import messages
from server.messages import Cause, EndingFlag, EndingKind, RunFlag, Stage
from tests.init.harness import Execution, Init, Server
from tests.init.processes import alive

PLAIN = [name for name in ("dash", "busybox") if shutil.which(name)]


class Session:
    """A session, and its commands one after another."""

    def __init__(self, server: Server, shell: str = "bash", **how: object) -> None:
        self.server = server
        self.shell = server.open_session(shell, **how)  # type: ignore[arg-type]

    def do(self, command: str, **how: object) -> Execution:
        """Run to the end and acknowledge."""
        return self.server.do(command, session=self.shell, **how)

    def run(self, command: str, **how: object) -> Execution:
        return self.server.run(command, session=self.shell, **how)  # type: ignore[arg-type]

    def told(self, command: str, **how: object) -> tuple[str, int]:
        """Output and exit code."""
        done = self.do(command, **how)
        return done.text, done.exit_code


@pytest.fixture
def bash(server: Server) -> Session:
    return Session(server)


@pytest.fixture(params=["bash", *PLAIN])
def any_shell(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Session:
    if request.param != "busybox":
        return Session(server, request.param)
    link = tmp_path / "sh"
    link.symlink_to(str(shutil.which("busybox")))
    return Session(server, str(link))


def failure(run: Execution) -> tuple[Stage, int]:
    assert run.ended is not None
    ending = run.ended.ending
    assert ending.kind is EndingKind.FAILED_TO_START, ending
    return ending.stage, ending.status


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


# ------------------------------------------------------------------------------------------------- how sessions end


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 3", 3), ("exec sh -c 'exit 4'", 4), ("kill -9 $$", -signal.SIGKILL), ("trap 'echo bye' EXIT; exit 5", 5)],
)
def test_end_of_the_shell_ends_session_and_command_alike(any_shell: Session, command: str, code: int) -> None:
    server, shell = any_shell.server, any_shell.shell
    done = any_shell.do(command)
    assert done.exit_code == code
    assert done.ended is not None
    assert done.ended.ending.flags & EndingFlag.SESSION_OVER
    assert server.finished(shell).exit_code == code
    assert failure(any_shell.do("true")) == (Stage.SESSION, errno.ENOENT)


def test_command_for_a_session_that_is_over_and_not_acknowledged_is_refused(bash: Session) -> None:
    bash.do("exit 0")
    bash.server.ended(bash.shell)
    assert failure(bash.do("true")) == (Stage.SESSION, errno.ESRCH)


def test_session_is_busy_until_its_command_is_acknowledged(bash: Session) -> None:
    first = bash.run("sleep 0.05")
    assert failure(bash.do("true")) == (Stage.SESSION, errno.EBUSY)
    bash.server.ended(first)
    assert failure(bash.do("true")) == (Stage.SESSION, errno.EBUSY)
    bash.server.ack(first)
    assert bash.told("true") == ("", 0)


def test_unknown_session_is_refused(server: Server) -> None:
    assert failure(server.do("true", session=Execution("no-such-session", 0))) == (Stage.SESSION, errno.ENOENT)


def test_session_s_cancel_ends_all_of_it(any_shell: Session) -> None:
    server, shell = any_shell.server, any_shell.shell
    pid = int(any_shell.told("sleep 1000 & echo $!")[0])
    running = any_shell.run("setsid sleep 1000 & trap '' INT TERM; echo up; sleep 1000")
    server.output_of(running, "up")
    server.kill(shell)
    server.finished(running)
    server.finished(shell)
    assert running.ended is not None and shell.ended is not None
    assert (running.ended.ending.cause, shell.ended.ending.cause) == (Cause.CANCEL, Cause.CANCEL)
    assert not alive(pid)


def test_sessions_are_counted(server: Server, init: Init) -> None:
    sessions = [server.open_session() for _ in range(64)]
    assert failure(server.do(["bash"], flags=RunFlag.SESSION))[1] == errno.EMFILE
    server.do("exit", session=sessions[0])
    server.finished(sessions[0])
    again = server.open_session()
    assert server.do("echo there", session=again).text == "there\n"


@pytest.mark.usefixtures("as_root")
def test_sessions_leave_no_descriptor_behind(init: Init) -> None:
    server = init.server
    server.all_said()
    before = sorted(os.listdir(f"/proc/{init.pid}/fd"))
    for flags in (RunFlag(0), RunFlag.SPLIT, RunFlag.TTY):
        session = Session(server, flags=flags)
        session.do("true")
        session.do("exit")
        server.finished(session.shell)
    server.finished(server.open_session("/no/such/shell", env={"PATH": "/nowhere"}, workdir="/no/such/place"))
    server.all_said()
    assert sorted(os.listdir(f"/proc/{init.pid}/fd")) == before


# --------------------------------------------------------------------------------------------------- interruption


@pytest.mark.parametrize(
    "command", ["sleep 1000; echo next", "while :; do :; done", "for i in 1 2; do sleep 1000; done", "x=$(sleep 1000)", "sleep 1000 | cat"]
)
def test_timeout_interrupts_the_command_and_the_session_lives(any_shell: Session, command: str) -> None:
    done = any_shell.do(f"kept=yes; {command}", timeout_ms=100, grace_ms=20_000)
    assert done.ended is not None
    assert (done.ended.ending.cause, done.exit_code) == (Cause.TOTAL, 130)
    assert "next" not in done.text
    assert any_shell.told("echo $kept $?") == ("yes 130\n", 0)


def test_cancel_ends_a_command_that_has_just_been_sent(any_shell: Session) -> None:
    """Wherever the shell is then; bash itself may take the interrupt for its end, and says so."""
    over = False
    for _ in range(20):
        run = any_shell.run("sleep 1000", grace_ms=20_000)
        any_shell.server.kill(run)
        any_shell.server.finished(run)
        assert run.ended is not None
        assert run.ended.ending.cause is Cause.CANCEL
        if over := bool(run.ended.ending.flags & EndingFlag.SESSION_OVER):
            break
    if not over:
        assert any_shell.told("echo on") == ("on\n", 0)


@pytest.mark.parametrize("ignored", ["INT", "INT TERM"])
def test_command_that_is_deaf_is_terminated_then_killed_and_the_session_lives(any_shell: Session, ignored: str) -> None:
    early = int(any_shell.told("sleep 1000 & echo $!")[0])
    done = any_shell.do(f"trap '' {ignored}; sleep 1000 & sleep 1000", timeout_ms=50, grace_ms=50)
    assert done.ended is not None
    assert done.ended.ending.cause is Cause.TOTAL
    assert bool(done.ended.ending.flags & EndingFlag.KILLED_BY_US) is ("TERM" in ignored)
    assert alive(early)
    assert any_shell.told("trap - INT TERM; echo on") == ("on\n", 0)


def test_shell_that_cannot_be_interrupted_is_ended_with_its_session(any_shell: Session) -> None:
    done = any_shell.do("trap '' INT; while :; do :; done", timeout_ms=50, grace_ms=20)
    assert done.ended is not None
    assert (done.ended.ending.cause, done.exit_code) == (Cause.TOTAL, -signal.SIGKILL)
    assert done.ended.ending.flags & EndingFlag.SESSION_OVER
    assert any_shell.server.finished(any_shell.shell).exit_code == -signal.SIGKILL


def test_stopped_shell_is_ended_with_its_session(bash: Session) -> None:
    done = bash.do("kill -STOP $$", timeout_ms=50, grace_ms=20)
    assert done.exit_code == -signal.SIGKILL
    bash.server.finished(bash.shell)


def test_signal_to_a_command_goes_to_its_shell_s_group(bash: Session) -> None:
    run = bash.run("trap 'echo got; trap - USR1' USR1; echo up; sleep 0.2; sleep 0.2; echo end")
    bash.server.output_of(run, "up")
    bash.server.send(messages.signal(run.id, signal.SIGUSR1))
    bash.server.finished(run)
    assert "got" in run.text


# ------------------------------------------------------------------------------------------------ hostile, and crashes


HOSTILE = """
import os, sys
shell, word = os.getppid(), sys.argv[1]
own = {os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)}
for fd in os.listdir(f"/proc/{shell}/fd"):
    path = f"/proc/{shell}/fd/{fd}"
    if os.readlink(path).startswith("pipe:") and os.readlink(path) not in own:
        if os.lstat(path).st_mode & 0o200:
            os.write(os.open(path, os.O_WRONLY), word.encode() + b"\\n")
"""


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("word", ["nonsense", "99 0x", "-1 0", "3", "2 256", "x" * 200])
def test_word_out_of_place_costs_its_session_alone(server: Server, word: str) -> None:
    victim, other = Session(server), Session(server)
    run = victim.do(f"python3 -c '{HOSTILE}' '{word}'; sleep 1000")
    assert run.exit_code == -signal.SIGKILL
    server.finished(victim.shell)
    assert other.told("echo unharmed") == ("unharmed\n", 0)


def test_new_server_finds_session_and_command_with_their_read_ends(init: Init) -> None:
    server = init.server
    session = Session(server)
    session.do("x=kept")
    run = session.run("echo before; sleep 0.3; echo after; (exit 6)")
    server.output_of(run, "before")
    server.die()
    hello = server.connect()
    assert {entry.id for entry in hello.entries} == {session.shell.id, run.id}
    assert hello.pipes == 2
    server.finished(run)
    assert run.text.endswith("after\n")
    assert run.exit_code == 6
    assert session.told("echo $x $?") == ("kept 6\n", 0)


def test_session_keeps_its_read_end_whatever_its_commands_acks(init: Init) -> None:
    server = init.server
    session = Session(server)
    for _ in range(3):
        session.do("true")
    server.hang_up()
    assert server.connect().pipes == 1
    assert session.told("echo on") == ("on\n", 0)


def test_runner_killed_from_inside_costs_its_session_alone(bash: Session, init: Init) -> None:
    other = Session(bash.server)
    done = bash.do("kill -9 $PPID; sleep 1000")
    assert done.exit_code == -signal.SIGKILL
    bash.server.finished(bash.shell)
    assert other.told("echo unharmed") == ("unharmed\n", 0)


# ------------------------------------------------------------------------------- long commands, standard input by path


def test_script_longer_than_an_argument_runs_with_its_own_line_numbers(server: Server) -> None:
    command = "#" * 200_000 + '\necho "$0" "$#"; ls /proc/self/fd; nosuchprogram-$((1 + 1))\nexit 7'
    done = server.do(["bash", "-c", command], flags=RunFlag.SCRIPT | RunFlag.SHELL)
    assert done.exit_code == 7
    assert done.text.startswith("bash 0\n0\n1\n2\n3\n")
    assert "line 2: nosuchprogram-2" in done.text


def test_standard_input_is_a_file_of_the_sandbox_opened_and_removed(init: Init) -> None:
    file = init.directory / "input"
    file.write_bytes(b"\0content")
    done = init.server.do(["cat"], stdin_path=str(file))
    assert bytes(done.output) == b"\0content"
    assert file.exists()
    assert bytes(init.server.do(["cat"], stdin_path=str(file), flags=RunFlag.UNLINK_STDIN).output) == b"\0content"
    assert not file.exists()
    assert failure(init.server.do(["cat"], stdin_path=str(file))) == (Stage.STDIN, errno.ENOENT)


@pytest.mark.usefixtures("as_root")
def test_standard_input_is_opened_with_the_user_s_permissions(init: Init) -> None:
    file = init.directory / "secret"
    file.write_text("for root")
    file.chmod(0o600)
    assert failure(init.server.do(["cat"], stdin_path=str(file), user="nobody")) == (Stage.STDIN, errno.EACCES)
