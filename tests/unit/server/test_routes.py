"""Each route: what it parses, what it calls, which status it answers with."""

from __future__ import annotations

import json

import pytest

from remote_env.protocol import BODY_LIMIT, EPOCH_HEADER, new_id
from tests.unit.server.fakes import EPOCH, OTHER_EPOCH, RUN, SANDBOX
from tests.unit.server.harness import TOKEN, Reply, RunningServer, assert_problem, raw_exchange

RUN_COMMAND = f"/v1/sandboxes/{SANDBOX}/executions"
MAKE = {"image": "busybox", "run_id": RUN}


def start(server: RunningServer, command: str, *, wait: str = "wait=0", id: str | None = None) -> tuple[str, Reply]:
    eid = id or new_id()
    return eid, server.post(RUN_COMMAND, {"id": eid, "command": command}, Prefer=wait)


# ---------------------------------------------------------------------------------------------------- sandboxes


def test_new_sandbox_is_201_and_the_same_request_again_200(server: RunningServer) -> None:
    body = {"id": "sandbox-two", **MAKE}
    assert server.post("/v1/sandboxes", body).status == 201
    again = server.post("/v1/sandboxes", body)
    assert (again.status, again.json()["epoch"]) == (200, EPOCH)
    assert_problem(server.post("/v1/sandboxes", {**body, "image": "other"}), "id_conflict", id="sandbox-two")


def test_sandbox_still_being_made_is_202_after_the_wait(server: RunningServer) -> None:
    body = {"id": "sandbox-slow", **MAKE, "image": "slow"}
    assert server.post("/v1/sandboxes", body).status == 202
    assert server.post("/v1/sandboxes", body, Prefer="wait=0.01").status == 202
    assert server.services.waits == [0.01]


def test_removed_sandbox_id_is_gone_even_when_it_was_never_known(server: RunningServer) -> None:
    assert_problem(server.request("DELETE", "/v1/sandboxes/never-made-one"), "not_found", id="never-made-one")
    assert_problem(server.post("/v1/sandboxes", {"id": "never-made-one", **MAKE}), "gone", id="never-made-one")


def test_removal_is_202_until_it_is_done_and_harmless_to_repeat(server: RunningServer) -> None:
    path = f"/v1/sandboxes/{SANDBOX}"
    assert server.request("DELETE", path).status == 202
    done = server.request("DELETE", f"{path}?purge=true", headers={"Prefer": "wait=5"})
    assert (done.status, done.json()["state"], done.json()["reason"]) == (200, "removed", "purged")
    assert server.request("DELETE", path).status == 200


def test_sandboxes_are_listed_by_run_and_state(server: RunningServer) -> None:
    assert [each["id"] for each in server.get("/v1/sandboxes").json()["sandboxes"]] == [SANDBOX]
    assert server.get("/v1/sandboxes?run_id=another-run").json() == {"sandboxes": []}
    assert len(server.get(f"/v1/sandboxes?state=all&run_id={RUN}").json()["sandboxes"]) == 1
    assert_problem(server.get("/v1/sandboxes?state=well"), "invalid")
    assert_problem(server.get("/v1/sandboxes?run_id=..%2Fetc"), "invalid")
    assert server.get(f"/v1/sandboxes/{SANDBOX}").json()["image"] == "busybox"


def test_lease_renewal_names_what_lives(server: RunningServer) -> None:
    answer = {"run_id": RUN, "run_ids": [], "expires_in_s": 300.0, "live": [SANDBOX], "gone": {}}
    assert server.post("/v1/leases", {"run_id": RUN}).json() == answer
    several = server.post("/v1/leases", {"run_id": "another-run", "run_ids": [RUN]})
    assert several.json() == {**answer, "run_id": "another-run", "run_ids": [RUN]}


# --------------------------------------------------------------------------------------------------- executions


def test_command_that_ends_within_the_wait_is_201_and_the_same_post_again_200(server: RunningServer) -> None:
    eid, first = start(server, "true", wait="wait=20")
    assert (first.status, first.json()["outcome"]["code"]) == (201, 0)
    _, again = start(server, "true", wait="wait=20", id=eid)
    assert (again.status, again.json()) == (200, first.json())
    assert server.services.starts == 1
    assert_problem(start(server, "false", id=eid)[1], "id_conflict", id=eid)


def test_command_that_goes_on_is_202_and_get_waits_for_its_end(server: RunningServer) -> None:
    eid, reply = start(server, "hang")
    assert (reply.status, reply.json()["state"]) == (202, "running")
    waiting = server.in_background("GET", f"/v1/executions/{eid}?wait=60")
    server.do(server.services.waiting(1))
    server.do(server.services.finish(eid))
    assert waiting.reply().json()["state"] == "ended"


@pytest.mark.parametrize(("prefer", "seconds"), [("wait=999", 60.0), ("respond-async, wait=7.5", 7.5), ('wait="3"', 3.0)])
def test_preferred_wait_is_read_and_bounded(server: RunningServer, prefer: str, seconds: float) -> None:
    eid = new_id()
    posting = server.in_background("POST", RUN_COMMAND, {"id": eid, "command": "hang"}, {"Prefer": prefer})
    server.do(server.services.waiting(1))
    assert server.services.waits == [seconds]
    server.do(server.services.finish(eid))
    assert posting.reply().status == 201


@pytest.mark.parametrize("prefer", ["wait=soon", "wait=-1", "wait=nan", "wait", "return=minimal"])
def test_preference_that_cannot_be_read_is_no_preference(server: RunningServer, prefer: str) -> None:
    assert start(server, "hang", wait=prefer)[1].status == 202
    assert server.services.waits == []


def test_epoch_is_required_wherever_an_execution_is_named(server: RunningServer) -> None:
    eid, _ = start(server, "true")
    for method, path, body in [
        ("POST", RUN_COMMAND, {"id": new_id(), "command": "true"}),
        ("GET", f"/v1/executions/{eid}", None),
        ("GET", f"/v1/executions/{eid}/output", None),
        ("POST", f"/v1/executions/{eid}/cancel", None),
        ("POST", f"/v1/executions/{eid}/abandon", {"sandbox_id": SANDBOX}),
        ("POST", f"/v1/executions/{eid}/signal", {"signal": 15}),
    ]:
        assert_problem(server.request(method, path, body), "epoch_required")
        assert_problem(server.request(method, path, body, {EPOCH_HEADER: OTHER_EPOCH}), "epoch_mismatch")
    assert server.services.starts == 1


def test_executions_are_listed_without_epoch(server: RunningServer) -> None:
    first, _ = start(server, "true")
    second, _ = start(server, "hang")
    listed = server.request("GET", "/v1/executions").json()["executions"]
    assert [each["id"] for each in listed] == [second, first]
    assert [each["id"] for each in server.request("GET", "/v1/executions?state=ended").json()["executions"]] == [first]
    assert server.request("GET", f"/v1/executions?id={first}").json()["executions"][0]["epoch"] == EPOCH
    assert len(server.request("GET", "/v1/executions?limit=1").json()["executions"]) == 1
    for query in ("limit=0", "limit=1001", "limit=x", "limit=²", "state=done", "id=A", "sandbox_id=x"):
        assert_problem(server.request("GET", f"/v1/executions?{query.replace('²', '%C2%B2')}"), "invalid")


def test_cancel_is_202_while_it_is_under_way_and_200_when_it_is_over(server: RunningServer) -> None:
    eid, _ = start(server, "hang")
    for _ in range(2):
        reply = server.post(f"/v1/executions/{eid}/cancel", None)
        assert (reply.status, reply.json()["cancelling"]) == (202, True)
    server.do(server.services.finish(eid))
    assert server.post(f"/v1/executions/{eid}/cancel", None).status == 200


def test_abandon_fences_an_unknown_id_and_never_overrides_a_known_one(server: RunningServer) -> None:
    unknown, body = new_id(), {"sandbox_id": SANDBOX}
    assert server.post(f"/v1/executions/{unknown}/abandon", body).status == 202
    other = server.post(f"/v1/executions/{new_id()}/abandon", body, Prefer="wait=20")
    assert (other.status, other.json()["state"], other.json()["outcome"]["kind"]) == (200, "abandoned", "not_run")
    known, _ = start(server, "hang")
    reply = server.post(f"/v1/executions/{known}/abandon", body)
    assert (reply.status, reply.json()["state"]) == (200, "running")


def test_signal_reaches_only_what_runs(server: RunningServer) -> None:
    eid, _ = start(server, "hang")
    assert server.post(f"/v1/executions/{eid}/signal", {"signal": 15}).status == 200
    assert_problem(server.post(f"/v1/executions/{eid}/signal", {"signal": 65}), "invalid")
    server.do(server.services.finish(eid))
    assert_problem(server.post(f"/v1/executions/{eid}/signal", {"signal": 15}), "wrong_state", id=eid)


def test_a_wait_that_follows_no_answer_counts_as_reattached(server: RunningServer) -> None:
    def counted() -> float:
        value = server.metrics.registry.get_sample_value("remote_env_reattached_total")
        assert value is not None
        return value

    eid, _ = start(server, "hang")
    server.get(f"/v1/executions/{eid}?wait=0.001")  # the slice after a 202
    server.get(f"/v1/executions/{eid}?wait=0.001")  # and the next
    server.get(f"/v1/executions/{eid}")  # a look is no wait
    assert counted() == 0
    lost = server.in_background("POST", RUN_COMMAND, {"id": eid, "command": "hang"}, {"Prefer": "wait=60"})
    server.do(server.services.waiting(3))
    server.get(f"/v1/executions/{eid}?wait=0.001")  # its last answer promised this one
    server.do(server.services.finish(eid))
    lost.reply()
    server.get(f"/v1/executions/{eid}?wait=20")  # expected: the wait before was told that it goes on
    server.get(f"/v1/executions/{eid}?wait=20")  # nobody was told to come back
    assert counted() == 1


# ---------------------------------------------------------------------------------------------- bodies and paths


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"command": "true"}, ["id"]),
        ({"id": "short", "command": "true"}, ["id", "8 to 64 characters"]),
        ({"id": "x" * 32, "command": "true", "timeout": 5}, ["timeout", "no such field"]),
        ({"id": "x" * 32, "command": "true", "timeout_s": 0}, ["timeout_s", "greater than 0"]),
        ({"id": "x" * 32, "command": "true", "argv": ["true"]}, ["either command", "or argv"]),
        ({"id": "x" * 32, "command": "true", "env": {"A=B": "hush"}}, ["env", "A=B"]),
        ([], ["object"]),
        (b"{", ["JSON"]),
        (b"", ["JSON"]),
        (b"\xff\xfe", ["JSON"]),
    ],
)
def test_invalid_body_names_the_field_and_shows_no_value(server: RunningServer, body: object, words: list[str]) -> None:
    detail = assert_problem(server.post(RUN_COMMAND, body), "invalid")["detail"]
    for word in words:
        assert word in detail
    assert "hush" not in detail


@pytest.mark.parametrize("name", ["..", "A" * 10, "short", "x" * 65, "a%2F..%2Fetc-passwd", "naïve-naive".replace("ï", "%C3%AF")])
def test_only_ids_are_let_in_by_the_path(server: RunningServer, name: str) -> None:
    reply = server.get(f"/v1/executions/{name}")
    assert_problem(reply, "not_found" if "%2F" in name else "invalid")


def test_unknown_paths_and_methods_are_problems(server: RunningServer) -> None:
    assert_problem(server.get("/v2/sandboxes"), "not_found")
    assert_problem(server.get("/"), "not_found")
    reply = server.request("PUT", RUN_COMMAND, {"id": new_id(), "command": "true"})
    assert_problem(reply, "method_not_allowed")
    assert reply.headers["Allow"] == "POST"
    assert server.services.starts == 0


def test_unexpected_failure_tells_the_caller_nothing_but_that_it_is_unknown(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    eid, reply = start(server, "fail")
    assert_problem(reply, "internal", id=eid)
    assert b"12345" not in reply.body
    assert "12345" in caplog.text


def test_failed_commit_is_accepted_unknown_and_asks_for_a_new_start(server: RunningServer) -> None:
    eid, reply = start(server, "commit")
    assert_problem(reply, "commit_failed", id=eid)
    assert server.lifetime.restart_reason == "disk I/O error"


def test_refusal_with_retry_says_when_in_body_and_header(server: RunningServer) -> None:
    eid, reply = start(server, "busy")
    assert assert_problem(reply, "capacity", id=eid)["retry_after_s"] == 1.5
    assert reply.headers["Retry-After"] == "2"


def test_too_large_body_is_refused_by_its_length_before_it_is_sent(server: RunningServer) -> None:
    head = (
        f"POST {RUN_COMMAND} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nExpect: 100-continue\r\n"
        f"Content-Length: {BODY_LIMIT + 1}\r\nConnection: close\r\n\r\n"
    )  # fmt: skip
    answer = raw_exchange(server.port, head.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "too_large"


def test_too_large_body_is_refused_while_it_is_read_when_no_length_is_told(server: RunningServer) -> None:
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    head = (
        f"POST {RUN_COMMAND} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n{EPOCH_HEADER}: {EPOCH}\r\n"
        "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )  # fmt: skip
    answer = raw_exchange(server.port, head.encode() + piece * 16 + b"1\r\n \r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_body_of_just_the_limit_is_read(server: RunningServer) -> None:
    eid = new_id()
    body = json.dumps({"id": eid, "command": "true"}).encode()
    assert server.post(RUN_COMMAND, body + b" " * (BODY_LIMIT - len(body)), Prefer="wait=20").status == 201


# ------------------------------------------------------------------------------------------------------- server


def test_health_says_little_without_the_token_and_all_with_it(server: RunningServer) -> None:
    assert server.request("GET", "/health", headers={"Authorization": None}).json() == {"status": "ok"}
    assert server.get("/health").json()["instance_id"] == "instance-of-tests"
    assert_problem(server.request("GET", "/health", headers={"Authorization": "Bearer wrong"}), "unauthorized")


def test_metrics_are_prometheus_text(server: RunningServer) -> None:
    server.metrics.ended("timed_out", 1.0, 10, "idle")
    reply = server.get("/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'remote_env_executions_total{outcome="timed_out"} 1.0' in reply.body


def test_openapi_describes_what_routes_read_themselves(server: RunningServer) -> None:
    document = server.get("/openapi.json").json()
    post = document["paths"]["/v1/sandboxes/{id}/executions"]["post"]
    assert post["requestBody"]["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/ExecutionSpec"
    assert {"ExecutionSpec", "Execution", "SandboxSpec", "Bind", "Problem"} <= set(document["components"]["schemas"])
    references = {part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]}
    assert references <= set(document["components"]["schemas"])


def test_every_answer_says_which_protocol_it_speaks(server: RunningServer) -> None:
    for path in ("/health", "/nowhere", "/v1/sandboxes", "/metrics"):
        assert server.get(path).headers["X-Remote-Env-Protocol"] == "1"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_nothing_is_redirected(server: RunningServer, method: str) -> None:
    for path in ("/v1/sandboxes/", "/v1/executions/some-execution/events/", "/execute/", "/health/"):
        assert_problem(server.request(method, path), "not_found")


def test_stopping_server_ends_waits_with_what_is_known_and_takes_nothing_new(server: RunningServer) -> None:
    eid, _ = start(server, "hang")
    waiting = server.in_background("GET", f"/v1/executions/{eid}?wait=60")
    posting = server.in_background("POST", RUN_COMMAND, {"id": new_id(), "command": "hang"}, {"Prefer": "wait=60"})
    server.do(server.services.waiting(2))
    server.loop.call_soon_threadsafe(server.lifetime.stop)
    assert (waiting.reply().status, waiting.reply().json()["state"]) == (200, "running")
    assert (posting.reply().status, posting.reply().json()["state"]) == (202, "running")


def test_request_that_races_the_stop_is_not_taken(server: RunningServer) -> None:
    server.lifetime.stopping = True  # the moment between the signal and the closed sockets
    eid, reply = start(server, "true")
    assert_problem(reply, "stopping")
    assert eid not in server.services.executions
    assert server.get("/health").json() == {"status": "stopping"}
    server.lifetime.stopping = False
