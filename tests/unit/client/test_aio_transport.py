"""One request over aiohttp: sent once, and a failure says truly whether a byte may have left."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Coroutine
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from remote_env.aio import AsyncClient
from remote_env.aio.transport import AsyncTransport
from remote_env.carrier import MaybeSent, NotSent, StreamBroken
from remote_env.config import Endpoint
from remote_env.protocol import Outcome
from remote_env.tls import Tls
from tests.unit.client.badserver import BadServer, answer
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import TOKEN, FakeServer

START = r"/v1/sandboxes/[^/]+/executions$"
CANCELLED = Outcome(kind="cancelled", ran=True)


def in_loop(act: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(act, 60))


def transport(url: str, **options: Any) -> AsyncTransport:
    return AsyncTransport(Endpoint(url, **options), FAST)


def test_a_hundred_commands_at_once_are_a_hundred_connections_and_then_none_more(fake: FakeServer) -> None:
    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=FAST) as client:
            sandbox = await client.create_sandbox("image")
            tasks = [asyncio.create_task(sandbox.run("hang", id=f"command-{number}")) for number in range(100)]
            await asyncio.to_thread(fake.wait_until, lambda: fake.started["hang"] == 100)
            for number in range(100):
                fake.finish(f"command-{number}", Outcome(kind="exited", ran=True, code=0))
            await asyncio.gather(*tasks)
            opened = client.stats()["connections_opened"]
            for number in range(50):
                await sandbox.run(f"echo {number}")
            assert client.stats()["connections_opened"] == opened <= 101

    in_loop(act())


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_a_request_on_a_kept_connection_that_breaks_is_not_sent_again(method: str) -> None:
    """aiohttp would send a GET or DELETE a second time by itself."""

    def answer_once(connection: socket.socket, request: bytes) -> bool:
        if b"/first" in request:
            connection.sendall(answer("200 OK", b"{}"))
            return True
        return False

    async def act(server: BadServer) -> None:
        carrier = transport(server.url)
        await carrier.request("GET", "/first")
        with pytest.raises(MaybeSent):
            await carrier.request(method, "/second")
        await carrier.close()

    with BadServer(answer_once) as server:
        in_loop(act(server))
        assert len(server.requests) == 2, "sent again"


WHOLE = answer("200 OK", b'{"status":"ok"}')
BROKEN = {
    "within the head": WHOLE[:30],
    "after the head": WHOLE[: WHOLE.index(b"\r\n\r\n") + 4],
    "within the body": WHOLE[:-3],
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "another body than its digest": answer("200 OK", b"{}", "Content-Digest: sha-256=:" + "A" * 43 + "=:"),
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_is_not_whole_may_have_been_sent(raw: bytes) -> None:
    def break_it(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(raw)
        return False

    async def act(server: BadServer) -> None:
        carrier = transport(server.url)
        with pytest.raises(MaybeSent):
            await carrier.request("GET", "/health")
        await carrier.close()

    with BadServer(break_it) as server:
        in_loop(act(server))


def test_redirects_are_not_followed_and_cookies_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    def redirect(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(answer("302 Found", b"", "Location: /elsewhere", "Set-Cookie: a=b"))
        return True

    async def act(server: BadServer) -> None:
        carrier = transport(server.url, token="secret")
        for _ in range(2):
            assert (await carrier.request("GET", "/health")).status == 302
        await carrier.close()

    with BadServer(redirect) as server:
        in_loop(act(server))
        assert len(server.requests) == 2
        assert not any(b"cookie" in request.lower() for request in server.requests)
        assert all(b"Authorization: Bearer secret" in request for request in server.requests)


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}", "http://no-such-host.invalid:{port}"])
def test_without_a_connection_nothing_was_sent(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def act() -> None:
        carrier = transport(url.format(port=port))
        with pytest.raises(NotSent, match="no byte was sent"):
            await carrier.request("GET", "/health")
        await carrier.close()
        with pytest.raises(NotSent, match="closed"):
            await carrier.request("GET", "/health")

    in_loop(act())


def test_a_silent_answer_ends_a_request_and_a_stream() -> None:
    def say_nothing(connection: socket.socket, request: bytes) -> bool:
        return True

    async def act(server: BadServer) -> None:
        carrier = transport(server.url)
        with pytest.raises(MaybeSent):
            await carrier.request("GET", "/health", read_s=0.05)
        with pytest.raises(StreamBroken) as raised:
            await carrier.open("GET", "/health", {}, silence_s=0.05)
        assert raised.value.silent
        await carrier.close()

    with BadServer(say_nothing) as server:
        in_loop(act(server))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    subject = ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(path.with_name("key.pem")), "-out", str(path)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files], check=True, capture_output=True
    )
    return path


def test_tls_is_checked_by_ca_file_or_by_fingerprint_before_a_byte_is_sent(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    pin = sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()

    async def act(url: str) -> None:
        for good in (Tls(ca_file=str(certificate)), Tls(fingerprint=pin)):
            carrier = transport(url, tls=good)
            assert (await carrier.request("GET", "/health")).status == 200
            await carrier.close()
        for bad in (Tls(), Tls(fingerprint="0" * 64)):
            carrier = transport(url, tls=bad)
            with pytest.raises(NotSent):
                await carrier.request("GET", "/health")
            await carrier.close()
        carrier = transport(url.replace("127.0.0.1", "localhost"), tls=Tls(ca_file=str(certificate)))
        with pytest.raises(NotSent):  # a name that the certificate is not of
            await carrier.request("GET", "/health")
        await carrier.close()

    with FakeServer(tls=context) as server:
        in_loop(act(server.url))
        assert len(server.requests) == 2


def test_what_is_idle_is_not_used_again_once_the_heartbeat_has_seen_the_link_dead(fake: FakeServer) -> None:
    async def act() -> None:
        async with AsyncClient(fake.url, TOKEN, timings=replace(FAST, rebuild_s=0.0)) as client:
            await client.health()
            await asyncio.to_thread(client.retire_connections)  # as its thread does
            await client.health()
            assert client.stats()["connections_opened"] == 2
            assert client.stats()["pool_rebuilds"] == 1
            await asyncio.to_thread(fake.wait_until, lambda: len(fake._handlers) == 1)  # the old one is closed

    in_loop(act())


def test_a_stream_that_is_dropped_half_read_closes_its_connection() -> None:
    closed = threading.Event()

    def begin(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(answer("200 OK", b"part", length=1000))
        if connection.recv(1) == b"":
            closed.set()
        return False

    async def act(server: BadServer) -> None:
        carrier = transport(server.url)
        reply = await carrier.open("GET", "/events", {}, silence_s=5)
        assert await reply.read() == b"part"
        del reply
        assert await asyncio.to_thread(closed.wait, 20)
        await carrier.close()

    with BadServer(begin) as server:
        in_loop(act(server))


def test_a_peer_that_reads_no_more_ends_a_request_with_a_long_body() -> None:
    left = threading.Event()

    def stop_reading(connection: socket.socket, request: bytes) -> bool:
        left.wait(20)
        return False

    async def act(server: BadServer) -> None:
        carrier = transport(server.url)
        endless = (bytes(1 << 20) for _ in range(1 << 20))
        with pytest.raises(StreamBroken) as raised:
            await carrier.open("PUT", "/files", {}, body=endless, silence_s=0.2)
        assert raised.value.silent
        await asyncio.wait_for(carrier.close(), 10)  # what was not taken is not waited for: that would be 20 s

    with BadServer(stop_reading) as server:
        in_loop(act(server))
        left.set()


def test_closing_breaks_a_request_on_a_connection_that_was_given_up_before() -> None:
    came, left = threading.Event(), threading.Event()

    def say_nothing(connection: socket.socket, request: bytes) -> bool:
        came.set()
        left.wait(30)
        return False

    async def act(server: BadServer) -> None:
        carrier = transport(server.url)
        asking = asyncio.create_task(carrier.request("GET", "/health"))
        await asyncio.to_thread(came.wait, 30)
        carrier.drop_connections()
        await carrier.close()
        with pytest.raises(MaybeSent):
            await asyncio.wait_for(asking, 10)

    with BadServer(say_nothing) as server:
        in_loop(act(server))
        left.set()


def test_a_body_in_pieces_arrives_whole() -> None:
    bodies: list[bytes] = []

    def take(connection: socket.socket, request: bytes) -> bool:
        bodies.append(request.partition(b"\r\n\r\n")[2])
        connection.sendall(answer("200 OK", b"taken"))
        return True

    async def act(server: BadServer) -> None:
        carrier = transport(server.url)
        for _ in range(2):
            reply = await carrier.open("PUT", "/files", {"Content-Length": "6"}, body=iter([b"abc", b"def"]), silence_s=5)
            assert await reply.read_all(100) == b"taken"
            reply.release()
        assert carrier.stats.snapshot()["connections_opened"] == 1
        await carrier.close()

    with BadServer(take) as server:
        in_loop(act(server))
    assert bodies == [b"abcdef", b"abcdef"]
