"""The client's live output against a real server and real containers."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from remote_env import Client, RemoteDockerEnvironment, Sandbox, Timings
from remote_env.events import Accepted, Ended, Event, Gap, OutputPiece, Started
from tests.support.server import BUSYBOX, SMALL, Server

ROOT = Path(__file__).parents[2]
SOON = replace(Timings(), stream_connect_waits_s=(0.05, 0.1, 0.2))
BOTH = "for i in 1 2 3; do echo out$i; echo err$i >&2; done; exit 4"


def data_of(events: list[Event], stream: str = "merged") -> bytes:
    """The output that went by, which must be in one piece from its first byte on."""
    data = b""
    for event in events:
        if isinstance(event, OutputPiece) and event.stream == stream:
            assert event.offset == len(data), "a byte came twice, or is missing"
            data += event.data
    return data


def test_a_command_is_followed_from_its_acceptance_to_its_end(shared: Sandbox) -> None:
    events = list(shared.stream("echo one; sleep 0.2; echo two; exit 3"))
    assert [type(event) for event in events[:2]] == [Accepted, Started]
    assert isinstance(events[-1], Ended)
    assert (events[-1].result.returncode, events[-1].result.text) == (3, "one\ntwo\n")
    assert data_of(events) == b"one\ntwo\n"


def test_split_streams_come_apart(shared: Sandbox) -> None:
    events = list(shared.stream(BOTH, streams="split"))
    assert (data_of(events, "stdout"), data_of(events, "stderr")) == (b"out1\nout2\nout3\n", b"err1\nerr2\nerr3\n")
    assert isinstance(events[-1], Ended)
    assert (events[-1].result.output(), events[-1].result.stderr()) == (b"out1\nout2\nout3\n", b"err1\nerr2\nerr3\n")


def test_output_is_told_of_while_the_command_runs(client: Client, server: Server) -> None:
    heard: list[str] = []
    with RemoteDockerEnvironment(BUSYBOX, client=client, memory_bytes=SMALL) as env:

        def on_output(piece: OutputPiece) -> None:
            heard.append(piece.text)
            if "begun" in piece.text:
                env.sandbox.run("touch /tmp/heard")

        command = "echo begun; until [ -e /tmp/heard ]; do sleep 0.05; done; echo done"
        answer = env.execute(command, timeout=30, on_output=on_output)
    assert (answer["returncode"], answer["output"], "".join(heard)) == (0, "begun\ndone\n", "begun\ndone\n")


def test_more_than_is_kept_is_seen_whole_but_for_the_gaps_it_tells_of(shared: Sandbox) -> None:
    size = 50_000_000
    at = 0
    for event in shared.stream(f"yes | head -c {size}", output_limit_bytes=1 << 20):
        if isinstance(event, OutputPiece):
            assert event.offset == at
            assert event.data == (b"y\n" * (len(event.data) // 2 + 2))[at % 2 :][: len(event.data)]
            at = event.end
        elif isinstance(event, Gap):
            assert event.start == at
            at = event.end
    assert at == size


def test_a_server_that_is_killed_again_and_again_costs_no_byte(make_server: Callable[..., Server]) -> None:
    own = make_server().start()
    with own.client(SOON) as client, client.create_sandbox(BUSYBOX, memory_bytes=SMALL) as sandbox:
        command = "i=0; while [ $i -lt 60 ]; do echo out$i; echo err$i >&2; i=$((i+1)); sleep 0.05; done"
        stream = sandbox.stream(command, streams="split", timeout_s=120)
        events: list[Event] = []
        for event in stream:
            events.append(event)
            if isinstance(event, OutputPiece) and event.data.endswith((b"out10\n", b"out30\n", b"out50\n")):
                own.restart()
        assert data_of(events, "stdout") == b"".join(b"out%d\n" % i for i in range(60))
        assert data_of(events, "stderr") == b"".join(b"err%d\n" % i for i in range(60))
        assert [type(event) for event in stream.execution.stream("now")] == [Accepted, Started, Ended]


class RandomCuts:
    """Forwards to a port of this machine, and cuts each answer to a request for events after so many bytes."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self._port = port
        self._rng = rng
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client, socket.create_connection(("127.0.0.1", self._port))), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        left: list[int] = []  # bytes of the answer that are let through, where events were asked for

        def answers() -> None:
            with suppress(OSError):
                while data := server.recv(1000):
                    client.sendall(data[: left[0]] if left else data)
                    if left:
                        left[0] -= len(data)
                        if left[0] <= 0:
                            self.cuts += 1
                            break
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        with client, server, suppress(OSError):
            answering = threading.Thread(target=answers)
            answering.start()
            while request := client.recv(65536):
                if b"/events" in request.partition(b"\r\n")[0]:
                    left[:] = [self._rng.randrange(1, 3000 * (1 + self.cuts))]  # in the end an event gets through, however long
                server.sendall(request)
            server.shutdown(socket.SHUT_RDWR)
            answering.join()


@pytest.fixture
def cutting(server: Server) -> Iterator[RandomCuts]:
    proxy = RandomCuts(server.port, random.Random(7))
    yield proxy
    proxy.close()


@pytest.mark.parametrize("failures", [2, 1_000_000], ids=["with long-polling", "by events alone"])
def test_cuts_at_any_byte_cost_no_byte(server: Server, cutting: RandomCuts, failures: int) -> None:
    timings = replace(SOON, stream_failures=failures, stream_retry_sse_s=0.1, stream_connect_waits_s=(0.0,) * 1000)
    with Client(cutting.url, server.token, timings=timings) as client, client.create_sandbox(BUSYBOX, memory_bytes=SMALL) as sandbox:
        expected = "".join(f"línea {number} 日本\n" for number in range(400))
        events = list(sandbox.stream('i=0; while [ $i -lt 400 ]; do echo "línea $i 日本"; i=$((i+1)); done; sleep 1'))
    assert data_of(events).decode() == expected
    assert all("\ufffd" not in event.text for event in events if isinstance(event, OutputPiece)), "a character was torn"
    assert cutting.cuts > 1


def test_run_keeps_stdout_and_stderr_apart(server: Server) -> None:
    words = [sys.executable, "-m", "remote_env.cli.main", "run", "-m", "128m", BUSYBOX, "-c", BOTH]
    done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, env={**os.environ, **server.env}, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, b"out1\nout2\nout3\n", b"err1\nerr2\nerr3\n")
