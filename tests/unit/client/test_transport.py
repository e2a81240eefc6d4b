"""The pooled session against servers that misbehave: what was sent, and what was not."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from remote_env.driving import drive
from remote_env.exchange import Exchange
from remote_env.pool import KEEPALIVE_IDLE_S, USER_TIMEOUT_MS
from remote_env.protocol import Health
from remote_env.transport import MaybeSent, NotSent
from tests.unit.client.badserver import BadServer, answer
from tests.unit.client.pooled import keep, transport


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# ---------------------------------------------------------------------------------------------- sent, or not, or maybe


def test_a_refused_connection_sent_nothing() -> None:
    with pytest.raises(NotSent, match="refused"):
        transport(f"http://127.0.0.1:{free_port()}").call("POST", "/x", b"{}")


def test_a_name_that_does_not_exist_sent_nothing() -> None:
    with pytest.raises(NotSent):
        transport("http://no-such-host.invalid:9527").call("GET", "/x")


def test_a_server_that_does_not_accept_in_time_was_sent_nothing() -> None:
    """A full backlog: the SYN of the next connection is not answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            with pytest.raises(NotSent):
                transport(f"http://127.0.0.1:{address[1]}", connect_s=0.2).call("GET", "/x")
        finally:
            for filler in fillers:
                filler.close()


def test_a_failed_tls_handshake_sent_nothing() -> None:
    with BadServer(keep) as server:
        url = server.url.replace("http", "https")
        with pytest.raises(NotSent):
            transport(url, connect_s=0.2).call("POST", "/x", b"secret")
        assert b"secret" not in b"".join(server.requests)


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "half a status line": b"HTTP/1.",
    "no HTTP at all": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a header": b"HTTP/1.1 200 OK\r\nX-Remote-Env-Protocol: 1\r\nContent-Le",
    "half a body": answer("200 OK", b"{", length=100),
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "a chunk without length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000,
    "gzip that is none": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_whatever_breaks_after_the_connection_stood_may_have_been_sent_and_is_no_answer(data: bytes) -> None:
    def break_it(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(data)
        return False

    with BadServer(break_it) as server:
        with pytest.raises(MaybeSent):
            drive(Exchange(transport(server.url)).once(Health, "POST", "/x", b"{}"))
        assert len(server.requests) == 1, "sent again"


@pytest.mark.parametrize(
    "whole", [answer("204 No Content", b"", "X-Name: a-name"), b"HTTP/1.1 200 OK\r\nX-Name: a-name\r\nConnection: close\r\n\r\n"]
)
def test_an_answer_cut_anywhere_in_its_head_is_no_answer(whole: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Half a header must not pass for a header: half an instance id would be another server's."""
    for end in range(len(whole)):

        def cut(connection: socket.socket, request: bytes, end: int = end) -> bool:
            connection.sendall(whole[:end])
            return False

        with BadServer(cut) as server, pytest.raises(MaybeSent):
            transport(server.url).call("GET", "/")
    assert caplog.records == []


def test_a_reset_connection_may_have_been_sent() -> None:
    def reset(connection: socket.socket, request: bytes) -> bool:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return False

    with BadServer(reset) as server, pytest.raises(MaybeSent):
        transport(server.url).call("POST", "/x", b"{}")


def test_silence_past_the_read_timeout_may_have_been_sent() -> None:
    release = threading.Event()

    def hang(connection: socket.socket, request: bytes) -> bool:
        release.wait()
        return False

    with BadServer(hang) as server:
        with pytest.raises(MaybeSent):
            transport(server.url).call("GET", "/x", read_s=0.05)
        release.set()


def test_a_redirect_is_returned_and_not_followed() -> None:
    def redirect(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(answer("307 Temporary Redirect", b"", "Location: http://127.0.0.1:9/elsewhere"))
        return True

    with BadServer(redirect) as server:
        assert transport(server.url).call("POST", "/x", b"{}").status == 307
        assert len(server.requests) == 1


def test_the_transport_sends_each_request_once_whatever_the_answer() -> None:
    def busy(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(answer("503 Service Unavailable", b"", "Retry-After: 0"))
        return True

    with BadServer(busy) as server:
        made = transport(server.url)
        for method in ("GET", "POST", "DELETE", "PUT"):
            assert made.call(method, "/x").status == 503
        assert len(server.requests) == 4


# -------------------------------------------------------------------------------------------------- what else is in it


def test_no_netrc_no_proxy_and_no_cookie_come_into_a_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    def with_cookie(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(answer("200 OK", b"{}", "Set-Cookie: proxy=1"))
        return True

    with BadServer(with_cookie) as server:
        made = transport(server.url)
        made.call("GET", "/x")
        made.call("GET", "/x")
        for request in server.requests:
            assert b"authorization: bearer token" in request.lower()
            assert b"cookie" not in request.lower()
            assert request.startswith(b"GET /x HTTP/1.1")


def test_a_path_in_the_url_comes_before_each_request() -> None:
    with BadServer(keep) as server:
        transport(server.url + "/behind/proxy/").call("GET", "/health")
        assert server.requests[0].startswith(b"GET /behind/proxy/health ")


def test_sockets_carry_keepalive_and_user_timeout() -> None:
    with BadServer(keep) as server:
        made = transport(server.url)
        made.call("GET", "/x")
        sock = next(iter(made._connections._open)).sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == USER_TIMEOUT_MS


def test_both_address_families_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with BadServer(keep) as server:
        port = int(server.url.rsplit(":", 1)[1])

        def both(host: str, *args: object, **kwargs: object) -> list[object]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", free_port())),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        assert transport(f"http://two-addresses.test:{port}").call("GET", "/x").status == 200
