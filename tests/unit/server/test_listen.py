from __future__ import annotations

import socket

import pytest

from server.listen import CannotListen, bind, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_means_both_families_on_one_port(host: str) -> None:
    sockets = bind(host, 0)
    try:
        assert {each.family for each in sockets} == {socket.AF_INET, socket.AF_INET6}
        assert len({each.getsockname()[1] for each in sockets}) == 1
    finally:
        for each in sockets:
            each.close()


def test_any_ipv6_address_takes_ipv4_too() -> None:
    (listener,) = bind("::", 0)
    with listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=10):
        accepted, peer = listener.accept()
        accepted.close()
        assert peer[0] == "::ffff:127.0.0.1"


def test_accepted_connections_notice_a_dead_peer() -> None:
    sockets = bind("127.0.0.1", 0)
    try:
        with socket.create_connection(sockets[0].getsockname(), timeout=10):
            accepted, _ = sockets[0].accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    finally:
        for each in sockets:
            each.close()


def test_taken_port_is_named_and_nothing_stays_open() -> None:
    sockets = bind("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    try:
        with pytest.raises(CannotListen, match=f"port {port}: Address already in use; another server"):
            bind("127.0.0.1", port)
        sockets[0].close()  # only IPv6 is taken now
        with pytest.raises(CannotListen):
            bind("127.0.0.1", port)
    finally:
        for each in sockets:
            each.close()
    for each in bind("127.0.0.1", port):
        each.close()


def test_unknown_name_is_named() -> None:
    with pytest.raises(CannotListen, match=r"no-such-host\.invalid"):
        bind("no-such-host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "loopback"), [("localhost", True), ("127.8.9.1", True), ("[::1]", True), ("0.0.0.0", False), ("::", False), ("build-7", False)]
)  # fmt: skip
def test_only_this_machine_talking_to_itself_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
