"""POST /execute: one call, the same path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from remote_env.protocol import EPOCH_HEADER, Outcome, new_id
from server.settings import Settings
from tests.unit.server.fakes import EPOCH, OTHER_EPOCH, SANDBOX
from tests.unit.server.harness import RunningServer, assert_problem


@pytest.fixture
def impatient() -> Iterator[RunningServer]:
    running = RunningServer(Settings(port=0, keep_alive_s=0.01))
    yield running
    running.stop()


def test_answer_is_the_contracts_dict(server: RunningServer) -> None:
    reply = server.request("POST", "/execute", {"command": "echo", "sandbox": SANDBOX, "cwd": "/tmp", "timeout": 5})
    answer = reply.json()
    assert (reply.status, answer["output"], answer["returncode"], answer["exception_info"]) == (200, "echo", 0, "")
    (spec,) = server.services.specs.values()
    assert (spec.id, spec.workdir, spec.timeout_s) == (answer["extra"]["execution_id"], "/tmp", 5)
    assert (answer["extra"]["outcome"], answer["extra"]["ran"]) == ("exited", True)


def test_without_sandbox_the_default_one_is_used_or_it_says_how_to_get_one(server: RunningServer) -> None:
    refusal = assert_problem(server.request("POST", "/execute", {"command": "true"}), "invalid")
    assert "--default-image" in refusal["detail"]
    server.services.default = (SANDBOX, EPOCH)
    assert server.request("POST", "/execute", {"command": "true"}).json()["extra"]["sandbox_id"] == SANDBOX


def test_id_of_the_callers_own_needs_the_epoch_and_runs_once(server: RunningServer) -> None:
    body = {"command": "true", "sandbox": SANDBOX, "id": new_id()}
    assert_problem(server.request("POST", "/execute", body), "epoch_required", id=body["id"])
    assert_problem(server.request("POST", "/execute", body, {EPOCH_HEADER: OTHER_EPOCH}), "epoch_mismatch", id=body["id"])
    first, again = (server.post("/execute", body) for _ in range(2))
    assert first.json() == again.json()
    assert server.services.starts == 1


def test_refusals_come_with_their_own_status_before_anything_runs(server: RunningServer) -> None:
    assert_problem(server.request("POST", "/execute", {"command": "true", "sandbox": SANDBOX, "cwd": "tmp"}), "invalid")
    assert_problem(server.request("POST", "/execute", {"command": "true", "sandbox": "no-such-sandbox"}), "not_found")
    assert_problem(server.request("POST", "/execute", {"cmd": "true"}), "invalid")
    assert_problem(server.request("POST", "/execute", {"command": "busy", "sandbox": SANDBOX}), "capacity")
    assert server.services.starts == 0


def test_long_command_is_kept_alive_by_white_space_before_the_json(impatient: RunningServer) -> None:
    posting = impatient.in_background("POST", "/execute", {"command": "hang", "sandbox": SANDBOX})
    impatient.do(impatient.services.waiting(4))
    (eid,) = impatient.services.executions
    impatient.do(impatient.services.write(eid, b"done"))
    impatient.do(impatient.services.finish(eid, Outcome(kind="exited", code=3, ran=True)))
    reply = posting.reply()
    assert reply.body.startswith(b"  ")
    assert (reply.status, reply.json()["returncode"], reply.json()["output"]) == (200, 3, "done")


def test_stopping_server_says_that_the_command_goes_on(impatient: RunningServer) -> None:
    posting = impatient.in_background("POST", "/execute", {"command": "hang", "sandbox": SANDBOX})
    impatient.do(impatient.services.waiting(2))
    impatient.loop.call_soon_threadsafe(impatient.lifetime.stop)
    answer = posting.reply().json()
    (eid,) = impatient.services.executions
    assert (answer["returncode"], answer["extra"]["ran"], answer["extra"]["outcome"]) == (-1, True, None)
    assert eid in answer["exception_info"]
