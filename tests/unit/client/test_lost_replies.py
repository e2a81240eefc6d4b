"""Requests and answers that get lost: what the caller is told, and how often the command was started."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from remote_env import Client, Sandbox
from remote_env.errors import (
    CommandFailed,
    CommandLost,
    CommandNotDelivered,
    EpochChanged,
    InvalidSpec,
    LinkLost,
    OutcomeUnknownError,
    ProtocolMismatch,
    SandboxGone,
    ServerBusy,
    Unauthorized,
    Unreachable,
)
from remote_env.protocol import Outcome
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, TOKEN, FakeServer, Fault, refusal

BOTH_FACES = True

START = r"/v1/sandboxes/[^/]+/executions$"
SHOW = r"/v1/executions/[^/]+$"
ABANDON = r"/abandon$"


def change(**fields: object) -> Fault:
    return Fault(change=lambda body: json.dumps({**json.loads(body), **fields}).encode())


def proxy_page(status: int) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "text/html"}, b"<html><body>Bad Gateway</body></html>"


def test_a_command_is_one_request(fake: FakeServer, sandbox: Sandbox) -> None:
    before = len(fake.requests)
    execution = sandbox.run("echo hello")
    assert (execution.returncode, execution.output(), execution.text) == (0, b"hello\n", "hello\n")
    assert [request.method for request in fake.requests[before:]] == ["POST"]
    assert fake.seen("POST", START)[0].headers["x-remote-env-epoch"] == sandbox.epoch


LOST_ANSWERS = {
    "connection cut": CUT_AFTER,
    "proxy's 502 page": Fault(arrives=True, answer=proxy_page(502)),
    "proxy's 503 page": Fault(arrives=True, answer=proxy_page(503)),
    "bare 500": Fault(arrives=True, answer=(500, {}, b"")),
    "somebody's JSON": Fault(arrives=True, answer=(200, {"Content-Type": "application/json"}, b'{"ok": true}')),
    "success with nothing in it": Fault(arrives=True, answer=(200, {"X-Remote-Env-Protocol": "1"}, b"")),
    "redirect": Fault(arrives=True, answer=(307, {"Location": "/v1/sandboxes"}, b"")),
    "half a JSON": Fault(change=lambda body: body[: len(body) // 2]),
    "body shorter than its length": Fault(arrives=True, answer=(200, {"X-Remote-Env-Protocol": "1", "Content-Length": "900"}, b"{")),
    "another execution": change(id="another-execution"),
    "another epoch": change(epoch="another-epoch"),
    "our own 500, fate unknown": replace(refusal("commit_failed"), arrives=True),
}


@pytest.mark.parametrize("fault", LOST_ANSWERS.values(), ids=LOST_ANSWERS.keys())
def test_an_answer_lost_after_delivery_is_fetched_by_id_and_the_post_was_sent_once(
    fake: FakeServer, client: Client, sandbox: Sandbox, fault: Fault
) -> None:
    fake.on("POST", START, fault)
    execution = sandbox.run("echo once")
    assert execution.text == "once\n"
    assert len(fake.seen("POST", START)) == 1
    assert fake.started["echo once"] == 1
    assert client.stats()["reattached"] == 1
    assert client.stats()["completed"] == 1


@pytest.mark.parametrize(
    "fault", [CUT_BEFORE, Fault(answer=proxy_page(502)), Fault(answer=(404, {}, b"no such host"))], ids=["cut", "502", "404 of a proxy"]
)
def test_a_request_lost_before_delivery_is_fenced_and_told_as_not_delivered(
    fake: FakeServer, client: Client, sandbox: Sandbox, fault: Fault
) -> None:
    fake.on("POST", START, fault)
    with pytest.raises(CommandNotDelivered) as raised:
        sandbox.run("touch x")
    assert len(fake.seen("POST", START)) == 1
    assert not fake.started
    assert raised.value.execution_id is not None
    assert fake.executions[raised.value.execution_id].record.state == "abandoned"
    assert client.stats()["not_delivered"] == 1


def test_a_late_copy_of_a_fenced_request_starts_nothing(fake: FakeServer, sandbox: Sandbox) -> None:
    """The first copy hangs in a proxy, the client gives it up, and then the proxy delivers it."""
    fake.on("POST", START, CUT_BEFORE)
    with pytest.raises(CommandNotDelivered):
        sandbox.run("touch x")
    late = fake.seen("POST", START)[0]
    status, _, _ = fake.handle(late)
    assert status == 200
    assert not fake.started


@pytest.mark.parametrize("learnt", ["from the answer", "before"])
def test_of_a_given_id_it_is_never_said_that_it_did_not_run_where_its_sandbox_is_gone(
    fake: FakeServer, sandbox: Sandbox, learnt: str
) -> None:
    """A client that was killed may have sent it while the sandbox lived. Of a command of its own this client knows better."""
    fake.on("POST", START, refusal("gone"))
    if learnt == "before":
        sandbox.mark_gone("its lease ran out")
    with pytest.raises(OutcomeUnknownError):
        sandbox.run("touch x", id="sent-by-another")
    fake.on("POST", START, refusal("gone"))
    with pytest.raises(SandboxGone):
        sandbox.run("touch x")


def test_redeliver_sends_once_more_under_a_new_id(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_BEFORE)
    execution = sandbox.run("touch x", on_undelivered="redeliver")
    posts = [request.json()["id"] for request in fake.seen("POST", START)]
    assert len(set(posts)) == 2
    assert execution.id == posts[1]
    assert execution.attempts == 2
    assert fake.started["touch x"] == 1
    assert client.stats()["redelivered"] == 1


def test_redeliver_is_done_once(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_BEFORE, CUT_BEFORE)
    with pytest.raises(CommandNotDelivered):
        sandbox.run("touch x", on_undelivered="redeliver")
    assert len(fake.seen("POST", START)) == 2


def test_a_lost_answer_to_the_fence_is_asked_for_again(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_BEFORE)
    fake.on("POST", ABANDON, CUT_BEFORE, CUT_AFTER)
    with pytest.raises(CommandNotDelivered):
        sandbox.run("touch x")
    assert len(fake.seen("POST", ABANDON)) == 3


def test_a_command_that_arrives_just_before_its_fence_is_waited_for(fake: FakeServer, sandbox: Sandbox) -> None:
    """The GET overtakes the POST: the server does not know the id yet, a moment later it does."""
    late: list[Callable[[], None]] = []

    def deliver_late() -> None:
        late.append(lambda: None)
        fake.handle(fake.seen("POST", START)[0])

    fake.on("POST", START, CUT_BEFORE)
    fake.on("POST", ABANDON, Fault(arrives=True, answer=None, before=deliver_late))
    execution = sandbox.run("echo late")
    assert late
    assert execution.text == "late\n"
    assert fake.started["echo late"] == 1


def test_a_fence_that_the_server_refuses_leaves_the_outcome_unknown(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_BEFORE)
    fake.on("POST", ABANDON, refusal("gone"))
    with pytest.raises(OutcomeUnknownError) as raised:
        sandbox.run("touch x")
    assert raised.value.execution_id
    assert raised.value.sandbox_id == sandbox.id


def test_another_epoch_at_the_fence_is_epoch_changed(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, replace(CUT_BEFORE, before=lambda: fake.restart_sandbox(sandbox.id)))
    with pytest.raises(EpochChanged):
        sandbox.run("touch x")


def test_no_answer_within_the_reconnect_budget_is_link_lost_and_the_result_waits(fake: FakeServer) -> None:
    with Client(fake.url, TOKEN, timings=replace(FAST, reconnect_budget_s=0.1)) as client:
        sandbox = client.create_sandbox("image")
        fake.on("POST", START, CUT_AFTER)
        fake.on("GET", SHOW, *[CUT_BEFORE] * 1000)
        with pytest.raises(LinkLost) as raised:
            sandbox.run("echo kept")
    with Client(fake.url, TOKEN, timings=FAST) as later:
        fake._faults.clear()
        assert raised.value.execution_id is not None
        assert later.execution(raised.value.execution_id).wait().text == "kept\n"
    assert fake.started["echo kept"] == 1


def test_the_calls_deadline_ends_the_call_and_not_the_command(fake: FakeServer) -> None:
    with Client(fake.url, TOKEN, timings=replace(FAST, minimum_call_s=0.05, call_margin_s=0.0)) as client:
        sandbox = client.create_sandbox("image")
        with pytest.raises(OutcomeUnknownError, match="not cancelled") as raised:
            sandbox.run("hang", timeout_s=0.05)
        assert raised.value.execution_id is not None
        assert fake.executions[raised.value.execution_id].record.state == "running"
        assert client.stats()["timed_out"] == 1


def test_a_long_command_is_long_polled_in_slices(fake: FakeServer, sandbox: Sandbox) -> None:
    done = threading.Event()

    def finish_after_three_slices() -> None:
        fake.wait_until(lambda: sum(request.method == "GET" for request in fake.requests) >= 3)
        fake.finish(next(iter(fake.executions)), Outcome(kind="exited", ran=True, code=3))
        done.set()

    thread = threading.Thread(target=finish_after_three_slices)
    thread.start()
    assert sandbox.run("hang").returncode == 3
    thread.join()
    assert done.is_set()
    assert {request.query["wait"] for request in fake.seen("GET", SHOW)} == {"0.100"}


@pytest.mark.parametrize("code", ["capacity", "disk_full", "stopping", "engine_unavailable", "too_many"])
def test_not_taken_for_now_is_sent_again_with_the_same_id(fake: FakeServer, client: Client, sandbox: Sandbox, code: str) -> None:
    fake.on("POST", START, refusal(code), refusal(code))
    assert sandbox.run("echo x").text == "x\n"
    ids = [request.json()["id"] for request in fake.seen("POST", START)]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert fake.started["echo x"] == 1


def test_not_taken_until_the_queue_timeout_is_fenced_and_told_as_busy(fake: FakeServer) -> None:
    with Client(fake.url, TOKEN, timings=replace(FAST, queue_s=0.05)) as client:
        sandbox = client.create_sandbox("image")
        fake.on("POST", START, *[refusal("capacity", retry_after_s=0.01)] * 100)
        with pytest.raises(ServerBusy) as raised:
            sandbox.run("touch x")
        assert fake.executions[str(raised.value.execution_id)].record.state == "abandoned"
        assert not fake.started


def test_a_refused_token_is_read_again_from_its_file(fake: FakeServer, tmp_path: object) -> None:
    path = f"{tmp_path}/token"
    with open(path, "w") as file:
        file.write(TOKEN + "\n")
    with Client(fake.url, token_file=path, timings=FAST) as client:
        sandbox = client.create_sandbox("image")
        fake.token = "rotated"
        with open(path, "w") as file:
            file.write("rotated\n")
        assert sandbox.run("echo x").text == "x\n"
        assert fake.started["echo x"] == 1


def test_a_refused_token_with_no_other_is_unauthorized_at_once(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.token = "another"
    with pytest.raises(Unauthorized):
        sandbox.run("touch x")
    assert len(fake.seen("POST", START)) == 1


def test_a_token_refused_while_a_command_runs_does_not_cost_its_result(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_AFTER)
    fake.on("GET", SHOW, refusal("unauthorized"))
    assert sandbox.run("echo x").text == "x\n"


def test_another_protocol_is_told_as_such(fake: FakeServer, client: Client) -> None:
    fake.on("POST", "/v1/sandboxes$", Fault(answer=(201, {"X-Remote-Env-Protocol": "2"}, b"{}")))
    with pytest.raises(ProtocolMismatch, match="'2'"):
        client.create_sandbox("image")


def test_another_protocol_after_the_command_was_sent_leaves_it_unknown(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, Fault(arrives=True, answer=(201, {"X-Remote-Env-Protocol": "2"}, b"{}")))
    with pytest.raises(OutcomeUnknownError, match="'2'"):
        sandbox.run("touch x")


def test_a_removed_sandbox_is_gone_and_the_next_call_does_not_even_ask(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    client.sandbox(sandbox.id).remove()
    with pytest.raises(SandboxGone):
        sandbox.run("touch x")
    posts = len(fake.seen("POST", START))
    with pytest.raises(SandboxGone):
        sandbox.run("touch x")
    assert len(fake.seen("POST", START)) == posts


def test_a_restarted_sandbox_gets_no_command_meant_for_its_former_life(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.restart_sandbox(sandbox.id)
    with pytest.raises(EpochChanged):
        sandbox.run("touch x")
    assert not fake.started


def test_a_server_that_is_not_there_is_unreachable_with_what_to_do() -> None:
    with Client("http://127.0.0.1:9", TOKEN, timings=FAST) as client, pytest.raises(Unreachable, match="remote-env serve"):
        client.create_sandbox("image")


# ------------------------------------------------------------------------------------------------ commands that only read


def test_a_read_that_was_not_delivered_runs_as_a_new_execution(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_BEFORE, CUT_BEFORE)
    execution = sandbox.run("cat /etc/hosts")
    assert execution.attempts == 3
    assert len({request.json()["id"] for request in fake.seen("POST", START)}) == 3


def test_a_read_is_run_again_three_times_at_most(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, *[CUT_BEFORE] * 10)
    with pytest.raises(CommandNotDelivered):
        sandbox.run("cat /etc/hosts")
    assert len(fake.seen("POST", START)) == 4


def test_idempotent_false_forbids_running_a_read_again(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_BEFORE)
    with pytest.raises(CommandNotDelivered):
        sandbox.run("cat /etc/hosts", idempotent=False)
    assert len(fake.seen("POST", START)) == 1


def test_idempotent_true_allows_it_for_any_command(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, CUT_BEFORE)
    assert sandbox.run("make -q", idempotent=True).attempts == 2


def lost(body: bytes) -> bytes:
    outcome = {"kind": "lost", "ran": "unknown", "reason": "init_unreachable"}
    return json.dumps({**json.loads(body), "state": "ended", "outcome": outcome}).encode()


def test_a_read_lost_while_its_sandbox_lives_runs_again(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, Fault(change=lost))
    execution = sandbox.run("ls -la")
    assert (execution.returncode, execution.attempts) == (0, 2)


def test_a_read_lost_with_its_sandbox_stays_lost(fake: FakeServer, sandbox: Sandbox) -> None:
    def die() -> None:
        fake.sandboxes[sandbox.id] = fake.sandboxes[sandbox.id].model_copy(update={"state": "dead", "reason": "sandbox_died"})

    fake.on("POST", START, Fault(change=lambda body: (die(), lost(body))[1]))
    execution = sandbox.run("ls -la")
    assert execution.outcome is not None
    assert execution.outcome.kind == "lost"
    assert sandbox.gone == "sandbox_died"


def test_any_other_command_that_was_lost_is_never_run_again(fake: FakeServer, sandbox: Sandbox) -> None:
    fake.on("POST", START, Fault(change=lost))
    with pytest.raises(CommandLost):
        sandbox.run("touch x", check=True)
    assert fake.started["touch x"] == 1


# ------------------------------------------------------------------------------------------------------------ misuse, logs


def test_check_raises_for_an_exit_code_other_than_0(sandbox: Sandbox) -> None:
    assert sandbox.run("true", check=True).returncode == 0
    with pytest.raises(CommandFailed, match="code 1"):
        sandbox.run("false", check=True)


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        ("true", {"timeout": 3}, "timeout"),
        ("true", {"timeout_s": -1}, "timeout_s"),
        ("true", {"workdir": "relative"}, "workdir"),
        ("", {}, "command"),
        ([], {}, "argv"),
        (b"true", {}, "bytes"),
        ("true", {"env": {"A=B": "secret-value"}}, "env"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_sent(
    fake: FakeServer, sandbox: Sandbox, command: object, options: dict[str, object], named: str
) -> None:
    with pytest.raises(InvalidSpec, match=named) as raised:
        sandbox.run(command, **options)  # type: ignore[arg-type]
    assert "secret-value" not in str(raised.value)
    assert not fake.seen("POST", START)


def test_what_is_given_up_is_logged_with_ids_and_never_with_the_token(
    fake: FakeServer, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    fake.on("POST", START, CUT_BEFORE)
    with caplog.at_level(logging.DEBUG), pytest.raises(CommandNotDelivered) as raised:
        sandbox.run("touch x")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name == "remote_env")
    assert f"execution {raised.value.execution_id} in sandbox {sandbox.id}" in ours
    assert "asking for it by its id" in ours
    assert "abandoning it" in ours
    assert TOKEN not in caplog.text


def test_a_known_id_with_another_body_is_never_sent(fake: FakeServer, sandbox: Sandbox) -> None:
    """Ids are fresh for each call, so two equal commands are two executions."""
    first, second = sandbox.run("echo x"), sandbox.run("echo x")
    assert first.id != second.id
    assert fake.started["echo x"] == 2
