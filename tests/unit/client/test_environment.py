"""What an agent harness sees: a dict for whatever happens to a command."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from remote_env import Client, RemoteDockerEnvironment
from remote_env.errors import InvalidSpec, SandboxGone, Unreachable
from remote_env.protocol import Outcome
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, TOKEN, FakeServer, Fault, pattern_bytes, refusal

START = r"/v1/sandboxes/[^/]+/executions$"
BIG = 1 << 20


@pytest.fixture
def env(fake: FakeServer) -> Iterator[RemoteDockerEnvironment]:
    with RemoteDockerEnvironment("image", fake.url, TOKEN, timings=FAST) as made:
        yield made


def last_spec(fake: FakeServer) -> dict[str, object]:
    return fake.seen("POST", START)[-1].json()


def state_of(fake: FakeServer, environment: RemoteDockerEnvironment) -> str:
    return fake.sandboxes[environment.sandbox.id].state


def test_a_command_answers_with_output_and_returncode(fake: FakeServer, env: RemoteDockerEnvironment) -> None:
    answer = env.execute("echo hello")
    assert answer.keys() == {"output", "returncode", "exception_info", "extra"}
    assert (answer["output"], answer["returncode"], answer["exception_info"]) == ("hello\n", 0, "")
    assert answer["extra"]["ran"] is True
    assert answer["extra"]["outcome"] == "exited"
    assert answer["extra"]["execution_id"] in fake.executions
    assert env.execute({"command": "false"})["returncode"] == 1
    assert env.execute(["echo", "argv"])["output"] == "argv\n"


def test_the_sandbox_is_made_at_once_and_removed_by_close(fake: FakeServer) -> None:
    env = RemoteDockerEnvironment("image", fake.url, TOKEN, timings=FAST, env={"A": "1"}, memory_bytes=1 << 28)
    (create,) = fake.seen("POST", "/v1/sandboxes$")
    assert (create.json()["env"], create.json()["memory_bytes"]) == ({"A": "1"}, 1 << 28)
    assert env.container_id == f"container-of-{env.sandbox.id}"
    env.close()
    env.close()
    assert state_of(fake, env) == "removed"
    with pytest.raises(SandboxGone, match="closed"):
        env.execute("true")


def test_cwd_and_timeout_reach_the_command(fake: FakeServer) -> None:
    with RemoteDockerEnvironment("image", fake.url, TOKEN, timings=FAST, cwd="/work", timeout=60) as env:
        env.execute("true")
        assert (last_spec(fake)["workdir"], last_spec(fake)["timeout_s"]) == ("/work", 60)
        env.execute("true", "/elsewhere", timeout=5)
        assert (last_spec(fake)["workdir"], last_spec(fake)["timeout_s"]) == ("/elsewhere", 5)
        env.execute("true", cwd="below")
        assert last_spec(fake)["workdir"] == "/work/below"


def test_without_cwd_the_sandbox_decides(fake: FakeServer, env: RemoteDockerEnvironment) -> None:
    env.execute("true")
    assert "workdir" not in last_spec(fake)


def test_a_command_that_was_not_delivered_is_a_dict_that_says_so(fake: FakeServer, env: RemoteDockerEnvironment) -> None:
    fake.on("POST", START, CUT_BEFORE)
    answer = env.execute("touch x")
    assert (answer["output"], answer["returncode"]) == ("", -1)
    assert "did not run" in answer["exception_info"]
    assert (answer["extra"]["ran"], answer["extra"]["error"]) == (False, "CommandNotDelivered")
    assert not fake.started


def test_redeliver_can_be_asked_for_the_whole_environment(fake: FakeServer) -> None:
    with RemoteDockerEnvironment("image", fake.url, TOKEN, timings=FAST, on_undelivered="redeliver") as env:
        fake.on("POST", START, CUT_BEFORE)
        answer = env.execute("touch x")
        assert (answer["returncode"], answer["extra"]["attempts"]) == (0, 2)


def test_an_unknown_outcome_is_a_dict_that_says_so(fake: FakeServer) -> None:
    with RemoteDockerEnvironment("image", fake.url, TOKEN, timings=replace(FAST, reconnect_budget_s=0.05)) as env:
        fake.on("POST", START, CUT_AFTER)
        fake.on("GET", r"/v1/executions/", *[CUT_BEFORE] * 1000)
        answer = env.execute("touch x")
        assert answer["returncode"] == -1
        assert answer["extra"]["ran"] == "unknown"
        assert answer["extra"]["execution_id"] in fake.executions
        assert "do not send it again" in answer["exception_info"]


def test_a_result_whose_output_is_lost_says_that_it_ran(fake: FakeServer, env: RemoteDockerEnvironment) -> None:
    fake.on("GET", "/output$", refusal("gone"))
    answer = env.execute(f"flood {BIG}")
    assert (answer["returncode"], answer["extra"]["ran"], answer["extra"]["outcome"]) == (-1, True, "exited")
    assert "purged" in answer["exception_info"]


def test_big_output_is_whole(env: RemoteDockerEnvironment) -> None:
    assert env.execute(f"flood {BIG}")["output"].encode() == pattern_bytes(BIG)


@pytest.mark.parametrize(
    ("outcome", "returncode"),
    [
        (Outcome(kind="exited", ran=True, code=42), 42),
        (Outcome(kind="signalled", ran=True, signal=11), 139),
        (Outcome(kind="oom", ran=True), 137),
        (Outcome(kind="timed_out", ran=True, clock="total"), -1),
        (Outcome(kind="cancelled", ran=True), -1),
        (Outcome(kind="failed_to_start", ran=False, reason="not_found"), 127),
        (Outcome(kind="lost", ran="unknown", reason="host_restarted"), -1),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_each_end_has_its_returncode_and_a_sentence_only_where_there_is_none(
    fake: FakeServer, env: RemoteDockerEnvironment, outcome: Outcome, returncode: int
) -> None:
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(env.execute, "hang")
        fake.wait_until(lambda: fake.executions)
        fake.finish(next(iter(fake.executions)), outcome, b"so far")
        answer = running.result()
    assert (answer["output"], answer["returncode"], answer["extra"]["ran"]) == ("so far", returncode, outcome.ran)
    assert bool(answer["exception_info"]) == (returncode == -1)


def test_a_dead_sandbox_is_reported_once_and_raised_from_then_on(fake: FakeServer, env: RemoteDockerEnvironment) -> None:
    """An agent must not burn tokens on a corpse."""
    fake.sandboxes[env.sandbox.id] = fake.sandboxes[env.sandbox.id].model_copy(update={"state": "dead"})
    answer = env.execute("true")
    assert (answer["returncode"], answer["extra"]["error"]) == (-1, "SandboxGone")
    with pytest.raises(SandboxGone):
        env.execute("true")


def test_a_sandbox_that_died_under_a_command_is_raised_from_the_next_call_on(fake: FakeServer, env: RemoteDockerEnvironment) -> None:
    def die(body: bytes) -> bytes:
        fake.sandboxes[env.sandbox.id] = fake.sandboxes[env.sandbox.id].model_copy(update={"state": "dead"})
        execution_id = next(iter(fake.executions))
        fake.finish(execution_id, Outcome(kind="lost", ran=True, reason="sandbox_died"))
        return fake.executions[execution_id].record.model_dump_json().encode()

    fake.on("POST", START, Fault(change=die))
    assert env.execute("touch x")["extra"]["outcome"] == "lost"
    with pytest.raises(SandboxGone):
        env.execute("touch x")


def test_a_restarted_sandbox_is_reported_once_and_raised_from_then_on(fake: FakeServer, env: RemoteDockerEnvironment) -> None:
    fake.restart_sandbox(env.sandbox.id)
    assert env.execute("true")["extra"]["error"] == "EpochChanged"
    with pytest.raises(SandboxGone):
        env.execute("true")


def test_a_wrong_call_raises(env: RemoteDockerEnvironment) -> None:
    with pytest.raises(InvalidSpec):
        env.execute("true", timeout=-1)
    with pytest.raises(InvalidSpec):
        env.execute(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidSpec):
        env.execute({"cmd": "true"})


def test_a_server_that_is_not_there_is_told_by_the_constructor() -> None:
    before = threading.active_count()
    with pytest.raises(Unreachable):
        RemoteDockerEnvironment("image", "http://127.0.0.1:9", TOKEN, timings=FAST)
    assert threading.active_count() == before


def test_environments_can_share_a_client_which_outlives_them(fake: FakeServer, client: Client) -> None:
    with (
        RemoteDockerEnvironment("image", client=client) as one,
        RemoteDockerEnvironment("image", client=client, run_id="run-number-2") as two,
    ):
        assert one.execute("true")["returncode"] == two.execute("true")["returncode"] == 0
    assert {sandbox.run_id for sandbox in fake.sandboxes.values()} == {client.run_id, "run-number-2"}
    assert client.health().status == "ok"
    with pytest.raises(InvalidSpec, match="shared client"):
        RemoteDockerEnvironment("image", fake.url, client=client)


def test_threads_share_an_environment_over_a_bounded_pool(fake: FakeServer, env: RemoteDockerEnvironment) -> None:
    with ThreadPoolExecutor(8) as threads:
        outputs = list(threads.map(lambda number: env.execute(f"echo {number}")["output"], range(200)))
    assert outputs == [f"{number}\n" for number in range(200)]
    assert env.client.stats()["connections_opened"] <= 10
    assert sum(fake.started.values()) == 200


def test_an_environment_that_was_dropped_removes_its_sandbox(fake: FakeServer) -> None:
    env = RemoteDockerEnvironment("image", fake.url, TOKEN, timings=FAST)
    sandbox_id = env.sandbox.id
    del env
    gc.collect()
    fake.wait_until(lambda: fake.sandboxes[sandbox_id].state == "removed")


SCRIPT = """
import os, sys
from remote_env import RemoteDockerEnvironment
env = RemoteDockerEnvironment("image", sys.argv[1], sys.argv[2])
if sys.argv[3] == "fork" and os.fork() == 0:
    env.execute("echo child")
    env.close()
    sys.exit(0)
if sys.argv[3] == "fork":
    os.wait()
    assert env.execute("echo parent")["output"] == "parent\\n"
if sys.argv[3] == "crash":
    raise RuntimeError("as programs do")
"""


@pytest.mark.parametrize("ending", ["exit", "crash"])
def test_the_end_of_the_process_removes_the_sandbox(fake: FakeServer, ending: str) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, fake.url, TOKEN, ending], timeout=60, capture_output=True)
    assert [sandbox.state for sandbox in fake.sandboxes.values()] == ["removed"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_its_parents_sandbox_alone(fake: FakeServer) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, fake.url, TOKEN, "fork"], check=True, timeout=60)
    assert fake.started == {"echo child": 1, "echo parent": 1}
    assert len(fake.seen("DELETE", "/v1/sandboxes/")) == 1


def test_close_does_not_wait_for_ever_for_a_server_that_is_gone(fake: FakeServer) -> None:
    env = RemoteDockerEnvironment("image", fake.url, TOKEN, timings=replace(FAST, farewell_s=0.05))
    fake.on("DELETE", "/v1/sandboxes/", *[CUT_BEFORE] * 1000)
    env.close()
    assert state_of(fake, env) == "running", "its lease will end it"
