"""The connections of the pooled session: how many there are, which are used again, and whose they are."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from remote_env.driving import drive
from remote_env.transport import MaybeSent, NotSent
from tests.unit.client.badserver import BadServer, answer
from tests.unit.client.pooled import OK, keep, transport

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


def test_a_call_that_finds_the_client_closed_by_another_thread_has_sent_nothing() -> None:
    """Since it looked whether it is."""
    with BadServer(keep) as server:
        made = transport(server.url)
        made._adapter.close()
        with pytest.raises(NotSent, match="closed"):
            made.call("GET", "/x")
        with pytest.raises(NotSent, match="closed"):
            drive(made.open("GET", "/x", {}, silence_s=5))
        assert not server.connections
