"""One request and its answer over a connection, byte by byte: whatever way the answer is cut up, it is the same one or none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, ClassVar

import pytest

from remote_env.roundtrip import Answer, request_bytes, round_trip

PLAIN = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nX-Name: a name \r\n\r\nhello"
ANSWERS: dict[str, bytes] = {
    "plain": PLAIN,
    "after an interim one": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + PLAIN,
    "in chunks": b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nX-Name: a name\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "until the connection ends": b"HTTP/1.0 201 Created\r\nX-Name: a name\r\n\r\nhello",
}
NONE: dict[str, bytes] = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "another protocol, its first byte": b"S",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a folded header": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a name with a space": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length that no number has": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a chunk of a negative length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
    "a chunk larger than any memory": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7ffffffffffffff0\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
}


@contextmanager
def connection(pieces: list[bytes], *, then_end: bool) -> Iterator[socket.socket]:
    """One whose other end says these pieces, each by itself, and ends or stays."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)

    def speak() -> None:
        try:
            for piece in pieces:
                theirs.sendall(piece)
            if then_end:
                theirs.shutdown(socket.SHUT_WR)
        except OSError:
            return  # nobody listens any more

    speaking = threading.Thread(target=speak)
    speaking.start()
    try:
        yield ours
    finally:
        ours.close()
        speaking.join()
        theirs.close()


def told(answer: Answer) -> tuple[int, bytes, str]:
    return answer.status, answer.body, answer.headers["x-NAME"].strip()


@pytest.mark.parametrize("data", ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_is_the_same_however_it_comes_in_pieces(data: bytes) -> None:
    for at in range(1, len(data)):
        with connection([data[:at], data[at:]], then_end=True) as sock:
            assert told(round_trip(sock, b"GET / HTTP/1.1\r\n\r\n")) == (201, b"hello", "a name")


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (ANSWERS["plain"], len(PLAIN)),
        (ANSWERS["after an interim one"], len(ANSWERS["after an interim one"])),
        (ANSWERS["in chunks"], ANSWERS["in chunks"].index(b"0\r\n\r\n")),  # the last chunk is empty
        (ANSWERS["until the connection ends"], ANSWERS["until the connection ends"].index(b"\r\n\r\n") + 4),
    ],
)  # fmt: skip
def test_an_answer_cut_anywhere_is_none(data: bytes, whole: int) -> None:
    for at in range(whole):
        with connection([data[:at]], then_end=True) as sock, pytest.raises((HTTPException, OSError)):
            round_trip(sock, b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("data", NONE.values(), ids=NONE.keys())
def test_what_is_no_answer_is_known_at_once(data: bytes) -> None:
    """While the connection stands: whoever waited for its end would wait for ever."""
    with connection([data], then_end=False) as sock, pytest.raises(HTTPException):
        round_trip(sock, b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        ("HTTP/1.1 200 OK", True), ("HTTP/1.1 200 OK\r\nConnection: Close", False), ("HTTP/1.0 200 OK", False),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive", True),
    ],
)  # fmt: skip
def test_a_connection_serves_on_where_the_answer_says_so(head: str, reusable: bool) -> None:
    with connection([head.encode() + b"\r\nContent-Length: 2\r\n\r\n{}"], then_end=False) as sock:
        assert round_trip(sock, b"GET / HTTP/1.1\r\n\r\n").reusable is reusable


def test_a_connection_on_which_more_came_than_was_asked_for_serves_no_other() -> None:
    with connection([PLAIN + b"H"], then_end=False) as sock:
        answer = round_trip(sock, b"GET / HTTP/1.1\r\n\r\n")
        assert (answer.body, answer.reusable) == (b"hello", False)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_some_answers_have_no_body_and_no_length(status: str) -> None:
    with connection([f"HTTP/1.1 {status}\r\n\r\n".encode()], then_end=False) as sock:
        assert round_trip(sock, b"GET / HTTP/1.1\r\n\r\n")[2:] == (b"", True)


def test_the_answer_to_a_head_has_no_body_whatever_length_it_names() -> None:
    with connection([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"], then_end=False) as sock:
        assert round_trip(sock, b"HEAD / HTTP/1.1\r\n\r\n", is_head=True)[2:] == (b"", True)


def test_a_request_is_its_head_and_its_body() -> None:
    sent = request_bytes("POST", "/a?b=%20", "host:1", {"X-One": "1", "Content-Length": "2"}, b"{}")
    assert sent == b"POST /a?b=%20 HTTP/1.1\r\nHost: host:1\r\nX-One: 1\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize("value", ["a\r\nX-Two: 2", "a\nX-Two: 2", "a\rb", "a\0b"])
def test_a_header_with_a_line_break_is_not_sent(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        request_bytes("GET", "/", "host", {"X-One": value}, None)


def test_a_target_cannot_end_the_request_line() -> None:
    sent = request_bytes("GET", "/a b\r\nX-Two: 2/ü", "host", {}, None)
    assert sent == b"GET /a%20b%0D%0AX-Two:%202/%C3%BC HTTP/1.1\r\nHost: host\r\n\r\n"


def test_what_a_peer_says_that_reads_no_more_is_its_answer() -> None:
    """Of a body that is too long for it, say."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(PLAIN)
        theirs.close()
        answer = round_trip(ours, bytes(1 << 20))
    assert (answer.status, answer.body, answer.reusable) == (201, b"hello", False)


def test_a_peer_that_reads_no_more_and_says_nothing_is_told_as_what_it_is() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(BrokenPipeError):
            round_trip(ours, bytes(1 << 20))


def test_the_time_limit_is_for_a_part_of_a_long_request_not_for_all_of_it() -> None:
    class Counted(socket.socket):
        sent: ClassVar[list[bytes]] = []

        def sendall(self, data: Any, flags: int = 0) -> None:
            self.sent.append(bytes(data))

    request = bytes(range(256)) * (5 << 10)
    ours, theirs = socket.socketpair()
    with theirs, Counted(fileno=ours.detach()) as counted:
        theirs.sendall(PLAIN)
        assert round_trip(counted, request).status == 201
    assert b"".join(counted.sent) == request
    assert max(map(len, counted.sent)) <= 256 << 10
