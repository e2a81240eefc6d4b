"""close(): what is in flight raises, and nothing is left: no thread, no socket, no descriptor."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from remote_env import Client, LinkLost, RemoteDockerEnvironment, RemoteEnvError, SandboxGone, Unreachable
from remote_env.peerwatch import PeerWatch, Waited
from remote_env.transport import NotSent
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import TOKEN, FakeServer, Fault

START = r"/v1/sandboxes/[^/]+/executions$"


def descriptors() -> Counter[str]:
    """What this process has open, by kind."""
    kinds: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            kinds[os.readlink(f"/proc/self/fd/{number}").partition(":")[0]] += 1
        except FileNotFoundError:
            continue  # the listing's own
    return kinds


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("remote-env")}


class InThread:
    """A call in a thread of its own, and what came of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.outcome: object = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._call()
        except Exception as error:
            self.outcome = error

    def join(self) -> object:
        self._thread.join(timeout=20)
        assert not self._thread.is_alive(), "the call goes on after close()"
        return self.outcome


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc here")
def test_a_thousand_clients_opened_and_closed_leave_no_thread_no_socket_and_no_descriptor(fake: FakeServer) -> None:
    """Each with a sandbox, a command, a heartbeat that has beaten, and every third with an exception instead of a result."""
    timings = replace(FAST, first_beat_s=0.0)
    gc.collect()
    threads_before, before = threads(), descriptors()
    for number in range(1000):
        with Client(fake.url, TOKEN, timings=timings) as client:
            sandbox = client.create_sandbox("image")
            assert sandbox.run(f"echo {number}").returncode == 0
            if number % 3 == 0:
                sandbox.remove()
                with pytest.raises(SandboxGone):
                    sandbox.run("true")
    assert threads() == threads_before
    del client, sandbox
    gc.collect()
    fake.wait_until(lambda: not fake._handlers)  # the server's ends are in this process, too
    assert descriptors() == before


def test_environments_that_come_and_go_leave_nothing_either(fake: FakeServer) -> None:
    gc.collect()
    threads_before, before = threads(), descriptors()
    for _ in range(50):
        with RemoteDockerEnvironment("image", fake.url, TOKEN, timings=FAST) as env:
            assert env.execute("true")["returncode"] == 0
    del env
    gc.collect()
    assert threads() == threads_before
    fake.wait_until(lambda: not fake._handlers)
    assert descriptors() == before


def test_a_command_in_flight_raises_and_goes_on_at_the_server(fake: FakeServer) -> None:
    client = Client(fake.url, TOKEN, timings=replace(FAST, poll_slice_s=20.0))
    sandbox = client.create_sandbox("image")
    calls = [InThread(lambda: sandbox.run("hang")) for _ in range(5)]
    fake.wait_until(lambda: len(fake.executions) == 5)
    client.close()
    for call in calls:
        error = call.join()
        assert isinstance(error, LinkLost), error
        assert error.execution_id in fake.executions
        assert not fake.executions[error.execution_id].record.over


def test_whatever_waits_for_its_turn_to_try_again_raises(fake: FakeServer) -> None:
    client = Client(fake.url, TOKEN, timings=replace(FAST, retry_first_s=1000.0, retry_most_s=1000.0, reconnect_budget_s=10_000.0))
    sandbox = client.create_sandbox("image")
    fake.on("POST", START, Fault(answer=(502, {}, b"")))
    fake.on("GET", r"/v1/executions/", *[Fault()] * 100)
    call = InThread(lambda: sandbox.run("true"))
    fake.wait_until(lambda: fake.seen("GET", r"/v1/executions/"))
    client.close()
    assert isinstance(call.join(), RemoteEnvError)


def test_a_connection_that_is_being_made_is_given_up() -> None:
    """A full backlog: nobody answers the SYN, and the connect timeout is far away."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            client = Client(f"http://127.0.0.1:{address[1]}", TOKEN, timings=replace(FAST, connect_s=1000.0))
            connections = client.exchange.transport._connections
            call = InThread(client.health)
            while not connections._dialling:
                threading.Event().wait(0.001)
            client.close()
            assert isinstance(call.join(), Unreachable)
        finally:
            for filler in fillers:
                filler.close()


def test_a_closed_client_connects_to_nobody(fake: FakeServer) -> None:
    threads_before = threads()
    client = Client(fake.url, TOKEN, timings=FAST)
    sandbox = client.create_sandbox("image")
    client.close()
    client.close()
    before = fake.connections
    with pytest.raises(Unreachable, match="closed"):
        sandbox.run("true")
    with pytest.raises(NotSent, match="closed"):
        client.exchange.transport.call("GET", "/health")
    assert fake.connections == before
    assert threads() == threads_before


def test_a_connection_that_stands_a_moment_after_close_is_not_used(fake: FakeServer) -> None:
    """The race: connected, and closed before anybody knew of it."""
    client = Client(fake.url, TOKEN, timings=FAST)
    connections = client.exchange.transport._connections
    opened = connections.opened

    def late(connection: object) -> None:
        client.close()
        opened(connection)  # type: ignore[arg-type]

    connections.opened = late  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="closed"):
        client.health()
    assert not fake.seen("GET", "/health")


def test_a_callback_that_never_returns_does_not_hold_close_for_ever(fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    called, release = threading.Event(), threading.Event()

    def hang(reason: str) -> None:
        called.set()
        release.wait(20)

    timings = replace(FAST, first_beat_s=0.0, heartbeat_s=0.01, heartbeat_misses=1, farewell_s=0.05)
    client = Client(fake.url, TOKEN, timings=timings, on_disconnected=hang)
    fake.on("POST", "/v1/leases", Fault())
    client.keep_alive()
    assert called.wait(20)
    client.close()
    assert "left alone" in caplog.text
    release.set()


# ------------------------------------------------------------------------------------------------------- the idle watch


def test_a_watch_tells_a_close_a_reset_a_call_and_time_apart() -> None:
    watch = PeerWatch()
    ours, theirs = socket.socketpair()
    assert watch.wait([ours], 0.0) is Waited.OUT
    watch.wake()
    watch.wake()
    assert watch.wait([ours], 20.0) is Waited.WOKEN
    assert watch.wait([ours], 0.0) is Waited.OUT, "woken once, however often it was called"
    theirs.sendall(b"a TLS ticket, say")
    assert watch.wait([ours], 0.0) is Waited.OUT, "something to read is no close"
    theirs.close()
    assert watch.wait([ours], 20.0) is Waited.CLOSED, "unread data does not hide the close"
    ours.close()
    assert watch.wait([ours], 0.0) is Waited.OUT, "closed by ourselves"
    watch.close()
    watch.wake()


def test_a_watch_sees_a_reset() -> None:
    watch = PeerWatch()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        assert watch.wait([ours], 20.0) is Waited.CLOSED
    watch.close()
