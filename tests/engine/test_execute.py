"""POST /execute and GET /health with curl, and the routes' own rules as any HTTP client meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remote_env import Sandbox
from remote_env.protocol import EPOCH_HEADER, new_id
from tests.engine.conftest import Http
from tests.support.outside import runs, until
from tests.support.server import BUSYBOX, Server


@pytest.fixture(scope="module")
def default_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a default image, whose long answers begin early."""
    made = Server(
        tmp_path_factory.mktemp("default") / "data", "--default-image", BUSYBOX, "--default-memory", "128MiB", "--keep-alive", "200ms"
    )  # fmt: skip
    try:
        yield made.start()
    finally:
        made.remove_all()


def curl(server: Server, path: str, *options: str) -> tuple[int, str]:
    """Status and body of what the plain curl of the README gets."""
    words = ["curl", "-sS", "-H", f"Authorization: Bearer {server.token}", "-w", "\n%{http_code}", *options, server.url + path]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    content, _, status = out.rpartition("\n")
    return int(status), content


def execute(server: Server, **request: object) -> dict[str, Any]:
    status, content = curl(server, "/execute", "-d", json.dumps(request))
    assert status == 200, content
    answer: dict[str, Any] = json.loads(content)
    return answer


def test_curl_runs_a_command(default_server: Server) -> None:
    answer = execute(default_server, command="echo hello; echo there >&2")
    assert (answer["output"], answer["returncode"], answer["exception_info"]) == ("hello\nthere\n", 0, "")
    assert (answer["extra"]["outcome"], answer["extra"]["ran"]) == ("exited", True)


def test_commands_without_a_sandbox_share_one(default_server: Server) -> None:
    execute(default_server, command="echo kept > /kept")
    assert execute(default_server, command="cat /kept")["output"] == "kept\n"
    assert len(default_server.containers()) == 1


def test_curl_gets_exit_code_directory_and_timeout(default_server: Server) -> None:
    assert execute(default_server, command="pwd; exit 7", cwd="/tmp")["output"] == "/tmp\n"
    assert execute(default_server, command="exit 7")["returncode"] == 7
    late = execute(default_server, command="echo begun; sleep 300", timeout=0.3)
    assert (late["returncode"], late["output"], late["extra"]["outcome"]) == (-1, "begun\n", "timed_out")
    assert "ran" in late["exception_info"]


def test_long_answer_begins_with_white_space_and_is_json(default_server: Server) -> None:
    status, content = curl(default_server, "/execute", "-d", json.dumps({"command": "sleep 1; echo done"}))
    assert (status, content[0], json.loads(content)["output"]) == (200, " ", "done\n")


def test_large_output_is_answered_whole(default_server: Server) -> None:
    answer = execute(default_server, command="yes 0123456789abcde | head -c 1000000")
    assert answer["output"] == "0123456789abcde\n" * 62500


def test_sandbox_can_be_named(server: Server, sandbox: Sandbox) -> None:
    execute(server, command="echo here > /here", sandbox=sandbox.id)
    assert sandbox.run("cat /here").text == "here\n"


def test_id_of_the_caller_makes_it_once(server: Server, sandbox: Sandbox) -> None:
    request = json.dumps({"id": new_id(), "sandbox": sandbox.id, "command": "echo ran | tee -a /ran"})
    assert curl(server, "/execute", "-d", request)[0] == 428
    headers = ("-H", f"{EPOCH_HEADER}: {sandbox.epoch}")
    answers = [curl(server, "/execute", *headers, "-d", request) for _ in range(3)]
    assert [(status, json.loads(content)["output"]) for status, content in answers] == [(200, "ran\n")] * 3
    assert runs(sandbox) == {"ran": 1}
    status, content = curl(server, "/execute", *headers, "-d", request.replace("tee -a", "tee"))
    assert (status, json.loads(content)["code"]) == (422, "id_conflict")


@pytest.mark.parametrize(
    ("request_body", "status", "code"),
    [
        ({"command": "true"}, 422, "invalid"),  # no --default-image here
        ({"command": "true", "sandbox": "no-such-sandbox"}, 404, "not_found"),
        ({"command": ""}, 422, "invalid"),
        ({"command": "true", "cwd": "relative"}, 422, "invalid"),
        ({"command": "true", "timeout": -1}, 422, "invalid"),
        ({"command": "true", "tiemout": 1}, 422, "invalid"),
        ({}, 422, "invalid"),
    ],
)
def test_execute_refuses_what_it_cannot_do_before_it_runs(server: Server, request_body: dict[str, object], status: int, code: str) -> None:
    answered, content = curl(server, "/execute", "-d", json.dumps(request_body))
    problem = json.loads(content)
    assert (answered, problem["code"], problem["accepted"]) == (status, code, False)


def test_health_tells_strangers_that_it_lives_and_nothing_else(server: Server) -> None:
    out = subprocess.run(["curl", "-sS", f"{server.url}/health"], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == {"status": "ok"}


def test_health_tells_the_owner_everything(server: Server) -> None:
    health = json.loads(curl(server, "/health")[1])
    assert (health["status"], health["protocol"]) == ("ok", 1)
    assert health["instance_id"] == (server.data_dir / "instance_id").read_text().strip()
    assert health["engine"]["reachable"] is True
    assert health["capacity"]["max_executions"] == 1024


def test_metrics_count_executions_by_outcome(server: Server, shared: Sandbox) -> None:
    def count() -> float:
        lines = curl(server, "/metrics")[1].splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith('remote_env_executions_total{outcome="exited"}'))

    before = count()
    shared.run("true")
    assert count() == before + 1


# ----------------------------------------------------------------------------------------------------------- the rules


def path_of(sandbox: Sandbox) -> str:
    return f"/v1/sandboxes/{sandbox.id}/executions"


def test_execution_that_ends_within_the_wait_is_201_and_known_is_200(http: Http, sandbox: Sandbox) -> None:
    spec = {"id": new_id(), "command": "echo ran | tee -a /ran"}
    new = http("POST", path_of(sandbox), epoch=sandbox.epoch, wait=20, json=spec)
    assert (new.status_code, new.json()["state"], new.json()["output"]["text"]) == (201, "ended", "ran\n")
    known = http("POST", path_of(sandbox), epoch=sandbox.epoch, wait=20, json=spec)
    assert (known.status_code, known.json()) == (200, new.json())
    assert http("GET", f"/v1/executions/{spec['id']}", epoch=sandbox.epoch).json() == new.json()
    assert runs(sandbox) == {"ran": 1}


def test_execution_that_goes_on_is_202_new_or_known(http: Http, sandbox: Sandbox) -> None:
    spec = {"id": new_id(), "command": "while [ ! -e /go ]; do sleep 0.02; done; echo ran | tee -a /ran"}
    for _ in range(2):
        answer = http("POST", path_of(sandbox), epoch=sandbox.epoch, json=spec)
        assert (answer.status_code, answer.json()["outcome"]) == (202, None)
    assert http("GET", f"/v1/executions/{spec['id']}?wait=0.1", epoch=sandbox.epoch).json()["outcome"] is None
    sandbox.run("touch /go")
    ended = http("GET", f"/v1/executions/{spec['id']}?wait=20", epoch=sandbox.epoch)
    assert (ended.status_code, ended.json()["output"]["text"]) == (200, "ran\n")
    assert runs(sandbox) == {"ran": 1}


def test_epoch_is_required_wherever_an_id_is_the_callers(http: Http, sandbox: Sandbox) -> None:
    execution = sandbox.run("true")
    about = f"/v1/executions/{execution.id}"
    requests: list[tuple[str, str, object]] = [
        ("POST", path_of(sandbox), {"id": new_id(), "command": "echo ran >> /ran"}),
        ("GET", about, None),
        ("GET", f"{about}/output", None),
        ("POST", f"{about}/cancel", None),
        ("POST", f"{about}/abandon", {"sandbox_id": sandbox.id}),
        ("POST", f"{about}/signal", {"signal": 9}),
    ]
    for method, path, content in requests:
        missing = http(method, path, json=content)
        assert (missing.status_code, missing.json()["code"], missing.json()["accepted"]) == (428, "epoch_required", False), path
        other = http(method, path, epoch="0" * 32, json=content)
        assert (other.status_code, other.json()["code"], other.json()["accepted"]) == (412, "epoch_mismatch", False), path
    assert runs(sandbox) == {}


def test_same_id_with_another_body_or_sandbox_is_a_conflict(http: Http, sandbox: Sandbox, shared: Sandbox) -> None:
    spec = {"id": new_id(), "command": "echo ran >> /ran"}
    assert http("POST", path_of(sandbox), epoch=sandbox.epoch, wait=20, json=spec).status_code == 201
    for change in ({"command": "echo other >> /ran"}, {"timeout_s": 5}, {"env": {"A": "b"}}, {"stdin": ""}):
        answer = http("POST", path_of(sandbox), epoch=sandbox.epoch, json={**spec, **change})
        assert (answer.status_code, answer.json()["code"], answer.json()["id"]) == (422, "id_conflict", spec["id"])
    assert http("POST", path_of(shared), epoch=shared.epoch, json=spec).status_code == 412
    assert runs(sandbox) == {"ran": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"command": None}, {"argv": ["true"]}, {"timeout_s": 0}, {"timeout_s": "soon"}, {"unknown_field": 1}, {"id": "short"},
        {"workdir": "relative"}, {"env": {"A=B": "c"}}, {"stdin_base64": "no base64!"}, {"stdin": "a", "stdin_base64": "YQ=="},
        {"command": "nul \0 inside"}, {"streams": "both"}, {"output_limit_bytes": 1},
    ],
)  # fmt: skip
def test_invalid_execution_is_refused_and_named(http: Http, shared: Sandbox, change: dict[str, object]) -> None:
    answer = http("POST", path_of(shared), epoch=shared.epoch, json={"id": new_id(), "command": "true", **change})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["accepted"]) == (422, "invalid", False)
    assert next(iter(change)) in problem["detail"] or "command" in problem["detail"] or "stdin" in problem["detail"]


def test_every_answer_is_marked_as_ours(http: Http, shared: Sandbox) -> None:
    for path in ("/health", "/v1/sandboxes", "/no/such/path", "/v1/executions/no-such-execution"):
        answer = http("GET", path, epoch=shared.epoch)
        assert answer.headers["X-Remote-Env-Protocol"] == "1", path
        if answer.status_code >= 400:
            assert answer.headers["Content-Type"].startswith("application/problem+json"), path
            assert answer.json()["status"] == answer.status_code


def test_unknown_things_are_404_and_wrong_methods_405(http: Http, shared: Sandbox) -> None:
    assert http("GET", "/v1/executions/no-such-execution", epoch=shared.epoch).json()["code"] == "not_found"
    assert http("GET", "/v1/sandboxes/no-such-sandbox").json()["code"] == "not_found"
    spec = {"id": new_id(), "command": "true"}
    assert http("POST", "/v1/sandboxes/no-such-sandbox/executions", epoch="0" * 32, json=spec).json()["code"] == "not_found"
    assert http("PUT", "/v1/sandboxes", json={}).json()["code"] == "method_not_allowed"


def test_command_for_a_removed_sandbox_is_410(http: Http, sandbox: Sandbox) -> None:
    sandbox.remove()
    answer = http("POST", path_of(sandbox), epoch=sandbox.epoch, json={"id": new_id(), "command": "true"})
    assert (answer.status_code, answer.json()["code"], answer.json()["accepted"]) == (410, "gone", False)


def test_command_for_a_sandbox_being_made_is_409(http: Http) -> None:
    sid = new_id()
    made = http("POST", "/v1/sandboxes", json={"id": sid, "image": BUSYBOX, "run_id": new_id(), "memory_bytes": 128 << 20})
    assert (made.status_code, made.json()["state"]) == (202, "creating")
    early = http("POST", f"/v1/sandboxes/{sid}/executions", epoch="0" * 32, json={"id": new_id(), "command": "true"})
    assert (early.status_code, early.json()["code"], early.json()["accepted"]) == (409, "wrong_state", False)
    assert http("GET", f"/v1/sandboxes/{sid}?wait=30").json()["state"] == "running"
    http("DELETE", f"/v1/sandboxes/{sid}", wait=30)


def test_cancel_and_signal_answer_as_the_execution_stands(http: Http, sandbox: Sandbox) -> None:
    execution = sandbox.start("echo begun; sleep 300", grace_s=0)
    until(lambda: execution.refresh().record.output.total_bytes, "it runs")
    about = f"/v1/executions/{execution.id}"
    first = http("POST", f"{about}/cancel", epoch=execution.epoch)
    assert (first.status_code, first.json()["cancelling"]) == (202, True)
    execution.wait()
    assert http("POST", f"{about}/cancel", epoch=execution.epoch).status_code == 200
    over = http("POST", f"{about}/signal", epoch=execution.epoch, json={"signal": 15})
    assert (over.status_code, over.json()["code"]) == (409, "wrong_state")


def test_executions_are_listed_newest_first_without_their_text(http: Http, sandbox: Sandbox) -> None:
    ids = [sandbox.run(f"echo {number}").id for number in range(3)]
    running = sandbox.start("sleep 300", grace_s=0)

    def listed(query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = http("GET", f"/v1/executions?sandbox_id={sandbox.id}&{query}").json()["executions"]
        return found

    assert [each["id"] for each in listed("")] == [running.id, *reversed(ids)]
    assert [each["id"] for each in listed("state=ended&limit=2")] == [ids[2], ids[1]]
    assert [each["id"] for each in listed("state=running")] == [running.id]
    assert all(each["output"]["text"] is None and each["output"]["total_bytes"] == 2 for each in listed("state=ended"))
    running.cancel().wait()


def test_server_starts_without_home_and_with_its_streams_closed(make_server: Callable[..., Server]) -> None:
    server = make_server()
    closed = ["env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    serve = [sys.executable, *server.program, "serve", "--port", str(server.port), "--data-dir", str(server.data_dir)]
    server.process = subprocess.Popen([*closed, *serve], cwd=Path(__file__).parents[2])
    health = ["curl", "-sf", f"{server.url}/health"]
    until(lambda: subprocess.run(health, capture_output=True, check=False).returncode == 0, "it answers")
    assert server.stop() == 0
