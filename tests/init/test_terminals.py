"""Terminals: programs on one of their own, and sessions that have one."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import termios
from collections.abc import Callable

import pytest

from server.messages import Cause, RunFlag, Stage
from tests.init.followed import Execution
from tests.init.harness import Init, Server

TTY = RunFlag.TTY


def on_terminal(server: Server, command: str, *, flags: RunFlag = RunFlag(0), **how: object) -> Execution:  # noqa: B008
    run = server.run(command, flags=flags | TTY, **{"rows": 30, "cols": 100, **how})  # type: ignore[arg-type]
    server.wait_for(lambda: run.started, "the start")
    return run


def types(run: Execution, text: bytes) -> None:
    assert run.pipe is not None
    assert os.write(run.pipe, text) == len(text)


@pytest.fixture(params=["bash", "dash"])
def session(request: pytest.FixtureRequest, server: Server) -> Execution:
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no {request.param} here")
    return server.open_session(request.param, flags=TTY, rows=24, cols=80)


# ----------------------------------------------------------------------------------------------- programs on their own


def test_program_has_a_controlling_terminal_of_the_size_asked_for(server: Server) -> None:
    run = on_terminal(server, "tty; stty size; echo $TERM; : < /dev/tty && echo controlling", env={"TERM": "dumb"})
    server.finished(run)
    lines = run.text.split("\r\n")
    assert lines[0].startswith("/dev/pts/")
    assert lines[1:] == ["30 100", "dumb", "controlling", ""]


def test_input_is_read_and_echoed_unless_that_is_off(server: Server) -> None:
    for flags, shown in ((RunFlag(0), "word\r\ngot word\r\n"), (RunFlag.ECHO_OFF, "got word\r\n")):
        run = on_terminal(server, "read x; echo got $x", flags=flags)
        types(run, b"word\n")
        server.finished(run)
        assert run.text == shown


def test_control_c_interrupts_the_program(server: Server) -> None:
    run = on_terminal(server, "trap 'echo caught; exit 3' INT; echo up; while :; do sleep 0.01; done")
    server.output_of(run, "up")
    types(run, b"\x03")
    assert server.finished(run).exit_code == 3
    assert "caught" in run.text


def test_program_is_told_of_a_new_size(server: Server) -> None:
    run = on_terminal(server, "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.01; done")
    server.output_of(run, "up")
    assert run.pipe is not None
    fcntl.ioctl(run.pipe, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
    server.finished(run)
    assert run.text.endswith("50 132\r\n")


def test_output_of_a_program_that_has_ended_is_still_there(server: Server) -> None:
    run = on_terminal(server, "seq 100")
    server.reading = False
    server.ended(run)
    assert run.text.split() == [str(i) for i in range(1, 101)]
    server.reading = True
    server.ack(run)


def test_terminal_outlives_the_server(init: Init) -> None:
    server = init.server
    run = on_terminal(server, "echo before; read x; echo got $x")
    server.output_of(run, "before")
    server.die()
    assert server.connect().pipes == 1
    types(run, b"it\n")
    server.finished(run)
    assert "got it" in run.text


@pytest.mark.usefixtures("as_root")
def test_terminal_is_the_user_s(server: Server) -> None:
    run = on_terminal(server, 'echo $(stat -c %U "$(tty)") > "$(tty)"', user="nobody")
    server.finished(run)
    assert run.text == "nobody\r\n"


def test_cancel_ends_a_program_on_a_terminal_and_what_it_left(server: Server) -> None:
    run = on_terminal(server, "trap '' TERM HUP; echo up; sleep 1000 & wait; sleep 1000")
    server.output_of(run, "up")
    server.kill(run)
    server.finished(run)
    assert run.ended is not None
    assert run.ended.ending.cause is Cause.CANCEL


# ----------------------------------------------------------------------------------------------------------- sessions


def test_commands_of_a_session_are_on_its_terminal_where_they_ask_for_it(server: Server, session: Execution) -> None:
    assert server.do("[ -t 1 ] || echo no terminal", session=session).text == "no terminal\n"
    run = on_terminal(server, "x=kept; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal; stty size", session=session)
    server.finished(run)
    assert run.text == "terminal\r\n30 100\r\n"
    assert server.do("echo $x", session=session).text == "kept\n"


def test_program_in_a_session_is_talked_to(server: Server, session: Execution) -> None:
    run = on_terminal(server, "python3 -q", session=session, env={})
    server.output_of(run, ">>> ")
    types(run, b"6 * 7\n")
    server.output_of(run, "42")
    types(run, b"import time; print('as' 'leep'); time.sleep(1000)\n")
    server.output_of(run, "asleep")  # sooner, the terminal would throw away what was typed and not yet read
    types(run, b"\x03")
    server.output_of(run, "KeyboardInterrupt")
    types(run, b"raise SystemExit(5)\n")
    assert server.finished(run).exit_code in (5, 130)  # dash takes the interrupt for its own as well


def test_each_command_finds_the_terminal_as_new(server: Server, session: Execution) -> None:
    """What was typed for the last one is gone, and so is what that did to the modes."""
    run = on_terminal(server, "stty raw -echo; echo up; sleep 1000", session=session)
    server.output_of(run, "up")
    types(run, b"meant for sleep\n")
    server.kill(run)
    server.finished(run)
    run = on_terminal(server, "echo up; read x; echo got $x", session=session)
    server.output_of(run, "up\r\n")
    types(run, b"this\n")
    server.finished(run)
    assert run.text == "up\r\nthis\r\ngot this\r\n"


def test_session_without_a_terminal_refuses(server: Server) -> None:
    run = server.do("true", flags=TTY, session=server.open_session())
    assert run.ended is not None
    assert (run.ended.ending.stage, run.ended.ending.status) == (Stage.SESSION, errno.ENOTTY)


@pytest.mark.usefixtures("as_root")
def test_terminals_leave_no_descriptor_behind(init: Init, start_init: Callable[..., Init]) -> None:
    server = init.server
    server.all_said()
    before = sorted(os.listdir(f"/proc/{init.pid}/fd"))
    for _ in range(10):
        server.finished(on_terminal(server, "true"))
    server.do(["/no/such/program"], flags=TTY)
    server.all_said()
    assert sorted(os.listdir(f"/proc/{init.pid}/fd")) == before
