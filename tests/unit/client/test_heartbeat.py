"""Leases are renewed as long as somebody here needs them, by one thread."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from remote_env import Client, Sandbox
from remote_env.errors import SandboxGone
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import CUT_BEFORE, TOKEN, FakeServer, Fault, refusal

QUICK = replace(FAST, heartbeat_s=0.01)
LEASES = "/v1/leases"


@pytest.fixture
def client(fake: FakeServer) -> Iterator[Client]:
    with Client(fake.url, TOKEN, timings=QUICK) as made:
        yield made


def beats() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "remote-env-heartbeat"]


def wait_for_beats(fake: FakeServer, count: int, run_id: str | None = None) -> None:
    def enough() -> bool:
        seen = [request for request in fake.requests if request.path == LEASES]
        return sum(run_id in (None, request.json()["run_id"]) for request in seen) >= count

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
    del client
    gc.collect()
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
