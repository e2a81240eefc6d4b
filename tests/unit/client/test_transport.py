"""The pooled session against servers that misbehave: what was sent, what was not, and whose connections they are."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from remote_env.config import Endpoint
from remote_env.driving import drive
from remote_env.errors import InvalidSpec
from remote_env.exchange import Exchange
from remote_env.pool import KEEPALIVE_IDLE_S, USER_TIMEOUT_MS
from remote_env.protocol import Health
from remote_env.tls import Tls
from remote_env.transport import MaybeSent, NotSent, Transport
from tests.unit.client.badserver import BadServer, answer
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import FakeServer

OK = answer("200 OK", b"{}")


def transport(url: str, *, pool_size: int = 10, **timings: float) -> Transport:
    return Transport(Endpoint.resolve(url, "token"), replace(FAST, **timings), pool_size=pool_size)


def keep(connection: socket.socket, request: bytes) -> bool:
    connection.sendall(OK)
    return True


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


# ------------------------------------------------------------------------------------------------------- the connections


def test_a_thousand_calls_open_no_more_connections_than_the_pool_holds() -> None:
    with BadServer(keep) as server:
        made = transport(server.url)
        for _ in range(1000):
            made.call("GET", "/x")
        assert len(server.connections) == 1
        assert made.stats.snapshot()["connections_opened"] == 1
        assert made.stats.snapshot()["connections_reused"] == 999
        assert made.stats.snapshot()["calls"] == 1000


def test_64_threads_share_one_transport_and_each_gets_its_own_answer() -> None:
    def echo(connection: socket.socket, request: bytes) -> bool:
        path = request.split(b" ", 2)[1]
        connection.sendall(answer("200 OK", path))
        return True

    with BadServer(echo) as server:
        made = transport(server.url, pool_size=64)
        paths = [f"/{number}" for number in range(2000)]
        with ThreadPoolExecutor(64) as threads:
            answers = list(threads.map(lambda path: made.call("GET", path).body.decode(), paths))
        assert answers == paths
        assert len(server.connections) <= 64


def test_more_connections_than_the_pool_keeps_are_opened_and_closed_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    together = threading.Barrier(6)

    def all_at_once(connection: socket.socket, request: bytes) -> bool:
        together.wait(20)
        return keep(connection, request)

    with BadServer(all_at_once) as server:
        made = transport(server.url, pool_size=2)
        with ThreadPoolExecutor(6) as threads:
            for future in [threads.submit(made.call, "GET", "/x") for _ in range(6)]:
                assert future.result().status == 200
        assert len(server.connections) == 6
        assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_connection_that_was_idle_too_long_is_not_used_again() -> None:
    with BadServer(keep) as server:
        made = transport(server.url, idle_connection_s=-1.0)
        made.call("GET", "/x")
        made.call("GET", "/x")
        assert len(server.connections) == 2


def test_a_keep_alive_that_the_server_has_closed_is_replaced_unseen() -> None:
    closed = threading.Event()

    def once(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()
        return False

    with BadServer(once) as server:
        made = transport(server.url)
        for _ in range(20):
            closed.clear()
            assert made.call("POST", "/x", b"{}").status == 200
            assert closed.wait(20)
        assert len(server.requests) == 20


def test_a_dead_link_retires_the_idle_connections_but_not_at_every_failure() -> None:
    broken = threading.Event()

    def sometimes(connection: socket.socket, request: bytes) -> bool:
        if broken.is_set():
            return False
        return keep(connection, request)

    with BadServer(sometimes) as server:
        made = transport(server.url, rebuild_s=1000.0)
        made.call("GET", "/x")
        broken.set()
        for _ in range(5):
            with pytest.raises(MaybeSent):
                made.call("GET", "/x")
        assert made.stats.snapshot()["pool_rebuilds"] == 1


def test_close_wakes_a_thread_that_waits_for_an_answer() -> None:
    arrived, release = threading.Event(), threading.Event()

    def hang(connection: socket.socket, request: bytes) -> bool:
        arrived.set()
        release.wait()
        return False

    with BadServer(hang) as server:
        made = transport(server.url)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(made.call, "GET", "/x", read_s=1000.0)
            assert arrived.wait(20)
            made.close()
            assert isinstance(waiting.exception(timeout=20), MaybeSent)
        release.set()
        with pytest.raises(NotSent, match="closed"):
            made.call("GET", "/x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_share_its_parents_sockets() -> None:
    with BadServer(keep) as server:
        made = transport(server.url)
        made.call("GET", "/parent")
        child = os.fork()
        if child == 0:
            try:
                status = made.call("GET", "/child").status
                opened = made.stats.snapshot()["connections_opened"]
            finally:
                os._exit(0 if (status, opened) == (200, 2) else 1)
        _, code = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(code) == 0
        made.call("GET", "/parent")
        assert len(server.connections) == 2
        assert made.stats.snapshot()["connections_opened"] == 1


# ------------------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A self-signed certificate for 127.0.0.1, its key, its sha256."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", key,
         "-out", cert, "-subj", "/CN=remote-env", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    shown = subprocess.run(
        ["openssl", "x509", "-in", cert, "-noout", "-fingerprint", "-sha256"], check=True, capture_output=True, text=True
    )
    return cert, key, shown.stdout.strip().partition("=")[2]


@pytest.fixture
def https(certificate: tuple[Path, Path, str]) -> FakeServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[0], certificate[1])
    return FakeServer(tls=context)


def over_tls(server: FakeServer, tls: Tls) -> Transport:
    return Transport(Endpoint(server.url, "token", tls=tls), FAST)


def test_a_pinned_certificate_needs_no_ca(https: FakeServer, certificate: tuple[Path, Path, str]) -> None:
    with https:
        for pin in (certificate[2], certificate[2].replace(":", "").lower()):
            assert over_tls(https, Tls(fingerprint=pin)).call("GET", "/health").status == 200


def test_another_certificate_than_the_pinned_one_gets_not_a_byte(https: FakeServer, certificate: tuple[Path, Path, str]) -> None:
    with https:
        with pytest.raises(NotSent):
            over_tls(https, Tls(fingerprint="0" * 64)).call("POST", "/health", b"secret")
        assert not https.requests


def test_a_ca_file_is_enough_and_a_certificate_of_nobody_is_not(https: FakeServer, certificate: tuple[Path, Path, str]) -> None:
    with https:
        assert over_tls(https, Tls(ca_file=str(certificate[0]))).call("GET", "/health").status == 200
        with pytest.raises(NotSent):
            over_tls(https, Tls()).call("GET", "/health")
        assert len(https.requests) == 1


@pytest.mark.parametrize("pin", ["12:34", "g" * 64, "", "sha1:" + "0" * 64])
def test_a_fingerprint_that_is_none_is_refused(pin: str) -> None:
    with pytest.raises(InvalidSpec, match="sha256"):
        Tls(fingerprint=pin)


def test_a_trusted_certificate_of_another_host_is_refused(https: FakeServer, certificate: tuple[Path, Path, str]) -> None:
    with https:
        port = https.url.rsplit(":", 1)[1]
        elsewhere = Endpoint(f"https://localhost:{port}", "token", tls=Tls(ca_file=str(certificate[0])))
        with pytest.raises(NotSent, match=r"(?i)hostname|match"):
            Transport(elsewhere, FAST).call("GET", "/health")
        assert not https.requests


def test_a_ca_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"/no/such\.pem"):
        Transport(Endpoint("https://127.0.0.1:9", "token", tls=Tls(ca_file="/no/such.pem")), FAST)
