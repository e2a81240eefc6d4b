"""Programs that are talked with: on a session's terminal, and on terminals of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pytest

from remote_env import END, Client, ExpectEnded, ExpectTimeout, Sandbox, Session, Tty
from tests.support.server import SANDBOX, SMALL, Server

PROMPT = ">>> "
GDB = r"\(gdb\) "
IPYTHON = r"In \[\d+\]: "


@pytest.fixture
def session(debian: Sandbox) -> Iterator[Session]:
    """Without echo: what is said is what the program says."""
    with debian.session(tty=Tty(echo=False, term="dumb")) as opened:
        yield opened


@pytest.fixture
def python(session: Session) -> Session:
    session.run("python3 -q", expect=PROMPT)
    return session


def answer(session: Session, line: str) -> str:
    """What it says to a line, without the line that a line editor echoes."""
    expected = session.send(f"{line}\n", expect=PROMPT)
    assert expected is not None
    return expected.output.replace("\r\n", "\n").removeprefix(f"{line}\n")


def test_python_remembers_what_it_was_told_and_its_end_ends_the_command(python: Session) -> None:
    assert answer(python, "x = 6") == ""
    assert answer(python, "print(x * 7)") == "42\n"
    last = python.send("raise SystemExit(4)\n", expect=END)
    assert last is not None
    assert last.execution.returncode == 4
    assert python.run("echo $?").text == "4\n"


def test_interrupt_reaches_the_program_and_not_the_session(python: Session) -> None:
    python.send("print('begun', flush=True); __import__('time').sleep(1000)\n", expect="begun\r\n")
    interrupted = python.interrupt(expect=PROMPT)
    assert interrupted is not None and "KeyboardInterrupt" in interrupted.output
    assert answer(python, "1 + 1") == "2\n"
    python.send("exit()\n", expect=END)
    assert python.run("echo on").text == "on\n"


def test_read_prompts_are_answered(session: Session) -> None:
    question = session.run("read -p 'Your name? ' name; read -s -p 'Secret? ' secret; echo; echo \"$name/$secret\"", expect=r"\? ")
    assert question.output + question.match == "Your name? "
    assert session.send("größe\n", expect=r"Secret\? ") is not None
    last = session.send("7€\n", expect=[END])
    assert last is not None and last.output == "\r\ngröße/7€\r\n"
    assert session.run("echo $name").text == "größe\n"


def test_timeout_of_an_expectation_leaves_the_program_as_it_is(python: Session) -> None:
    python.send("2 + 3\n")
    with pytest.raises(ExpectTimeout) as caught:
        python.expect("no such thing", timeout_s=0.3)
    assert "5" in caught.value.output
    assert "5" in python.expect(PROMPT).output


def test_program_that_ends_before_what_was_expected_says_so(session: Session) -> None:
    with pytest.raises(ExpectEnded, match="code 127") as caught:
        session.run("no-such-program", expect=PROMPT)
    assert "not found" in caught.value.output
    assert session.run("echo on").text == "on\n"


def test_commands_have_the_terminal_only_where_they_ask_for_it(session: Session) -> None:
    assert session.run("tty").returncode == 1
    assert session.run("tty; stty size", tty=True).text == "/dev/pts/0\r\n24 80\r\n"
    assert session.run("test -t 0 && test -t 1 && test -t 2", tty=True).returncode == 0
    assert session.run("cat").output() == b""


def test_what_was_typed_for_one_program_is_not_read_by_the_next(session: Session) -> None:
    terminal = session.terminal("sleep 0.3")
    terminal.send("echo typed ahead\n")
    terminal.wait()
    with pytest.raises(ExpectTimeout):
        session.run("read line; echo got $line", expect="got", timeout_s=0.5)
    session.send("now\n", expect="got now")


def test_program_that_left_its_terminal_raw_does_not_spoil_the_next(session: Session) -> None:
    assert session.run("stty raw -echo; printf 'a\\n'", tty=True).output() == b"a\n"
    assert session.run("printf 'a\\n'", tty=True).output() == b"a\r\n"


def test_cancelled_program_leaves_the_session_alive(session: Session) -> None:
    terminal = session.terminal("trap '' INT; cat")
    terminal.send("hello\n", expect="hello")
    terminal.close()
    assert session.run("echo on").text == "on\n"


def test_debugger_is_talked_with(debian: Sandbox, session: Session) -> None:
    if debian.run("command -v gdb").returncode != 0:
        pytest.skip("the image has no gdb: it was pulled, not made here")
    session.run("gdb -q", expect=GDB)
    session.send("print 6*7\n", expect=r"\$1 = 42")
    session.expect(GDB)
    session.send("quit\n", expect=END)
    assert session.run("echo on").text == "on\n"


def test_ipython_is_talked_with(client: Client, image_with_pytest: str) -> None:
    with (
        client.create_sandbox(image_with_pytest, memory_bytes=2 * SMALL) as sandbox,
        sandbox.session(tty=Tty(echo=False, term="dumb")) as session,
    ):
        session.run("PYTHONPATH=/opt/ipython python3 -m IPython --simple-prompt --no-banner", expect=IPYTHON)
        session.send("6*7\n", expect=r"Out\[1\]: 42")
        session.expect(IPYTHON)
        session.send("raise ValueError('seen')\n", expect="ValueError.*seen")
        session.expect(IPYTHON)
        session.send("exit\n", expect=END)
        assert session.run("echo on").text == "on\n"


# ------------------------------------------------------------------------------------------ terminals of their own


def test_login_shell_on_a_terminal_of_its_own(debian: Sandbox) -> None:
    with debian.terminal(env={"PS1": "ready> "}, rows=30, cols=100) as terminal:
        terminal.send_line("PS1='ready'; PS1=$PS1'> '", expect="ready> ")
        first = terminal.send_line("stty size; echo $TERM; tty", expect="/dev/pts/\\d+\r\n")
        assert first is not None and "30 100\r\nxterm-256color\r\n" in first.output
        terminal.resize(50, 132)
        terminal.send_line("stty size", expect="50 132\r\n")
        terminal.send_line("exit 5")
        assert terminal.wait(20).returncode == 5
    assert "ready> " in terminal.execution.text


def test_job_control_works_on_a_terminal(debian: Sandbox) -> None:
    with debian.terminal() as terminal:
        terminal.send_line("PS1='rea''dy> '", expect="ready> ")
        terminal.send_line("sh -c 'echo beg''un; exec sleep 1000'", expect="begun\r\n")
        terminal.send("\x1a", expect=r"Stopped.*ready> ")
        terminal.send_line("fg", expect=r"exec sleep 1000'\r\n")
        terminal.interrupt(expect="ready> ")
        terminal.send_line("echo code $?", expect="code 130\r\n")


def test_large_input_and_output_are_whole(debian: Sandbox) -> None:
    lines = "".join(f"{number:07d}\n" for number in range(40_000))
    with debian.terminal("stty raw -echo; echo ready; head -c 320000 | sha256sum") as terminal:
        terminal.expect("ready\n")
        terminal.send(lines)
        assert terminal.expect("[0-9a-f]{64}", 60).match == hashlib.sha256(lines.encode()).hexdigest()


def test_attached_program_is_gone_on_with(debian: Sandbox) -> None:
    first = debian.terminal("python3 -q", echo=False)
    first.expect(PROMPT)
    first.send_line("x = 41", expect=PROMPT)
    with debian.attach(first.id) as second:
        answer = second.send_line("x + 1", expect=PROMPT)
        assert answer is not None and "42" in answer.output
    assert first.wait(20).over


def test_program_on_a_terminal_outlives_the_server(make_server: Callable[..., Server], sandbox_image: str) -> None:
    server = make_server().start()
    with server.client() as client, client.create_sandbox(SANDBOX, memory_bytes=SMALL) as sandbox:
        session = sandbox.session(tty=Tty(echo=False, term="dumb"))
        session.run("python3 -q", expect=PROMPT)
        assert answer(session, "x = 1") == ""
        server.restart()
        assert answer(session, "x + 1") == "2\n"
        last = session.send("exit()\n", expect=END)
        assert last is not None and last.execution.returncode == 0
