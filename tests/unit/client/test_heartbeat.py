"""Leases are renewed as long as somebody here needs them, by one thread."""

from __future__ import annotations

import gc
import logging
import os
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from remote_env import Client, RemoteDockerEnvironment, Sandbox, Timings
from remote_env.backoff import Spread
from remote_env.clock import Clock
from remote_env.config import Endpoint
from remote_env.errors import InvalidSpec, SandboxGone
from remote_env.heartbeat import Heartbeat
from remote_env.link import Link, OnDisconnected, OnReconnected
from remote_env.linkstate import LinkState
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import CUT_BEFORE, TOKEN, FakeServer, Fault, refusal, runs_of

QUICK = replace(FAST, heartbeat_s=0.01, first_beat_s=0.01, reconnect_first_s=0.001, reconnect_most_s=0.01)
LEASES = "/v1/leases"


@pytest.fixture
def client(fake: FakeServer) -> Iterator[Client]:
    with Client(fake.url, TOKEN, timings=QUICK) as made:
        yield made


class Told:
    """What a client's callbacks were told, in order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.news: list[tuple[str, str | float]] = []

    def disconnected(self, reason: str) -> None:
        self._add("disconnected", reason)

    def reconnected(self, downtime_s: float) -> None:
        self._add("reconnected", downtime_s)

    def _add(self, word: str, about: str | float) -> None:
        with self._changed:
            self.news.append((word, about))
            self._changed.notify_all()

    def wait_for(self, *words: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: [word for word, _ in self.news] == list(words), timeout=20), self.news


def wait_for_link(link: Link, condition: Callable[[Link], bool]) -> None:
    """Links change in the heartbeat's thread, and tell nobody but their callbacks."""
    for _ in range(20_000):
        if condition(link):
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"{link} after 20 s")


def watching(
    fake: FakeServer, on_disconnected: OnDisconnected | None = None, on_reconnected: OnReconnected | None = None, **timings: float
) -> Client:
    """A client whose link is watched. Its first beat comes at once, the next ones where a test says so."""
    timing = replace(FAST, **{"first_beat_s": 0.0, "heartbeat_s": 1000.0, "reconnect_first_s": 0.0, **timings})
    made = Client(fake.url, TOKEN, timings=timing, on_disconnected=on_disconnected, on_reconnected=on_reconnected)
    made.keep_alive()
    return made


def beats() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "remote-env-heartbeat"]


def wait_for_beats(fake: FakeServer, count: int, run_id: str | None = None) -> None:
    def enough() -> bool:
        seen = [request for request in fake.requests if request.path == LEASES]
        return sum(run_id is None or run_id in runs_of(request) for request in seen) >= count

    fake.wait_until(enough)


def test_the_lease_of_the_run_is_renewed_again_and_again(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    wait_for_beats(fake, 3, client.run_id)


def test_one_thread_renews_the_runs_of_all_clients_of_a_server(fake: FakeServer) -> None:
    before = len(beats())
    clients = [Client(fake.url, TOKEN, timings=QUICK, run_id=f"run-number-{number % 2}") for number in range(4)]
    for client in clients:
        client.create_sandbox("image")
    wait_for_beats(fake, 2, "run-number-0")
    wait_for_beats(fake, 2, "run-number-1")
    assert len(beats()) == before + 1
    for client in clients:
        client.close()
    assert len(beats()) == before


def test_a_client_without_a_sandbox_beats_for_nobody(fake: FakeServer) -> None:
    before = len(beats())
    with Client(fake.url, TOKEN, timings=QUICK) as client:
        client.sandboxes()
        assert len(beats()) == before


def test_a_sandbox_that_is_gone_is_known_without_a_call(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    fake.sandboxes[sandbox.id] = fake.sandboxes[sandbox.id].model_copy(update={"state": "dead", "reason": "sandbox_died"})
    seen = len(fake.requests)
    wait_for_beats(fake, sum(request.path == LEASES for request in fake.requests) + 2)
    assert seen
    with pytest.raises(SandboxGone, match="sandbox_died"):
        sandbox.run("true")
    assert not fake.seen("POST", "executions$")


@pytest.mark.parametrize(
    "fault",
    [CUT_BEFORE, refusal("stopping"), refusal("unauthorized"), Fault(answer=(502, {}, b"<html>"))],
    ids=["cut", "503", "401", "502"],
)
def test_a_missed_beat_is_followed_by_the_next(fake: FakeServer, client: Client, fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    fake.on("POST", LEASES, *[fault] * 3)
    client.create_sandbox("image")
    wait_for_beats(fake, 6)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    told = [message for message in warnings if "heartbeat" in message]
    assert len(told) == 2, "the first miss, and the third: disconnected"
    assert "missed" in told[0]
    assert "disconnected" in told[1]


def test_a_short_lease_is_renewed_sooner(fake: FakeServer) -> None:
    with Client(fake.url, TOKEN, timings=replace(FAST, heartbeat_s=1000.0)) as client:
        client.create_sandbox("image", lease_s=0.03)
        wait_for_beats(fake, 2)


def test_close_ends_a_thread_that_waits_for_an_answer(fake: FakeServer) -> None:
    release = threading.Event()
    before = len(beats())
    fake.on("POST", LEASES, Fault(before=lambda: release.wait() and None))
    client = Client(fake.url, TOKEN, timings=QUICK)
    client.create_sandbox("image")
    wait_for_beats(fake, 1)
    client.close()
    assert len(beats()) == before
    release.set()


def test_a_client_that_was_forgotten_is_not_kept_alive_by_its_heartbeat(fake: FakeServer) -> None:
    before = set(beats())
    client = Client(fake.url, TOKEN, timings=QUICK)
    client.create_sandbox("image")
    wait_for_beats(fake, 1)
    (thread,) = set(beats()) - before
    alive = weakref.ref(client)
    gc.disable()
    try:
        del client
        fake.wait_until(lambda: alive() is None)  # a beat may hold it just now; nothing else does, not even a cycle
    finally:
        gc.enable()
    thread.join(timeout=20)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_renews_with_a_thread_of_its_own(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    wait_for_beats(fake, 1)
    child = os.fork()
    if child == 0:
        try:
            alone = not beats()
            sandbox.run("true")
            beating = len(beats()) == 1
        finally:
            os._exit(0 if alone and beating else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(beats()) >= 1


# ------------------------------------------------------------------------------------------------------------ the runs


def test_the_runs_of_all_clients_are_renewed_in_one_call(fake: FakeServer) -> None:
    clients = [Client(fake.url, TOKEN, timings=QUICK, run_id=f"run-number-{number}") for number in range(5)]
    for client in clients:
        client.create_sandbox("image")

    def together() -> bool:
        seen = [request for request in fake.requests if request.path == LEASES]
        return bool(seen) and set(runs_of(seen[-1])) == {client.run_id for client in clients}

    fake.wait_until(together)
    for client in clients:
        client.close()


def test_a_sandbox_of_another_run_than_its_clients_is_kept_alive_until_it_is_gone(fake: FakeServer, client: Client) -> None:
    sandbox = client.create_sandbox("image", run_id="a-run-of-its-own")
    wait_for_beats(fake, 2, "a-run-of-its-own")
    sandbox.remove()
    fake.wait_until(lambda: runs_of([request for request in fake.requests if request.path == LEASES][-1]) == [client.run_id])


def test_one_thread_serves_clients_of_one_server_whatever_their_timings(fake: FakeServer) -> None:
    before = len(beats())
    clients = [Client(fake.url, TOKEN, timings=replace(QUICK, heartbeat_misses=misses)) for misses in (1, 3, 5)]
    for client in clients:
        client.create_sandbox("image")
    assert len(beats()) == before + 1
    for client in clients:
        client.close()
    assert len(beats()) == before


# ------------------------------------------------------------------------------------------------------------ the link


def test_the_first_answer_to_anything_tells_that_the_link_stands(fake: FakeServer) -> None:
    with Client(fake.url, TOKEN, timings=FAST) as client:
        assert client.link.state == "unknown"
        client.sandboxes()
        assert (client.link.state, client.link.instance_id) == ("connected", fake.instance_id)
    assert client.link.state == "closed"


def test_a_connection_closed_by_the_peer_is_noticed_without_waiting_for_a_beat(fake: FakeServer) -> None:
    """The next regular beat is a quarter of an hour away."""
    with watching(fake, rebuild_s=1000.0) as client:
        wait_for_link(client.link, lambda link: link.state == "connected")
        fake.on("POST", LEASES, CUT_BEFORE)
        fake.cut_connections()
        wait_for_link(client.link, lambda link: link.failures == 2)
        assert client.link.state == "degraded"
        assert client.link.misses == 1, "the close, and the beat that followed it at once"


def test_a_close_that_was_no_loss_is_followed_by_a_beat_that_says_so(fake: FakeServer) -> None:
    """A proxy's idle limit, or a server that was started again at once."""
    told = Told()
    with watching(fake, told.disconnected, told.reconnected) as client:
        wait_for_link(client.link, lambda link: link.state == "connected")
        fake.cut_connections()
        wait_for_link(client.link, lambda link: link.reconnects == 1 and link.state == "connected")
    assert told.news == []


def test_a_peer_that_closes_every_connection_at_once_is_not_asked_in_a_busy_loop(fake: FakeServer) -> None:
    with watching(fake, rebuild_s=1000.0) as client:
        wait_for_link(client.link, lambda link: link.state == "connected")
        fake.cut_connections()
        wait_for_link(client.link, lambda link: link.reconnects == 1)
        fake.cut_connections()
        wait_for_link(client.link, lambda link: link.failures == 2)
        assert client.link.reconnects == 1, "the second one waits until rebuild_s is over"
        assert len(fake.seen("POST", LEASES)) == 2


def test_a_silent_peer_is_lost_after_three_beats_and_found_again_and_both_are_told(fake: FakeServer) -> None:
    told = Told()
    silence = threading.Event()
    with watching(fake, told.disconnected, told.reconnected, heartbeat_s=0.01, heartbeat_answer_s=0.05) as client:
        wait_for_link(client.link, lambda link: link.state == "connected")
        fake.on("POST", LEASES, *[Fault(before=lambda: silence.wait() and None)] * 3)
        told.wait_for("disconnected", "reconnected")
        silence.set()
        link = client.link.snapshot()
    (_, reason), (_, downtime_s) = told.news
    assert "timed out" in str(reason).lower()
    assert float(downtime_s) > 0
    assert (link.state, link.reconnects, link.misses) == (LinkState.CONNECTED, 1, 0)
    assert link.failures == 3
    assert client.stats()["pool_rebuilds"] == 1, "what the client had open went the same way"


def test_a_callback_that_fails_or_hangs_harms_nothing_and_the_next_is_called(fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    hanging, released, reconnected = threading.Event(), threading.Event(), threading.Event()

    def hang(reason: str) -> None:
        hanging.set()
        released.wait(20)
        raise ZeroDivisionError("by a test's order")

    with watching(fake, hang, lambda downtime_s: reconnected.set(), heartbeat_s=0.01) as client:
        sandbox = client.create_sandbox("image")
        fake.on("POST", LEASES, *[CUT_BEFORE] * 3)
        assert hanging.wait(20)
        seen = len(fake.seen("POST", LEASES))
        wait_for_beats(fake, seen + 3)
        assert sandbox.run("echo as ever").text == "as ever\n"
        assert not reconnected.is_set(), "told in order"
        released.set()
        assert reconnected.wait(20)
        assert sandbox.run("true").returncode == 0
    assert "ZeroDivisionError" in caplog.text


def test_a_callback_may_close_the_client(fake: FakeServer) -> None:
    closed = threading.Event()

    def close(reason: str) -> None:
        client.close()
        closed.set()

    client = watching(fake, close, heartbeat_s=0.01)
    fake.on("POST", LEASES, *[CUT_BEFORE] * 3)
    assert closed.wait(20)
    assert client.link.state == "closed"


def test_closing_is_told_to_nobody_and_is_for_good(fake: FakeServer) -> None:
    told = Told()
    client = watching(fake, told.disconnected, told.reconnected)
    wait_for_link(client.link, lambda link: link.state == "connected")
    client.close()
    fake.cut_connections()
    assert client.link.state == "closed"
    assert told.news == []


def test_a_token_that_was_rotated_is_read_again_by_the_next_beat(fake: FakeServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with Client(fake.url, token_file=token, timings=QUICK) as client:
        client.create_sandbox("image")
        wait_for_beats(fake, 1)
        token.write_text("another-token")
        fake.token = "another-token"
        taken = "Bearer another-token"
        fake.wait_until(lambda: any(request.headers.get("authorization") == taken for request in fake.requests if request.path == LEASES))
        wait_for_beats(fake, len(fake.seen("POST", LEASES)) + 2)
        assert client.link.misses == 0


def test_an_environment_has_its_callbacks_called_and_takes_none_for_a_client_that_is_shared(fake: FakeServer) -> None:
    told = Told()
    fake.on("POST", LEASES, *[CUT_BEFORE] * 3)
    callbacks = {"on_disconnected": told.disconnected, "on_reconnected": told.reconnected}
    with RemoteDockerEnvironment("image", fake.url, TOKEN, timings=QUICK, **callbacks) as env:  # type: ignore[arg-type]
        told.wait_for("disconnected", "reconnected")
        assert env.client.link.state == "connected"
        with pytest.raises(InvalidSpec, match="shared client"):
            RemoteDockerEnvironment("image", client=env.client, on_disconnected=told.disconnected)


# ---------------------------------------------------------------------------------------------------- a machine that slept


class Sleeper(Clock):
    """A machine that can be put to sleep: then only what really elapses goes on."""

    slept_s = 0.0

    def elapsed(self) -> float:
        return super().elapsed() + self.slept_s


def test_a_laptop_that_wakes_up_learns_what_expired_and_keeps_what_did_not(fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    """An hour later the server does not tell of the sandbox any more, in its answer to a beat: it is long gone."""
    clock = Sleeper()
    with Client(fake.url, TOKEN, timings=FAST) as client, caplog.at_level(logging.INFO):
        expired, kept = client.create_sandbox("image"), client.create_sandbox("image", lease_s=86400.0)
        client.beat_s = 0.01  # for the heartbeat with the clock; the client's own has not begun to beat
        beat = Heartbeat(Endpoint(fake.url, TOKEN), QUICK, client, clock=clock)
        try:
            wait_for_beats(fake, 2)
            clock.slept_s = 3600.0
            over = {"state": "removed", "reason": "lease_over"}
            fake.sandboxes[expired.id] = fake.sandboxes[expired.id].model_copy(update=over)
            fake.long_gone.add(expired.id)
            wait_for_beats(fake, len(fake.seen("POST", LEASES)) + 2)
            fake.wait_until(lambda: expired.gone is not None)
        finally:
            beat.discard(client)
        with pytest.raises(SandboxGone, match="lease is over"):
            expired.run("true")
        assert kept.run("echo still here").text == "still here\n"
        assert kept.gone is None
    assert "slept for 3600 s" in caplog.text


# ------------------------------------------------------------------------------------------------------------- the herd


def test_a_thousand_links_that_broke_together_come_back_spread_out() -> None:
    """Each draws its own wait: in no tenth of a second come more than a few percent, and none before the least wait."""
    timings = Timings()
    draws = random.Random(7)
    waits = sorted(
        Spread(timings.reconnect_first_s, timings.reconnect_most_s, timings.rebuild_s, draws.random).next_s() for _ in range(1000)
    )
    assert waits[0] >= timings.rebuild_s
    assert waits[-1] <= timings.reconnect_most_s
    assert max(sum(at <= wait < at + 0.1 for wait in waits) for at in waits) < 50


def test_reconnects_of_one_link_back_off_to_half_a_minute_and_never_come_closer_than_the_least_wait() -> None:
    timings = Timings()
    late = Spread(timings.reconnect_first_s, timings.reconnect_most_s, timings.rebuild_s, lambda: 1.0)
    early = Spread(timings.reconnect_first_s, timings.reconnect_most_s, timings.rebuild_s, lambda: 0.0)
    assert [late.next_s() for _ in range(7)] == pytest.approx([10, 10, 10, 10, 16, 30, 30])
    assert [early.next_s() for _ in range(7)] == pytest.approx([5] * 7)
    late.reset()
    assert late.next_s() == pytest.approx(10)
