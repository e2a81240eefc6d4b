"""The fault proxy does what it says: a fault that did not happen would prove nothing."""

from __future__ import annotations

import http.client
import random
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.faultproxy import FaultProxy
from tests.support.handling import (
    BAD_GATEWAY,
    Handling,
    Request,
    bad_gateway,
    chance,
    cut_after,
    cut_before,
    first_of_each,
    flipped,
    half_answer,
    replay,
    reset,
)
from tests.support.http1 import ResponseEnd

TEXT = b"0123456789" * 100
FAST_S = 0.05  # an idle limit for tests


class Backend:
    """Answers with TEXT; `/chunked` in two chunks, the second once `go` is set; `/late` once `go` is set."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.connections = 0
        self.arrived = threading.Semaphore(0)
        self.go = threading.Event()
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                backend.connections += 1

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"] or -1)
                body = self.rfile.read(max(length, 0))
                if len(body) != length:
                    return  # half a request
                backend.bodies.append(body)
                backend.arrived.release()
                if self.path == "/late":
                    backend.go.wait(10)
                if self.path == "/chunked":
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"5\r\nfirst\r\n")
                    backend.go.wait(10)
                    self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n")
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(TEXT)))
                self.end_headers()
                self.wfile.write(TEXT)

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_port)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.close()


@pytest.fixture
def proxy(backend: Backend) -> Iterator[FaultProxy]:
    with FaultProxy(backend.port) as made:
        yield made


@pytest.fixture
def link(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    yield connection
    connection.close()


def post(link: http.client.HTTPConnection, body: bytes = b"body", path: str = "/") -> bytes:
    link.request("POST", path, body)
    return link.getresponse().read()


def always(proxy: FaultProxy, handling: Handling) -> None:
    proxy.rule = lambda request: handling


# -------------------------------------------------------------------------------------------------- where messages end

RESPONSES = {
    "length": (b"POST", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    "empty": (b"POST", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    "chunked": (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhe\r\no\r\na\r\n0123456789\r\n0\r\n\r\n"),
    "trailers": (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\nA: b\r\nC: d\r\n\r\n"),
    "continue": (b"POST", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"),
    "no content": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "head": (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "response"), RESPONSES.values(), ids=RESPONSES.keys())
def test_the_end_of_a_response_is_found_however_it_is_torn(method: bytes, response: bytes) -> None:
    for tail in (b"", b"HTTP/1.1 200 OK\r\n"):
        whole = ResponseEnd(method)
        assert (whole.feed(response + tail), whole.done) == (len(response), True)
        for at in range(1, len(response)):
            torn = ResponseEnd(method)
            assert (torn.feed(response[:at]), torn.done) == (at, False)
            assert (torn.feed(response[at:] + tail), torn.done) == (len(response) - at, True)
        single = ResponseEnd(method)
        assert sum(single.feed(bytes([byte])) for byte in response) == len(response)
        assert single.done


def test_a_response_without_a_length_ends_with_its_connection() -> None:
    end = ResponseEnd(b"GET")
    response = b"HTTP/1.1 200 OK\r\n\r\nas much as comes"
    assert (end.feed(response), end.done, end.begun) == (len(response), False, True)


# ------------------------------------------------------------------------------------------------------------- unharmed


def test_without_a_rule_everything_passes_on_one_connection_each(link: http.client.HTTPConnection, backend: Backend) -> None:
    assert [post(link, b"%d" % number) for number in range(3)] == [TEXT] * 3
    assert (backend.bodies, backend.connections) == ([b"0", b"1", b"2"], 1)


def test_a_chunked_answer_passes_as_it_comes(link: http.client.HTTPConnection, backend: Backend) -> None:
    link.request("POST", "/chunked", b"")
    answer = link.getresponse()
    assert answer.read(5) == b"first"
    backend.go.set()
    assert answer.read() == b"second"
    assert post(link) == TEXT


# ----------------------------------------------------------------------------------------------------------------- cuts


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_request_cut_before_delivery_never_arrives_whole(
    share: float, link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend
) -> None:
    always(proxy, Handling("cut", delivered=share))
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        post(link)
    assert backend.bodies == []
    assert proxy.counts["cut"] == 1


@pytest.mark.parametrize("handling", [Handling(answered=0.0), Handling(answered_bytes=0)])
def test_a_request_cut_after_delivery_arrives_once(
    handling: Handling, link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend
) -> None:
    always(proxy, handling)
    with pytest.raises(http.client.RemoteDisconnected):
        post(link)
    assert backend.arrived.acquire(timeout=10)
    proxy.settle()
    assert backend.bodies == [b"body"]


def test_half_an_answer_is_a_part_of_the_true_one(link: http.client.HTTPConnection, proxy: FaultProxy) -> None:
    always(proxy, Handling(answered=0.9))
    with pytest.raises(http.client.IncompleteRead) as cut:
        post(link)
    assert 0 < len(cut.value.partial) < len(TEXT)
    assert TEXT.startswith(cut.value.partial)


def test_an_answer_can_end_after_a_number_of_bytes(proxy: FaultProxy) -> None:
    always(proxy, Handling(answered_bytes=11))
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert b"".join(iter(lambda: raw.recv(100), b"")) == b"HTTP/1.1 20"


def test_a_reset_is_a_reset(link: http.client.HTTPConnection, proxy: FaultProxy) -> None:
    always(proxy, Handling(delivered=0.0, end="reset"))
    with pytest.raises(ConnectionResetError):
        post(link)


def test_silence_is_neither_answer_nor_end(proxy: FaultProxy, backend: Backend) -> None:
    always(proxy, Handling(answered_bytes=0, end="silence"))
    quiet = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=FAST_S)
    with pytest.raises(TimeoutError):
        post(quiet)
    quiet.close()
    assert backend.arrived.acquire(timeout=10)


def test_all_connections_can_be_cut_at_once(link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend) -> None:
    link.request("POST", "/late", b"")
    assert backend.arrived.acquire(timeout=10)
    proxy.cut_all()
    with pytest.raises(ConnectionResetError):
        link.getresponse()


# ------------------------------------------------------------------------------------------------------ changed answers


def test_an_error_page_comes_in_place_of_the_answer(link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend) -> None:
    for delivered, arrivals in ((0.0, 0), (1.0, 1)):
        always(proxy, Handling(delivered=delivered, page=BAD_GATEWAY))
        link.request("POST", "/", b"body")
        answer = link.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (502, "text/html")
        assert b"<html>" in answer.read()
        assert len(backend.bodies) == arrivals


def test_one_bit_is_flipped_and_no_more(link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend) -> None:
    always(proxy, Handling(flip_answer=0.5, flip_request=0.999))
    answer = post(link)
    for got, right in ((answer, TEXT), (backend.bodies[0], b"body")):
        assert sum((a ^ b).bit_count() for a, b in zip(got, right, strict=True)) == 1
    assert flipped(b"head", b"", 0.5) == b"head"


def test_a_held_back_answer_comes_once_it_is_whole(link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend) -> None:
    always(proxy, Handling(whole=True))
    link.request("POST", "/chunked", b"")
    assert backend.arrived.acquire(timeout=10)
    assert link.sock is not None
    link.sock.settimeout(FAST_S)
    with pytest.raises(TimeoutError):
        link.sock.recv(1)
    backend.go.set()
    link.sock.settimeout(10)
    assert link.getresponse().read() == b"firstsecond"


def test_a_slow_link_loses_nothing(link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend) -> None:
    always(proxy, Handling(bytes_per_s=20_000))
    assert post(link, TEXT) == TEXT
    assert backend.bodies == [TEXT]


def test_a_request_can_go_to_another_server(link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend) -> None:
    other = Backend()
    try:
        proxy.rule = lambda request: Handling(port=other.port if request.number == 1 else None)
        assert [post(link, b"%d" % number) for number in range(3)] == [TEXT] * 3
        assert (backend.bodies, other.bodies) == ([b"0", b"2"], [b"1"])
    finally:
        other.close()


# ------------------------------------------------------------------------------------------------- copies, old requests


def test_copies_arrive_besides(link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend) -> None:
    always(proxy, Handling(copies=3))
    post(link)
    proxy.settle()
    assert backend.bodies == [b"body"] * 4
    assert proxy.counts["copy answered 200"] == 3


def test_a_late_copy_arrives_after_the_answer(link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend) -> None:
    always(proxy, Handling(copies=1, copies_after_s=FAST_S))
    post(link)
    assert backend.bodies == [b"body"]
    proxy.settle()
    assert backend.bodies == [b"body"] * 2


def test_a_copy_arrives_of_a_request_that_was_cut(link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend) -> None:
    always(proxy, Handling(delivered=0.0, copies=1))
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        post(link)
    proxy.settle()
    assert backend.bodies == [b"body"]


def test_old_requests_are_sent_again(link: http.client.HTTPConnection, proxy: FaultProxy, backend: Backend) -> None:
    for number in range(3):
        post(link, b"%d" % number)
    always(proxy, Handling(replays=2))
    post(link, b"new")
    proxy.settle()
    assert len(backend.bodies) == 6
    assert set(backend.bodies[3:]) - {b"new"} <= {b"0", b"1", b"2"}
    assert proxy.counts["replay answered 200"] == 2


# ----------------------------------------------------------------------------------------------------------------- idle


def test_an_idle_connection_is_closed(backend: Backend) -> None:
    with FaultProxy(backend.port, idle_s=FAST_S) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 10) as raw:
        assert raw.recv(1) == b""
        assert proxy.counts["idle ends"] == 1


def test_a_forgotten_connection_is_told_nothing(backend: Backend) -> None:
    with FaultProxy(backend.port, idle_s=FAST_S, idle_end="silence") as proxy:
        link = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        assert post(link) == TEXT
        while not proxy.counts["idle ends"]:
            assert link.sock is not None
            link.sock.settimeout(FAST_S)
            with pytest.raises(TimeoutError):
                link.sock.recv(1)
        with pytest.raises(TimeoutError):
            post(link)
        link.close()
        assert len(backend.bodies) == 1


def test_an_answer_that_takes_longer_than_the_idle_limit_becomes_a_page(backend: Backend) -> None:
    with FaultProxy(backend.port, silence_s=FAST_S) as proxy:
        link = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        link.request("POST", "/late", b"body")
        answer = link.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (504, "text/html")
        answer.read()
        link.close()
        assert proxy.counts["answers given up"] == 1


def test_an_answer_that_falls_silent_is_cut_and_gets_no_page(backend: Backend) -> None:
    with FaultProxy(backend.port, silence_s=FAST_S) as proxy:
        link = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        link.request("POST", "/chunked", b"")
        answer = link.getresponse()
        assert answer.read(5) == b"first"
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
        link.close()


# ----------------------------------------------------------------------------------------------------------------- dice


def test_the_same_seed_throws_the_same_dice() -> None:
    kinds = (cut_before, cut_after, half_answer, reset, bad_gateway, replay)

    def throws(seed: int) -> list[Handling]:
        rule = chance(random.Random(seed), 0.5, *kinds, marker=b"/executions")
        return [rule(Request(number, False, b"POST /executions HTTP/1.1\r\n\r\n", b"")) for number in range(200)]

    assert throws(1) == throws(1) != throws(2)
    assert {handling.name for handling in throws(1)} >= {"", "cut before delivery", "cut after delivery", "half an answer", "reset"}


def test_a_rule_looks_at_marked_requests_alone() -> None:
    rule = chance(random.Random(1), 1.0, cut_before, marker=b"/executions")
    assert rule(Request(0, False, b"GET /health HTTP/1.1\r\n\r\n", b"")) == Handling()


def test_a_rule_may_apply_to_the_first_of_each_only() -> None:
    rule = first_of_each(lambda request: request.body or None, lambda request: Handling("hit"))
    bodies = [b"a", b"b", b"a", b"", b"b"]
    assert [rule(Request(0, False, b"", body)).name for body in bodies] == ["hit", "hit", "", "", ""]
