"""How sessions end, and how their commands are interrupted."""

from __future__ import annotations

import errno
import os
import signal
import time

import pytest

from server import messages
from server.messages import Cause, EndingFlag, RunFlag, Stage
from tests.init.harness import Execution, Init, Server
from tests.init.processes import alive
from tests.init.sessions import Session, failure

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


def test_early_cancels_cost_nothing_but_their_command(any_shell: Session) -> None:
    """Wherever the shell is then, reading the command or about to wait for what it has forked."""
    any_shell.do("cd /usr; kept=yes")
    for number in range(300):
        run = any_shell.run("sleep 1000", grace_ms=20_000)
        time.sleep(number % 6 / 1000)  # what is tried: another moment each time
        any_shell.server.kill(run)
        any_shell.server.finished(run)
        assert run.ended is not None
        assert (run.ended.ending.cause, run.exit_code, run.text.strip()) == (Cause.CANCEL, 130, "")
        assert not run.ended.ending.flags & EndingFlag.SESSION_OVER
    assert any_shell.told("echo $kept $PWD $?") == ("yes /usr 130\n", 0)


def test_interrupt_of_an_idle_session_leaves_it_as_it_is(any_shell: Session) -> None:
    any_shell.do("kept=yes; (exit 3)")
    any_shell.server.send(messages.signal(any_shell.shell.id, signal.SIGINT))
    assert any_shell.told("echo $kept") == ("yes\n", 0)


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
