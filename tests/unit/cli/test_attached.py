"""A person's terminal held to a remote one, over links that break: against a WebSocket server that says what a test tells it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import queue
import signal
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from remote_env.backoff import Backoff
from remote_env.cli.attached import SCREEN_LIMIT, Attachment, Detached, Ending, GaveUp, Refused
from remote_env.cli.rawmode import Leave, RawTerminal
from remote_env.cli.terminallink import Over, TerminalLink
from remote_env.config import Endpoint
from remote_env.protocol import EPOCH_HEADER, TERMINAL_SUBPROTOCOL, Execution, Outcome
from remote_env.timings import Timings

RECORD = Execution(id="e" * 32, sandbox_id="s" * 32, epoch="epoch1", run_id="r" * 32, state="running", tty=True)
ENDED = RECORD.model_copy(update={"state": "ended", "outcome": Outcome(kind="exited", ran=True, code=7)})
Script = Callable[["Line"], None]


class Line:
    """The server's end of one link."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        assert socket.request is not None
        self.path = socket.request.path
        self.headers = socket.request.headers

    @property
    def offset(self) -> int:
        return int(self.path.partition("from=")[2])

    def at(self, offset: int, typed: int | None = 0) -> None:
        self.socket.send(json.dumps({"type": "at", "offset": offset, "input": typed}))

    def say(self, data: bytes) -> None:
        self.socket.send(data)

    def end(self) -> None:
        self.socket.send(json.dumps({"type": "ended", "execution": json.loads(ENDED.model_dump_json())}))
        self.socket.close(1000)

    def typed(self, wanted: int) -> bytes:
        """So many bytes of input."""
        data = b""
        while len(data) < wanted:
            message = self.socket.recv(timeout=20)
            data += message if isinstance(message, bytes) else b""
        return data

    def told(self) -> dict[str, Any]:
        while True:
            message = self.socket.recv(timeout=20)
            if isinstance(message, str):
                return dict(json.loads(message))

    def cut(self) -> None:
        """As a link that breaks: no goodbye."""
        self.socket.socket.shutdown(2)


class Terminals:
    """A server of terminals: each link that comes is served by the next script."""

    def __init__(self) -> None:
        self.scripts: queue.Queue[Script] = queue.Queue()
        self.failures: list[BaseException] = []
        self.lines: list[Line] = []
        self._server = serve(self._serve, "127.0.0.1", 0, subprotocols=[Subprotocol(TERMINAL_SUBPROTOCOL)], ping_interval=None)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.endpoint = Endpoint(f"http://127.0.0.1:{self._server.socket.getsockname()[1]}", "the-token")

    def _serve(self, socket: ServerConnection) -> None:
        line = Line(socket)
        self.lines.append(line)
        try:
            self.scripts.get_nowait()(line)
        except ConnectionClosed:
            return
        except BaseException as error:
            self.failures.append(error)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        assert not self.failures


@pytest.fixture
def terminals() -> Iterator[Terminals]:
    made = Terminals()
    yield made
    made.close()


class Person:
    """Sits in front of an attachment: a keyboard and a screen that are pipes, unless they are a terminal."""

    def __init__(self, terminals: Terminals, offset: int = 0, raw: RawTerminal | None = None, keyboard: int | None = None) -> None:
        self._keys, self._hand = os.pipe()
        self._eyes, self._screen = os.pipe()
        self.told: list[str] = []
        self.attachment = Attachment(
            lambda offset: TerminalLink.open(terminals.endpoint, "the-token", RECORD, offset=offset, typist="a-typist", timings=Timings()),
            offset=offset,
            keyboard=self._keys if keyboard is None else keyboard,
            screen=self._screen,
            raw=raw,
            tell=self.told.append,
            backoff=Backoff(0.001, 0.01),
            budget_s=20.0,
        )

    def type(self, data: bytes) -> None:
        os.write(self._hand, data)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """With a screen onto which nothing fits any more."""
        os.set_blocking(self._screen, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self._screen, bytes(1 << 16))
        try:
            yield
        finally:
            for descriptor in (self._keys, self._hand, self._eyes, self._screen):
                os.close(descriptor)

    def stay(self) -> tuple[Ending, bytes]:
        """Until it ends; what was shown."""
        shown: list[bytes] = []
        watching = threading.Thread(target=lambda: shown.extend(iter(lambda: os.read(self._eyes, 1 << 16), b"")))
        watching.start()
        try:
            ending = self.attachment.run()
        finally:
            os.close(self._screen)
            watching.join()
            for descriptor in (self._keys, self._hand, self._eyes):
                os.close(descriptor)
        return ending, b"".join(shown)


def test_what_is_said_is_shown_and_what_is_typed_is_sent(terminals: Terminals) -> None:
    def script(line: Line) -> None:
        assert (line.headers["Authorization"], line.headers[EPOCH_HEADER]) == ("Bearer the-token", "epoch1")
        assert "Origin" not in line.headers
        line.at(0)
        line.say("größer\r\n$ ".encode())
        assert line.typed(5) == b"exit\n"
        line.say(b"exit\r\n")
        line.end()

    terminals.scripts.put(script)
    person = Person(terminals)
    person.type(b"exit\n")
    ending, shown = person.stay()
    assert isinstance(ending, Over)
    assert ending.record.outcome is not None and ending.record.outcome.code == 7
    assert shown == "größer\r\n$ exit\r\n".encode()
    assert person.told == []


def test_broken_link_is_taken_up_at_the_byte_after_the_last_shown(terminals: Terminals) -> None:
    def first(line: Line) -> None:
        line.at(0)
        line.say(b"one ")
        line.say(b"two ")
        line.cut()

    def second(line: Line) -> None:
        assert line.offset in (0, 4, 8)  # what had come by then
        line.at(line.offset)
        line.say(b"one two three"[line.offset :])
        line.end()

    for script in (first, second):
        terminals.scripts.put(script)
    person = Person(terminals)
    ending, shown = person.stay()
    assert (type(ending), shown) == (Over, b"one two three")
    assert person.told[0].startswith("the link broke") and person.told[1].startswith("back at the same program")


def test_input_that_a_broken_link_lost_is_sent_again_and_no_byte_of_what_came(terminals: Terminals) -> None:
    def first(line: Line) -> None:
        line.at(0, typed=100)
        assert line.typed(6) == b"abcdef"
        line.cut()

    def second(line: Line) -> None:
        line.at(0, typed=104)
        assert line.typed(2) == b"ef"
        line.end()

    for script in (first, second):
        terminals.scripts.put(script)
    person = Person(terminals)
    person.type(b"abcdef")
    assert isinstance(person.stay()[0], Over)


def test_input_of_which_the_server_cannot_tell_is_not_typed_twice(terminals: Terminals) -> None:
    def first(line: Line) -> None:
        line.at(0)
        assert line.typed(3) == b"rm\n"
        line.cut()

    def second(line: Line) -> None:
        line.at(0, typed=None)
        line.say(b"$ ")
        with pytest.raises(TimeoutError):
            line.socket.recv(timeout=0.2)
        line.end()

    for script in (first, second):
        terminals.scripts.put(script)
    person = Person(terminals)
    person.type(b"rm\n")
    assert person.stay()[1] == b"$ "


def test_server_that_stops_is_come_back_to(terminals: Terminals) -> None:
    def first(line: Line) -> None:
        line.at(0)
        line.socket.close(1001, "stopping")

    def second(line: Line) -> None:
        line.at(0)
        line.end()

    for script in (first, second):
        terminals.scripts.put(script)
    assert isinstance(Person(terminals).stay()[0], Over)


@pytest.mark.parametrize("code", [4401, 4404, 4409, 4410, 4412])
def test_refusal_is_not_tried_again(terminals: Terminals, code: int) -> None:
    terminals.scripts.put(lambda line: line.socket.close(code, "not_found"))
    assert Person(terminals).stay()[0] == Refused(code - 4000, "not_found")
    assert len(terminals.lines) == 1


def test_link_that_says_what_is_not_ours_is_broken(terminals: Terminals) -> None:
    """A proxy that mixes connections up: another execution's end must not end this one."""

    def first(line: Line) -> None:
        line.at(0)
        other = ENDED.model_copy(update={"id": "f" * 32})
        line.socket.send(json.dumps({"type": "ended", "execution": json.loads(other.model_dump_json())}))
        line.socket.recv(timeout=20)

    def second(line: Line) -> None:
        line.at(0)
        line.say(b"ours")
        line.end()

    for script in (first, second):
        terminals.scripts.put(script)
    assert Person(terminals).stay()[1] == b"ours"


def test_output_that_is_not_kept_is_told_of_and_gone_on_after(terminals: Terminals) -> None:
    def script(line: Line) -> None:
        line.at(0)
        line.say(b"head ")
        line.socket.send(json.dumps({"type": "gap", "from": 5, "to": 105}))
        line.socket.send(json.dumps({"type": "something newer"}))
        line.say(b"tail")
        line.end()

    terminals.scripts.put(script)
    person = Person(terminals)
    assert person.stay()[1] == b"head tail"
    assert person.told == ["100 bytes of output are not kept any more"]


def test_nobody_there_is_given_up_after_the_budget(terminals: Terminals) -> None:
    person = Person(terminals)
    person.attachment._budget_s = 0.05
    terminals.endpoint = Endpoint("http://127.0.0.1:1", "the-token")
    assert isinstance(person.stay()[0], GaveUp)


def test_slow_screen_loses_nothing(terminals: Terminals) -> None:
    said = b"0123456789abcdef" * (3 << 16)

    def script(line: Line) -> None:
        line.at(0)
        for start in range(0, len(said), 1 << 18):
            line.say(said[start : start + (1 << 18)])
        line.end()

    terminals.scripts.put(script)
    assert Person(terminals).stay()[1] == said


class Unread:
    """A link that is there, and is not to be read."""

    has_more = wants_write = False
    backlog = 0

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.flushed = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def flush(self) -> None:
        self.flushed += 1


def test_link_is_not_given_up_while_nobody_reads_it_because_the_screen_is_full(terminals: Terminals) -> None:
    """It may stay so for long: somebody looks at a page of it. Signs of life wait behind the output."""
    ours, theirs = socket.socketpair()
    link = Unread(ours)
    person = Person(terminals)
    person.attachment._connect = lambda offset: cast(Any, link)
    with ours, theirs, person.away():
        person.attachment._shown += bytes(SCREEN_LIMIT)
        for _ in range(3):
            person.type(b"k")
            assert person.attachment._turn() is None
    assert link.flushed == 3


# --------------------------------------------------------------------------------------------- our own terminal


@pytest.fixture
def own_terminal() -> Iterator[tuple[int, int]]:
    """The keyboard's end and the program's end of a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    yield master, slave
    os.close(master)
    os.close(slave)


def test_terminal_is_raw_inside_and_as_before_on_every_way_out(own_terminal: tuple[int, int]) -> None:
    _, slave = own_terminal
    before = termios.tcgetattr(slave)
    with RawTerminal(slave):
        assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert termios.tcgetattr(slave) == before
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), RawTerminal(slave):
        raise RuntimeError("an error of ours")
    assert termios.tcgetattr(slave) == before
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        with pytest.raises(Leave) as caught, RawTerminal(slave):
            signal.raise_signal(number)  # os.kill() may interrupt another thread, and come too late
        assert caught.value.number == number
        assert termios.tcgetattr(slave) == before
    assert signal.getsignal(signal.SIGTERM) == handler


def test_size_is_told_first_and_whenever_it_changes(terminals: Terminals, own_terminal: tuple[int, int]) -> None:
    _, slave = own_terminal

    def script(line: Line) -> None:
        line.at(0)
        assert line.told() == {"type": "resize", "rows": 40, "cols": 120}
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
        os.kill(os.getpid(), signal.SIGWINCH)
        assert line.told() == {"type": "resize", "rows": 50, "cols": 132}
        line.end()

    terminals.scripts.put(script)
    with RawTerminal(slave) as raw:
        assert isinstance(Person(terminals, raw=raw, keyboard=slave).stay()[0], Over)


def test_ctrl_c_goes_to_the_program_and_tilde_dot_leaves_it(terminals: Terminals, own_terminal: tuple[int, int]) -> None:
    master, slave = own_terminal
    typed: list[bytes] = []

    def script(line: Line) -> None:
        line.at(0)
        typed.append(line.typed(5))
        os.write(master, b"~.")
        line.socket.recv(timeout=20)

    terminals.scripts.put(script)
    with RawTerminal(slave) as raw:
        os.write(master, b"a~b\x03\r")
        assert isinstance(Person(terminals, raw=raw, keyboard=slave).stay()[0], Detached)
    assert typed == [b"a~b\x03\r"]


def test_tilde_dot_leaves_while_there_is_no_link(terminals: Terminals, own_terminal: tuple[int, int]) -> None:
    master, slave = own_terminal
    terminals.endpoint = Endpoint("http://127.0.0.1:1", "the-token")
    with RawTerminal(slave) as raw:
        person = Person(terminals, raw=raw, keyboard=slave)
        os.write(master, b"~.")
        assert isinstance(person.stay()[0], Detached)
