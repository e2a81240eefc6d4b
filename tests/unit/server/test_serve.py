"""The server as a process: how it starts, what it refuses, how it stops. Its services are the fake ones."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remote_env.protocol import EPOCH_HEADER, new_id
from server.listen import bind
from tests.unit.server.fakes import EPOCH, SANDBOX
from tests.unit.server.harness import PATIENCE_S

ROOT = Path(__file__).parents[3]


class Process:
    """A server process, its log line by line."""

    def __init__(self, data_dir: Path, *options: str, environ: dict[str, str] | None = None, close_fds: str = "") -> None:
        self.data_dir = data_dir
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(environ or {})}
        program = [sys.executable, "-m", "tests.unit.server.fake_server", "serve", "--port=0", "--log-format=json", *options]
        shell = f'exec "$@" {close_fds}'  # closes descriptors as a careless service manager would
        self._popen = subprocess.Popen(
            ["/bin/sh", "-c", shell, "sh", *program], cwd=ROOT, env={"REMOTE_ENV_SERVER_DATA_DIR": str(data_dir), **environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self._popen.pid
        self.lines: list[str] = []

    def event(self, name: str) -> dict[str, Any]:
        """Read the log until this event."""
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            self.lines.append(line)
            if line.startswith("{") and (event := json.loads(line))["event"] == name:
                return dict(event)
        raise AssertionError(f"no {name!r} in {''.join(self.lines)}")

    def listening(self) -> int:
        """Its port, once it listens."""
        self.started = self.event("listening")
        return int(self.started["url"].rpartition(":")[2])

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def finish(self) -> int:
        """Its exit code, with the rest of the log in `lines`."""
        _, rest = self._popen.communicate(timeout=PATIENCE_S)
        self.lines += rest.splitlines(keepends=True)
        return self._popen.returncode

    def kill(self) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.communicate()

    def request(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: object = None, prefer: str = ""
    ) -> tuple[int, Any]:
        token = (self.data_dir / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", EPOCH_HEADER: EPOCH, "Prefer": prefer or "wait=0"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


Launch = Callable[..., Process]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    processes: list[Process] = []

    def start(*options: str, **more: Any) -> Process:
        processes.append(Process(more.pop("data_dir", tmp_path / "data"), *options, **more))
        return processes[-1]

    yield start
    for each in processes:
        each.kill()


def connect(port: int, address: str = "127.0.0.1") -> http.client.HTTPConnection:
    return http.client.HTTPConnection(address, port, timeout=PATIENCE_S)


def free_port() -> int:
    sockets = bind("127.0.0.1", 0)
    port: int = sockets[0].getsockname()[1]
    for each in sockets:
        each.close()
    return port


def patient_connection(port: int) -> http.client.HTTPConnection:
    """For a server whose log cannot tell when it listens."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        connection = connect(port)
        try:
            connection.connect()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return connection


def test_first_start_makes_a_private_directory_and_a_token_that_no_log_shows(launch: Launch) -> None:
    process = launch()
    port = process.listening()
    token_file = process.data_dir / "token"
    assert (process.started["token_file"], process.started["token_made"]) == (str(token_file), True)
    assert process.data_dir.stat().st_mode & 0o777 == 0o700
    assert process.request(connect(port), "GET", "/health")[1]["instance_id"] == "instance-of-tests"
    process.signal(signal.SIGTERM)
    assert process.finish() == 0
    assert token_file.read_text().strip() not in "".join(process.lines)


def test_both_loopback_families_are_answered(launch: Launch) -> None:
    process = launch()
    port = process.listening()
    for address in ("127.0.0.1", "::1"):
        assert process.request(connect(port, address), "GET", "/v1/sandboxes")[0] == 200


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-"])
def test_starts_without_home_terminal_and_standard_descriptors(launch: Launch, closed: str) -> None:
    process = launch(close_fds=closed)  # the environment has PATH and the data directory alone
    port = process.listening()
    assert process.request(connect(port), "GET", "/v1/sandboxes")[0] == 200
    links = {fd: os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in (0, 1)}
    assert set(links.values()) == {"/dev/null"}


def test_starts_with_nowhere_to_log(launch: Launch, tmp_path: Path) -> None:
    port = free_port()
    process = launch(f"--port={port}", close_fds="2>&-")
    connection = patient_connection(port)
    assert process.request(connection, "GET", "/v1/sandboxes")[0] == 200
    assert os.readlink(f"/proc/{process.pid}/fd/2") == "/dev/null"


def test_second_server_on_the_same_data_directory_is_refused_with_the_firsts_pid(launch: Launch) -> None:
    first = launch()
    port = first.listening()
    second = launch()
    assert second.finish() == 1
    assert f"pid {first.pid} uses the data directory" in "".join(second.lines)
    assert first.request(connect(port), "GET", "/v1/sandboxes")[0] == 200


def test_killed_server_leaves_no_lock_behind(launch: Launch) -> None:
    first = launch()
    first.listening()
    first.signal(signal.SIGKILL)
    assert first.finish() == -signal.SIGKILL
    assert launch().listening()


def test_taken_port_is_refused_in_one_sentence(launch: Launch, tmp_path: Path) -> None:
    port = launch().listening()
    second = launch("--port", str(port), data_dir=tmp_path / "other")
    assert second.finish() == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in "".join(second.lines)


def test_bad_setting_is_a_usage_error_before_anything_is_touched(launch: Launch) -> None:
    process = launch("--host=0.0.0.0")
    assert process.finish() == 2
    assert "--tls-self-signed" in "".join(process.lines)
    assert not process.data_dir.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_long_polls_with_what_is_known_and_then_the_server(launch: Launch, number: signal.Signals) -> None:
    process = launch("--log-level=debug")
    port = process.listening()
    eid = new_id()
    connection = connect(port)
    assert process.request(connection, "POST", f"/v1/sandboxes/{SANDBOX}/executions", {"id": eid, "command": "hang"})[0] == 202
    answers: list[tuple[int, Any]] = []
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        answers.append(process.request(connection, "GET", f"/v1/executions/{eid}?wait=60"))

    asking = threading.Thread(target=ask)
    asking.start()
    assert asked.wait(PATIENCE_S)
    process.event("waiting")
    process.signal(number)
    assert process.finish() == 0
    asking.join(PATIENCE_S)
    assert (answers[0][0], answers[0][1]["state"]) == (200, "running")
    assert json.loads(process.lines[-1])["event"] == "stopped"


@pytest.mark.parametrize("options", [(), ("--tls-self-signed",)])
def test_stop_waits_for_nobody_who_does_not_read(launch: Launch, options: tuple[str, ...]) -> None:
    """Streams and a download of 12 MB of which nobody reads more than the head, and an idle connection: over TLS each of them
    would also have to say goodbye."""
    process = launch(*options)
    port = process.listening()

    def open_connection() -> http.client.HTTPConnection:
        if not options:
            return connect(port)
        context = ssl.create_default_context(cafile=str(process.data_dir / "tls" / "cert.pem"))
        return http.client.HTTPSConnection("localhost", port, timeout=PATIENCE_S, context=context)

    eid, idle = new_id(), open_connection()
    body = {"id": eid, "command": "x" * (12 << 20)}
    assert process.request(idle, "POST", f"/v1/sandboxes/{SANDBOX}/executions", body, "wait=20")[0] == 201
    token = (process.data_dir / "token").read_text().strip()
    stalled = []
    for what in ("events", "events", "output"):
        connection = open_connection()
        connection.request("GET", f"/v1/executions/{eid}/{what}", headers={"Authorization": f"Bearer {token}", EPOCH_HEADER: EPOCH})
        stalled.append((connection, connection.getresponse()))
    assert [response.status for _, response in stalled] == [200] * 3
    process.signal(signal.SIGTERM)
    assert process.finish() == 0
    assert "exceeded" not in "".join(process.lines)
    for connection, response in stalled:
        response.close()
        connection.close()
    idle.close()


def test_second_signal_ends_the_server_at_once(launch: Launch) -> None:
    process = launch(environ={"FAKE_STOP": "hang"})
    process.listening()
    process.signal(signal.SIGINT)
    process.event("stopping services")
    process.signal(signal.SIGINT)
    assert process.finish() == 128 + signal.SIGINT
    assert json.loads(process.lines[-1])["event"] == "stopped at once"


def test_failed_commit_is_told_as_unknown_and_the_server_starts_itself_again(launch: Launch) -> None:
    process = launch()
    port = process.listening()
    status, problem = process.request(connect(port), "POST", f"/v1/sandboxes/{SANDBOX}/executions", {"id": new_id(), "command": "commit"})
    assert (status, problem["code"], problem["accepted"]) == (500, "commit_failed", "unknown")
    assert process.event("starting again")["reason"] == "disk I/O error"
    again = process.listening()
    assert process.started["pid"] == process.pid
    assert process.request(connect(again), "GET", "/v1/executions") == (200, {"executions": []})


def test_a_server_that_waits_to_start_again_stops_when_it_is_told_to(launch: Launch) -> None:
    process = launch()
    process.request(connect(process.listening()), "POST", f"/v1/sandboxes/{SANDBOX}/executions", {"id": new_id(), "command": "commit"})
    assert process.event("starting again")["in_s"] > 0
    process.signal(signal.SIGTERM)
    assert process.finish() == 0
    assert json.loads(process.lines[-1])["event"] == "stopped"


def test_failpoints_without_the_test_switch_keep_the_server_from_starting(launch: Launch) -> None:
    process = launch(environ={"REMOTE_ENV_SERVER_FAILPOINT": "after_send:kill"})
    assert "REMOTE_ENV_SERVER_TEST=1" in process.event("cannot start")["reason"]
    assert process.finish() == 1


def test_self_signed_server_shows_the_fingerprint_that_clients_see(launch: Launch) -> None:
    process = launch("--tls-self-signed", "--host=0.0.0.0")
    port = process.listening()
    assert process.started["url"] == f"https://0.0.0.0:{port}"
    context = ssl.create_default_context(cafile=str(process.data_dir / "tls" / "cert.pem"))
    connection = http.client.HTTPSConnection("localhost", port, timeout=PATIENCE_S, context=context)
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    certificate = connection.sock.getpeercert(binary_form=True)
    assert certificate is not None
    assert process.started["fingerprint"].replace(":", "").lower() == hashlib.sha256(certificate).hexdigest()
    assert process.request(connection, "GET", "/v1/sandboxes")[0] == 200


def test_misspelt_variable_is_told(launch: Launch) -> None:
    process = launch(environ={"REMOTE_ENV_SERVER_PROT": "1"})
    assert process.event("environment variable is no setting")["variable"] == "REMOTE_ENV_SERVER_PROT"
