"""Every answer says which server it is of and, where it is about one execution, which: in headers that no body can belie."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPMessage

import pytest

from remote_env.protocol import EPOCH_HEADER, new_id
from tests.unit.server.fakes import EPOCH, OTHER_EPOCH, SANDBOX
from tests.unit.server.harness import Reply, RunningServer, assert_problem

RUN_COMMAND = f"/v1/sandboxes/{SANDBOX}/executions"


def about(headers: HTTPMessage) -> tuple[str | None, str | None, str | None]:
    return headers["X-Remote-Env-Execution"], headers["X-Remote-Env-Sandbox"], headers["X-Remote-Env-Epoch"]


def start(server: RunningServer, command: str = "hang", *, wait: str = "wait=0") -> tuple[str, Reply]:
    eid = new_id()
    return eid, server.post(RUN_COMMAND, {"id": eid, "command": command}, Prefer=wait)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("GET", "", None, {}),
        ("GET", "?wait=0.001", None, {}),
        ("GET", "/output", None, {}),
        ("GET", "/output", None, {"Range": "bytes=0-0"}),
        ("GET", "/output?wait=0.001", None, {"Range": "bytes=9-"}),
        ("POST", "/cancel", None, {}),
        ("POST", "/abandon", {"sandbox_id": SANDBOX}, {}),
        ("POST", "/signal", {"signal": 15}, {}),
    ],
)
@pytest.mark.parametrize("over", [False, True])
def test_answers_about_one_execution_say_which(
    server: RunningServer, method: str, path: str, body: object, headers: Mapping[str, str], over: bool
) -> None:
    eid, _ = start(server)
    server.do(server.services.write(eid, b"some"))
    if over:
        server.do(server.services.finish(eid))
    reply = server.request(method, f"/v1/executions/{eid}{path}", body, {EPOCH_HEADER: EPOCH, **headers})
    assert about(reply.headers) == (eid, SANDBOX, EPOCH), reply.body


@pytest.mark.parametrize(("command", "wait"), [("hang", "wait=0"), ("true", "wait=20")])
def test_the_answer_to_a_start_says_which(server: RunningServer, command: str, wait: str) -> None:
    eid, reply = start(server, command, wait=wait)
    assert about(reply.headers) == (eid, SANDBOX, EPOCH)
    again = server.post(RUN_COMMAND, {"id": eid, "command": command}, Prefer=wait)
    assert about(again.headers) == (eid, SANDBOX, EPOCH)


def test_the_answer_to_execute_says_which(server: RunningServer) -> None:
    reply = server.request("POST", "/execute", {"command": "true", "sandbox": SANDBOX})
    assert about(reply.headers) == (reply.json()["extra"]["execution_id"], SANDBOX, EPOCH)


def test_events_say_which(server: RunningServer) -> None:
    eid, _ = start(server)
    with server.follow(eid) as follower:
        assert about(follower.headers) == (eid, SANDBOX, EPOCH)


def test_a_refusal_about_a_known_execution_says_which(server: RunningServer) -> None:
    eid, _ = start(server)
    server.do(server.services.finish(eid))
    refused = server.post(f"/v1/executions/{eid}/signal", {"signal": 15})
    assert_problem(refused, "wrong_state", id=eid)
    assert about(refused.headers) == (eid, SANDBOX, EPOCH)


def test_a_refusal_of_what_is_meant_for_another_is_about_nothing_here(server: RunningServer) -> None:
    eid, _ = start(server)
    for reply in (
        server.request("GET", f"/v1/executions/{eid}", headers={EPOCH_HEADER: OTHER_EPOCH}),
        server.get("/v1/executions/never-made-one"),
        server.post(RUN_COMMAND, {"id": eid, "command": "another"}),
    ):
        assert about(reply.headers) == (None, None, None)


def test_every_answer_says_which_server_it_is_of(server: RunningServer) -> None:
    eid, _ = start(server)
    for method, path, headers in (
        ("GET", f"/v1/executions/{eid}", {}),
        ("GET", f"/v1/executions/{eid}/output", {}),
        ("GET", "/v1/executions", {}),
        ("GET", "/v1/sandboxes", {}),
        ("GET", "/metrics", {}),
        ("GET", "/health", {}),
        ("GET", "/nowhere", {}),
        ("PUT", "/v1/executions", {}),
        ("GET", "/v1/executions/never-made-one", {}),
        ("GET", "/v1/executions", {"Authorization": None}),
        ("GET", "/v1/executions", {"Origin": "http://x"}),
    ):
        reply = server.request(method, path, headers={EPOCH_HEADER: EPOCH, **headers})
        assert reply.headers.get_all("X-Remote-Env-Instance") == ["instance-of-tests"], path
    with server.follow(eid) as follower:
        assert follower.headers["X-Remote-Env-Instance"] == "instance-of-tests"


def test_health_tells_strangers_nothing_of_the_server(server: RunningServer) -> None:
    assert server.request("GET", "/health", headers={"Authorization": None}).headers["X-Remote-Env-Instance"] is None


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "code"),
    [
        ("GET", "/v1/executions/named-one", None, {EPOCH_HEADER: None}, "epoch_required"),
        ("GET", "/v1/executions/named-one", None, {"Authorization": "Bearer no"}, "unauthorized"),
        ("GET", "/v1/executions/named-one", None, {"Origin": "http://x"}, "forbidden"),
        ("GET", "/v1/executions/named-one?wait=long", None, {}, "invalid"),
        ("PUT", "/v1/executions/named-one", None, {}, "method_not_allowed"),
        ("GET", "/v1/executions/named-one/nothing", None, {}, "not_found"),
        ("POST", "/v1/executions/named-one/signal", b"{", {}, "invalid"),
        ("POST", "/v1/executions/named-one/cancel", b"x" * (17 << 20), {}, "too_large"),
        ("DELETE", "/v1/sandboxes/named-one", None, {}, "not_found"),
        ("POST", "/v1/sandboxes", {"id": "named-one", "image": ""}, {}, "invalid"),
        ("POST", RUN_COMMAND, {"id": "named-one", "command": "", "env": {"A": "hush"}}, {}, "invalid"),
        ("POST", "/execute", {"id": "named-one", "command": "true", "sandbox": SANDBOX}, {EPOCH_HEADER: None}, "epoch_required"),
        ("POST", RUN_COMMAND, {"id": "named-one", "command": "fail"}, {}, "internal"),
        ("POST", RUN_COMMAND, {"id": "named-one", "command": "busy"}, {}, "capacity"),
    ],
)
def test_a_problem_has_the_id_that_the_request_names(
    server: RunningServer, method: str, path: str, body: object, headers: Mapping[str, str | None], code: str
) -> None:
    reply = server.request(method, path, body, {EPOCH_HEADER: EPOCH, **headers})
    assert_problem(reply, code, id="named-one")


def test_what_is_no_id_is_not_repeated(server: RunningServer) -> None:
    assert assert_problem(server.post(RUN_COMMAND, {"id": "../etc", "command": "x"}), "invalid")["id"] in (None, SANDBOX)
    assert assert_problem(server.get("/v1/executions/%2e%2e%2fetc"), "not_found")["id"] is None
    assert assert_problem(server.post("/v1/sandboxes", b"[" * 100_000), "invalid")["id"] is None
