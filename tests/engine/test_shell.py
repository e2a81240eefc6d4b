"""`remote-env shell` as a person uses it: in a real terminal, over links that break."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remote_env import Sandbox
from tests.support.faultproxy import FaultProxy
from tests.support.server import SANDBOX, SMALL, Server

ROOT = Path(__file__).parents[2]
WAIT_S = 30.0


class Person:
    """`remote-env shell …` in a terminal of 40 rows and 120 columns, and who sits in front of it."""

    def __init__(self, server: Server, *words: str, url: str | None = None, stdin: int | None = None) -> None:
        self._master, self.terminal = pty.openpty()
        self.resize(40, 120)
        self.modes = termios.tcgetattr(self.terminal)
        environ = {**os.environ, **server.env, "TERM": "xterm", "NO_COLOR": "1"} | ({} if url is None else {"REMOTE_ENV_URL": url})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "remote_env.cli.main", "shell", *words],
            stdin=self.terminal if stdin is None else stdin, stdout=self.terminal, stderr=self.terminal, cwd=ROOT, env=environ,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def sees(self, pattern: str) -> str:
        """Waits until that is on the screen; all text up to its end, which is then behind us."""
        until = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self._shown, re.DOTALL)):
            left = until - time.monotonic()
            ready = left > 0 and select.select([self._master], [], [], left)[0]
            piece = os.read(self._master, 1 << 16) if ready else b""
            assert piece, f"{pattern!r} is not in {self._shown!r}"
            self._shown += piece.decode(errors="replace")
        seen, self._shown = self._shown[: found.end()], self._shown[found.end() :]
        return seen

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def leaves(self) -> int:
        """The exit code, once it has ended by itself; the terminal is as it was."""
        code = self.process.wait(WAIT_S)
        assert termios.tcgetattr(self.terminal) == self.modes
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self.terminal)


Sit = Callable[..., Person]


@pytest.fixture
def sit(server: Server) -> Iterator[Sit]:
    people: list[Person] = []

    def sit_down(*words: str, at: Server | None = None, url: str | None = None, stdin: int | None = None) -> Person:
        people.append(Person(at or server, *words, url=url, stdin=stdin))
        return people[-1]

    yield sit_down
    for each in people:
        each.close()


@pytest.fixture
def at_prompt(sit: Sit, debian: Sandbox) -> Callable[..., Person]:
    """A shell in the shared sandbox, at a prompt that nothing else looks like."""

    def make(*words: str, url: str | None = None) -> Person:
        person = sit(*words, debian.id, url=url)
        person.sees(r"[$#] ")
        person.type("PS1='rea''dy> '\r")
        person.sees("ready> ")
        return person

    return make


def test_person_works_in_it_and_gets_its_exit_code(at_prompt: Callable[..., Person]) -> None:
    person = at_prompt("--workdir", "/usr", "--user", "nobody", "-e", "GREETING=größe")
    person.type('pwd; id -un; echo "$GREETING $TERM"; tty\r')
    assert re.search(r"/usr\r\nnobody\r\ngröße xterm\r\n/dev/pts/\d+\r\n", person.sees("/dev/pts/.*ready> "))
    person.type("exit 7\r")
    assert person.leaves() == 7


def test_command_of_ones_own_runs_in_place_of_the_shell(sit: Sit, debian: Sandbox) -> None:
    person = sit(debian.id, "--", "python3", "-q")
    person.sees(">>> ")
    person.type("6 * 7\r")
    person.sees("42\r\n>>> ")
    person.type("raise SystemExit(3)\r")
    assert person.leaves() == 3


def test_size_is_ours_and_follows_ours(at_prompt: Callable[..., Person]) -> None:
    person = at_prompt()
    person.type("stty size\r")
    person.sees("40 120\r\n")
    person.type('bash -c \'trap "echo size \\$(stty size)" WINCH; echo beg""un; while :; do sleep 0.1; done\'\r')
    person.sees("begun\r\n")
    person.resize(50, 132)
    person.sees("size 50 132\r\n")


def test_ctrl_c_goes_to_the_program(at_prompt: Callable[..., Person]) -> None:
    person = at_prompt()
    person.type("echo beg''un; sleep 1000\r")
    person.sees("begun\r\n")
    person.type("\x03")
    person.sees("ready> ")
    person.type("echo code $?\r")
    person.sees("code 130\r\n")
    person.type("\x04")
    assert person.leaves() == 0


def test_person_who_leaves_comes_back_to_the_same_shell(at_prompt: Callable[..., Person], sit: Sit, debian: Sandbox) -> None:
    person = at_prompt()
    person.type("here=kept\r")
    person.sees("ready> ")
    person.type("~.")
    told = person.sees("ends it")
    assert person.leaves() == 123
    execution = re.search(r"--attach (\w+)", told)
    assert execution is not None
    again = sit("--attach", execution[1], debian.id)
    again.sees("ready> ")  # what it has said before
    again.type("echo $here; exit\r")
    again.sees("kept\r\n")
    assert again.leaves() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_puts_the_terminal_back_and_leaves_the_shell_running(
    at_prompt: Callable[..., Person], debian: Sandbox, number: signal.Signals
) -> None:
    person = at_prompt()
    person.process.send_signal(number)
    told = person.sees("ends it")
    assert person.leaves() == 128 + number
    execution = re.search(r"kill (\w+)", told)
    assert execution is not None
    assert debian.attach(execution[1]).execution.record.state == "running"


def test_broken_link_is_taken_up_and_nothing_is_missing(at_prompt: Callable[..., Person], server: Server) -> None:
    with FaultProxy(server.port) as proxy:
        person = at_prompt(url=proxy.url)
        person.type("here=kept; (sleep 0.5; seq -s, 1 2000) & echo beg''un\r")
        person.sees("begun\r\n")
        proxy.cut_all()
        person.sees("the link broke.*back at the same program")
        assert ",".join(str(number) for number in range(1, 2001)) in person.sees(r"1999,2000\r\n").replace("\r\n", "")
        person.type("echo $here; exit 5\r")
        person.sees("kept\r\n")
        assert person.leaves() == 5
        assert proxy.counts["upgrades"] >= 2


def test_server_that_is_killed_is_come_back_to(make_server: Callable[..., Server], sit: Sit, sandbox_image: str) -> None:
    server = make_server().start()
    with server.client() as client, client.create_sandbox(SANDBOX, memory_bytes=SMALL) as sandbox:
        person = sit(sandbox.id, at=server)
        person.type("PS1='rea''dy> '; here=kept\r")
        person.sees("ready> ")
        server.restart()
        person.sees("back at the same program")
        person.type("echo $here; exit 5\r")
        person.sees("kept\r\n")
        assert person.leaves() == 5


def test_sandbox_that_is_removed_ends_it(make_server: Callable[..., Server], sit: Sit, sandbox_image: str) -> None:
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(SANDBOX, memory_bytes=SMALL)
        person = sit(sandbox.id, at=server)
        person.type("echo beg''un\r")
        person.sees("begun\r\n")
        sandbox.remove()
        assert person.leaves() in (123, 130)  # lost, or cancelled by the removal


def test_full_screen_program_gets_every_key(at_prompt: Callable[..., Person]) -> None:
    """Keys that terminals and shells like to keep: Ctrl-S, Ctrl-Q, Ctrl-V, Ctrl-\\, Ctrl-Z, Escape."""
    person = at_prompt()
    person.type("stty raw -echo; echo rea''d; head -c 7 | od -An -tx1; stty sane\r")
    person.sees("read")
    person.type("\x13\x11\x16\x1c\x1a\x1b\x7f")
    person.sees("13 11 16 1c 1a 1b 7f")


# -------------------------------------------------------------------------------------------------- without a terminal


def run_piped(server: Server, *words: str, script: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **server.env}
    command = [sys.executable, "-m", "remote_env.cli.main", "shell", *words]
    return subprocess.run(command, input=script, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=WAIT_S, check=False)


def test_what_is_piped_in_is_a_script_without_a_terminal(server: Server, debian: Sandbox) -> None:
    done = run_piped(server, debian.id, script="x=größe\necho $x\ntty\necho wrong >&2\nexit 3\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "größe\nnot a tty\n", "wrong\n")


def test_what_is_piped_to_a_command_is_its_stdin(server: Server, debian: Sandbox) -> None:
    assert run_piped(server, debian.id, "--", "wc", "-c", script="12345").stdout == "5\n"


def test_attached_program_is_shown_without_a_terminal_too(server: Server, debian: Sandbox) -> None:
    with debian.terminal("read line; echo got $line; exit 4", echo=False) as terminal:
        done = run_piped(server, "--attach", terminal.id, debian.id, script="hello\n")
    assert (done.returncode, done.stdout) == (4, "got hello\n".replace("\n", "\r\n") if "\r" in done.stdout else "got hello\n")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--attach", "0123456789abcdef0123456789abcdef"], 123, "knows no execution"),
        (["--json"], 2, "no JSON"),
        (["--attach", "x", "-w", "/"], 2, "takes up a program as it is"),
    ],
)
def test_mistakes_are_told(sit: Sit, debian: Sandbox, words: list[str], code: int, told: str) -> None:
    person = sit(*words, debian.id)
    person.sees(told)
    assert person.leaves() == code


def test_installation_without_websockets_says_what_to_install(server: Server, debian: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "websockets.py").write_text("raise ImportError('not here')\n")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        person = Person(server, debian.id)
    finally:
        del os.environ["PYTHONPATH"]
    try:
        person.sees(r"pip install 'remote-env\[shell\]'")
        assert person.leaves() == 2
    finally:
        person.close()
