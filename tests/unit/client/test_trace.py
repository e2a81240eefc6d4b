"""REMOTE_ENV_DEBUG and the log: what each part tells, and what none of them ever does."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from remote_env import Client, CommandNotDelivered, RemoteDockerEnvironment, Unreachable
from remote_env.trace import PARTS, enable_traces, trace, tracing
from tests.unit.client.badserver import BadServer
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, TOKEN, FakeServer

START = r"/v1/sandboxes/[^/]+/executions$"


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    yield
    enable_traces("")


def lines(captured: str) -> list[str]:
    """The traces on stderr, without anything else that is logged."""
    return [line for line in captured.splitlines() if re.search(r" DEBUG remote_env\.(" + "|".join(PARTS) + r")\[", line)]


def parts_of(captured: str) -> set[str]:
    return {re.search(r"remote_env\.(\w+)\[", line)[1] for line in lines(captured)}  # type: ignore[index]


def exercise(fake: FakeServer) -> None:
    timings = replace(FAST, first_beat_s=0.0, heartbeat_s=0.01)
    with RemoteDockerEnvironment("image", fake.url, TOKEN, timings=timings, env={"API_KEY": "hush-variable"}) as env:
        fake.on("POST", START, CUT_AFTER)
        env.execute("echo hush-command")
        env.sandbox.run(["cat", "hush-argument"], stdin="hush-input", env={"API_KEY": "hush-variable"})
        for _ in env.sandbox.stream("echo hush-output"):
            pass
        fake.wait_until(lambda: fake.seen("POST", "/v1/leases"))


@pytest.mark.parametrize("part", ["transport", "delivery", "heartbeat"])
def test_each_part_is_traced_alone_and_by_one_line_each(
    fake: FakeServer, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REMOTE_ENV_DEBUG", part)
    exercise(fake)
    captured = capsys.readouterr().err
    assert parts_of(captured) == {part}
    assert all(line.startswith("20") for line in captured.splitlines()), "a line that is no log line"


@pytest.mark.parametrize("setting", ["all", "1", "transport, delivery,STREAM,heartbeat"])
def test_all_parts_are_traced_and_no_secret_is_in_any_line(
    fake: FakeServer, setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REMOTE_ENV_DEBUG", setting)
    exercise(fake)
    captured = capsys.readouterr().err
    assert {"transport", "delivery", "heartbeat"} <= parts_of(captured)
    assert "hush" not in captured
    assert TOKEN not in captured
    assert all(execution_id in captured for execution_id in fake.executions), "an execution without a trace of its id"


def test_nothing_is_traced_unless_asked_for(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    exercise(fake)
    assert lines(capsys.readouterr().err) == []
    assert not any(tracing(part) for part in PARTS)


def test_a_trace_that_is_off_is_not_even_formatted() -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("formatted")

    trace("transport", "%s", Costly())


def test_an_unknown_part_is_warned_of_with_the_names_that_there_are(caplog: pytest.LogCaptureFixture) -> None:
    enable_traces("transprot,delivery")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "transprot" in warning
    assert all(part in warning for part in (*PARTS, "all"))
    assert tracing("delivery")
    assert not tracing("transport")


# ------------------------------------------------------------------------------------------------- connection errors


def warnings(caplog: pytest.LogCaptureFixture, about: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING and about in record.getMessage()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_connection_error_is_logged_with_class_address_family_attempt_and_that_nothing_was_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()

    def both(host: str, *args: object, **kwargs: object) -> list[object]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with Client(f"http://two-families.test:{port}", TOKEN, timings=FAST) as client, pytest.raises(Unreachable) as raised:
        client.sandbox("sandbox-1")
    (first, *_) = warnings(caplog, "sandbox-1")
    for text in (first, str(raised.value)):
        assert re.search(rf"\w+Error: .*\(\[::1\]:{port}, IPv6, attempt 1 of 2\)", text)
        assert f"ConnectionRefusedError: [Errno 111] Connection refused (127.0.0.1:{port}, IPv4, attempt 2 of 2)" in text
        assert "no byte was sent" in text


def test_a_broken_connection_is_logged_with_class_address_the_id_and_that_a_byte_may_have_been_sent(
    fake: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(fake.url, TOKEN, timings=FAST) as client:
        sandbox = client.create_sandbox("image")
        fake.on("POST", START, CUT_BEFORE)
        with pytest.raises(CommandNotDelivered) as raised:
            sandbox.run("touch hush-command")
    assert raised.value.execution_id is not None
    (broke, *_) = warnings(caplog, raised.value.execution_id)
    assert "RemoteDisconnected" in broke
    assert f"{fake.url.removeprefix('http://')}, IPv4, attempt 1 of 1" in broke
    assert "a byte may have been sent" in broke
    assert "hush" not in caplog.text


def test_a_reset_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def reset(connection: socket.socket, request: bytes) -> bool:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return False

    timings = replace(FAST, reconnect_budget_s=0.05)
    with BadServer(reset) as server, Client(server.url, TOKEN, timings=timings) as client, pytest.raises(Exception, match="reset"):
        client.sandbox("sandbox-1")
    assert "ConnectionResetError" in warnings(caplog, "sandbox-1")[0]
