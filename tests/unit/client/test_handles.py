"""Client, Sandbox and Execution: making, attaching, cancelling, removing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest

from remote_env import Client, Sandbox
from remote_env.errors import (
    CommandNotDelivered,
    EpochChanged,
    ImageNotFound,
    InvalidSpec,
    LinkLost,
    OutcomeUnknownError,
    SandboxGone,
    SandboxNotCreated,
    ServerBusy,
    SignalNotSent,
    Unauthorized,
)
from remote_env.protocol import Outcome
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, TOKEN, FakeServer, Fault, refusal

BOTH_FACES = True

CREATE = r"/v1/sandboxes$"
START = r"/v1/sandboxes/[^/]+/executions$"
ONE_SANDBOX = r"/v1/sandboxes/[^/]+$"


def creating(body: bytes) -> bytes:
    return json.dumps({**json.loads(body), "state": "creating", "progress": "pulling"}).encode()


def removing(body: bytes) -> bytes:
    return json.dumps({**json.loads(body), "state": "removing"}).encode()


# ------------------------------------------------------------------------------------------------------------- sandboxes


def test_a_sandbox_knows_its_id_epoch_and_container(fake: FakeServer, sandbox: Sandbox) -> None:
    made = fake.sandboxes[sandbox.id]
    assert (sandbox.epoch, sandbox.container_id, sandbox.gone) == (made.epoch, made.container_id, None)


def test_creation_is_waited_for(fake: FakeServer, client: Client) -> None:
    fake.on("POST", CREATE, Fault(change=creating))
    fake.on("GET", ONE_SANDBOX, Fault(change=creating), Fault(change=creating))
    assert client.create_sandbox("image").record.state == "running"
    assert len(fake.seen("POST", CREATE)) == 1


def test_a_create_whose_answer_is_lost_is_asked_for_by_id(fake: FakeServer, client: Client) -> None:
    fake.on("POST", CREATE, CUT_AFTER)
    client.create_sandbox("image")
    assert len(fake.seen("POST", CREATE)) == 1
    assert len(fake.sandboxes) == 1


def test_a_create_that_got_lost_leaves_a_tombstone_and_is_made_under_a_new_id(fake: FakeServer, client: Client) -> None:
    fake.on("POST", CREATE, CUT_BEFORE)
    sandbox = client.create_sandbox("image")
    first, second = fake.seen("POST", CREATE)
    assert first.json()["id"] in fake.tombstones
    assert second.json()["id"] == sandbox.id
    status, _, _ = fake.handle(first)
    assert status == 410, "a late copy of the first makes no container"


def test_a_create_that_gets_lost_again_and_again_is_told(fake: FakeServer, client: Client) -> None:
    fake.on("POST", CREATE, *[CUT_BEFORE] * 10)
    with pytest.raises(SandboxNotCreated):
        client.create_sandbox("image")
    assert not fake.sandboxes
    assert {request.json()["id"] for request in fake.seen("POST", CREATE)} == fake.tombstones


def test_a_creation_that_the_servers_death_interrupted_is_begun_anew(fake: FakeServer, client: Client) -> None:
    def interrupted(body: bytes) -> bytes:
        return json.dumps({**json.loads(body), "state": "failed", "reason": "interrupted: the server was restarted"}).encode()

    fake.on("POST", CREATE, Fault(change=interrupted))
    sandbox = client.create_sandbox("image")
    assert [request.json()["id"] for request in fake.seen("POST", CREATE)][1:] == [sandbox.id]


def test_an_id_of_the_callers_is_never_replaced(fake: FakeServer, client: Client) -> None:
    fake.on("POST", CREATE, CUT_BEFORE)
    with pytest.raises(SandboxNotCreated) as raised:
        client.create_sandbox("image", id="my-own-sandbox")
    assert raised.value.undelivered, "made under another id it may well succeed"
    assert len(fake.seen("POST", CREATE)) == 1


def test_a_busy_server_is_asked_again_with_the_same_id(fake: FakeServer, client: Client) -> None:
    fake.on("POST", CREATE, refusal("capacity"), refusal("engine_unavailable"))
    client.create_sandbox("image")
    assert len({request.json()["id"] for request in fake.seen("POST", CREATE)}) == 1


def test_who_does_not_want_to_wait_for_room_is_told_at_once(fake: FakeServer, client: Client) -> None:
    fake.on("POST", CREATE, *[refusal("capacity", retry_after_s=0.01)] * 2)
    with pytest.raises(ServerBusy):
        client.create_sandbox("image", queue_s=0.0)
    assert len(fake.seen("POST", CREATE)) == 1


def test_a_server_busy_past_the_queue_timeout_is_told(fake: FakeServer) -> None:
    with Client(fake.url, TOKEN, timings=replace(FAST, queue_s=0.02)) as client:
        fake.on("POST", CREATE, *[refusal("capacity", retry_after_s=0.01)] * 50)
        with pytest.raises(ServerBusy):
            client.create_sandbox("image")


def test_an_image_that_is_missing_is_told_by_name(client: Client) -> None:
    with pytest.raises(ImageNotFound, match="missing/image:1"):
        client.create_sandbox("missing/image:1")


def test_a_refused_token_is_told(fake: FakeServer) -> None:
    with Client(fake.url, "wrong", timings=FAST) as client, pytest.raises(Unauthorized):
        client.create_sandbox("image")


def test_a_wrong_option_is_refused_before_anything_is_sent(fake: FakeServer, client: Client) -> None:
    wrong: list[dict[str, Any]] = [{"memory": 5}, {"cpus": -1}, {"id": "x"}, {"image": "bad image"}]
    for options in wrong:
        with pytest.raises(InvalidSpec):
            client.create_sandbox(**{"image": "image", **options})
    assert not fake.requests


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_creation_leaves_no_sandbox(fake: FakeServer, client: Client) -> None:
    fake.on("POST", CREATE, Fault(arrives=True, change=creating))
    fake.on("GET", ONE_SANDBOX, Fault(change=creating, before=interrupt), *[Fault(change=creating)] * 1000)
    with pytest.raises(KeyboardInterrupt):
        client.create_sandbox("image")
    assert [sandbox.state for sandbox in fake.sandboxes.values()] == ["removed"]


def test_with_removes_the_sandbox(fake: FakeServer, client: Client) -> None:
    with client.create_sandbox("image") as sandbox:
        pass
    assert fake.sandboxes[sandbox.id].state == "removed"
    with pytest.raises(SandboxGone):
        sandbox.run("true")


def test_remove_may_be_repeated_and_asks_again_when_the_answer_is_lost(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    fake.on("DELETE", ONE_SANDBOX, CUT_AFTER)
    sandbox.remove(purge=True)
    sandbox.remove()
    assert [request.query for request in fake.seen("DELETE", ONE_SANDBOX)] == [{"purge": "true"}, {"purge": "true"}, {}]


def test_who_removes_a_sandbox_waits_until_it_is_gone(fake: FakeServer, sandbox: Sandbox) -> None:
    """Without asking again and again of a server that does not wait."""
    fake.on("DELETE", ONE_SANDBOX, *[Fault(change=removing)] * 3)
    sandbox.remove()
    assert sandbox.record.state == "removed"


def test_who_leaves_has_a_sandbox_removed_and_does_not_wait_for_it(fake: FakeServer, client: Client) -> None:
    fake.on("POST", CREATE, Fault(arrives=True, change=creating))
    fake.on("GET", ONE_SANDBOX, Fault(change=creating, before=interrupt), *[Fault(change=creating)] * 1000)
    fake.on("DELETE", ONE_SANDBOX, *[Fault(change=removing)] * 10_000)
    with pytest.raises(KeyboardInterrupt):
        client.create_sandbox("image")
    assert len(fake.seen("DELETE", ONE_SANDBOX)) == 1


def test_sandboxes_lists_what_lives(client: Client, sandbox: Sandbox) -> None:
    other = client.create_sandbox("image", run_id="another-run")
    assert {found.id for found in client.sandboxes()} == {sandbox.id, other.id}
    assert [found.id for found in client.sandboxes(run_id="another-run")] == [other.id]


def test_attaching_to_a_sandbox_of_another_client_runs_in_it(fake: FakeServer, sandbox: Sandbox) -> None:
    with Client(fake.url, TOKEN, timings=FAST) as other:
        assert other.sandbox(sandbox.id).run("echo there").text == "there\n"
        with pytest.raises(SandboxGone):
            other.sandbox("no-such-sandbox")


def test_attaching_to_a_removed_sandbox_tells_that_it_is_gone(client: Client, sandbox: Sandbox) -> None:
    sandbox.remove()
    attached = client.sandbox(sandbox.id)
    with pytest.raises(SandboxGone, match="on request"):
        attached.run("true")


# ------------------------------------------------------------------------------------------------------------ executions


def test_start_returns_with_the_acceptance_and_wait_with_the_end(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.start(["hang", "on"])
    assert execution.record.state == "running"
    fake.finish(execution.id, Outcome(kind="exited", ran=True, code=4), b"done")
    assert execution.wait().returncode == 4
    assert execution.output() == b"done"


def test_start_whose_answer_is_lost_is_found_by_id(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_AFTER)
    assert sandbox.start("hang").record.state == "running"
    assert fake.started["hang"] == 1


def test_start_that_got_lost_is_told(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_BEFORE)
    with pytest.raises(CommandNotDelivered):
        sandbox.start("hang")


def test_wait_with_a_timeout_leaves_the_command_alone(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.start("hang")
    for timeout in (0, 0.05):
        with pytest.raises(TimeoutError, match="goes on"):
            execution.wait(timeout)
    assert fake.executions[execution.id].record.state == "running"


def test_attaching_to_an_execution_of_another_client_waits_for_it(fake: FakeServer, sandbox: Sandbox) -> None:
    started = sandbox.start("hang")
    with Client(fake.url, TOKEN, timings=FAST) as other:
        execution = other.execution(started.id)
        assert (execution.epoch, execution.sandbox_id) == (started.epoch, sandbox.id)
        fake.finish(started.id, Outcome(kind="exited", ran=True, code=9), b"output")
        assert (execution.wait().returncode, execution.output()) == (9, b"output")
        with pytest.raises(EpochChanged):
            other.execution("no-such-execution")


def test_an_abandoned_execution_shows_as_what_it_is(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_BEFORE)
    with pytest.raises(CommandNotDelivered) as raised:
        sandbox.run("touch x")
    execution = client.execution(str(raised.value.execution_id)).wait()
    assert execution.outcome is not None
    assert (execution.outcome.kind, execution.outcome.ran) == ("not_run", False)


def test_cancel_and_signal_end_a_command(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", "/cancel$", CUT_AFTER)
    cancelled, signalled = sandbox.start("hang"), sandbox.start("hang")
    cancelled.cancel()
    signalled.signal(15)
    assert cancelled.wait().outcome == Outcome(kind="cancelled", ran=True)
    assert signalled.wait().returncode == 128 + 15
    assert signalled.signal(9).returncode == 128 + 15, "nothing happens to what is over"


def test_a_signal_that_cannot_be_sent_to_a_command_that_goes_on_is_told(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.start("hang")
    fake.on("POST", "/signal$", refusal("wrong_state"))
    with pytest.raises(SignalNotSent, match="by a test's order") as raised:
        execution.signal(15)
    assert (raised.value.execution_id, execution.over) == (execution.id, False)
    assert execution.signal(15).wait().returncode == 128 + 15


def test_a_result_beyond_retention_is_told(fake: FakeServer, sandbox: Sandbox) -> None:
    execution = sandbox.start("hang")
    fake.on("GET", "/v1/executions/", refusal("gone"), refusal("gone"))
    with pytest.raises(OutcomeUnknownError, match="retention"):
        execution.refresh()
    with pytest.raises(OutcomeUnknownError):
        execution.wait()


def test_counters_tell_what_was_sent_and_what_ended(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    sandbox.run("true")
    execution = sandbox.start("hang")
    assert (client.stats()["sent"], client.stats()["completed"]) == (2, 1)
    fake.finish(execution.id, Outcome(kind="exited", ran=True, code=0))
    execution.wait()
    execution.wait()
    assert (client.stats()["sent"], client.stats()["completed"]) == (2, 2)


def test_the_executions_of_the_server_can_be_listed(client: Client, sandbox: Sandbox) -> None:
    ran = sandbox.run("true")
    assert [execution.id for execution in client.executions(sandbox_id=sandbox.id)] == [ran.id]
    with pytest.raises(InvalidSpec, match="colour"):
        client.executions(colour="red")


def test_execute_answers_as_the_one_call_does(client: Client, sandbox: Sandbox) -> None:
    answer = client.execute(sandbox.id, "echo hi")
    assert (answer.output, answer.returncode, answer.exception_info) == ("hi\n", 0, "")


def test_health_tells_the_protocol(client: Client) -> None:
    assert client.health().protocol == 1


# ----------------------------------------------------------------------------------------------------- ends of all kinds


def test_ctrl_c_cancels_the_command_and_is_raised_again(fake: FakeServer, sandbox: Sandbox) -> None:
    def interrupt() -> None:
        fake.wait_until(lambda: any(request.method == "GET" for request in fake.requests))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sandbox.run("hang")
    thread.join()
    (kept,) = fake.executions.values()
    assert kept.record.outcome == Outcome(kind="cancelled", ran=True)


def test_ctrl_c_before_the_delivery_fences_the_id(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, Fault(before=lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        sandbox.run("hang")
    (kept,) = fake.executions.values()
    assert kept.record.state == "abandoned"


def test_closing_the_client_ends_a_call_of_another_thread_and_not_its_command(fake: FakeServer, client: Client) -> None:
    sandbox = client.create_sandbox("image")
    raised: list[BaseException] = []

    def run() -> None:
        try:
            sandbox.run("hang")
        except LinkLost as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    fake.wait_until(lambda: fake.executions)
    client.close()
    thread.join()
    assert "closed" in str(raised[0])
    assert next(iter(fake.executions.values())).record.state == "running"


FORKED = """
import os, sys
from remote_env import Client
client = Client(sys.argv[1], sys.argv[2])
sandbox = client.create_sandbox("image")
assert sandbox.run("echo parent").text == "parent\\n"
children = []
for number in range(4):
    child = os.fork()
    if child == 0:
        texts = [sandbox.run(f"echo {number}-{turn}").text for turn in range(20)]
        os._exit(0 if texts == [f"{number}-{turn}\\n" for turn in range(20)] else 1)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert codes == [0] * 4, codes
assert sandbox.run("echo parent").text == "parent\\n"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_workers_use_their_parents_sandbox_over_connections_of_their_own(fake: FakeServer) -> None:
    subprocess.run([sys.executable, "-c", FORKED, fake.url, TOKEN], check=True, timeout=60)
    assert fake.started["echo parent"] == 2
    assert sum(fake.started.values()) == 82
