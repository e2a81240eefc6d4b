"""GET …/events: what it answers with, where it begins, and how it ends. What is told in between: test_events.py."""

from __future__ import annotations

import socket
import time

import pytest

from remote_env.protocol import EPOCH_HEADER, new_id
from server.settings import Settings
from tests.support.follower import Follower, output
from tests.unit.server.fakes import EPOCH, OTHER_EPOCH, RUN, SANDBOX
from tests.unit.server.harness import PATIENCE_S, TOKEN, RunningServer, assert_problem


def run(server: RunningServer, command: str) -> str:
    eid = new_id()
    server.post(f"/v1/sandboxes/{SANDBOX}/executions", {"id": eid, "command": command})
    return eid


def assert_no_follower_left(server: RunningServer) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while server.services.following or server.sample("streams"):
        assert time.monotonic() < deadline, "a stream goes on without its consumer"
        time.sleep(0.005)


def test_stream_is_an_event_stream_that_nobody_on_the_way_may_hold_back(server: RunningServer) -> None:
    eid = run(server, "text")
    with server.follow(eid) as follower:
        assert (follower.status, follower.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        assert (follower.headers["Cache-Control"], follower.headers["X-Accel-Buffering"]) == ("no-store, no-transform", "no")
        assert (follower.headers["Transfer-Encoding"], follower.headers["Content-Length"]) == ("chunked", None)
        events = list(follower)
    assert [each.name for each in events] == ["accepted", "started", "output", "end"]
    assert events[0].data == {
        "id": eid, "sandbox_id": SANDBOX, "epoch": EPOCH, "run_id": RUN, "streams": "merged", "accepted_at": "2026-01-02T03:04:05Z",
    }  # fmt: skip
    assert events[1].data == {"started_at": "2026-01-02T03:04:05Z"}
    assert events[-1].data == server.get(f"/v1/executions/{eid}").json()
    assert output(events) == b"text"


def test_output_is_told_while_the_command_runs(server: RunningServer) -> None:
    eid = run(server, "hang")
    with server.follow(eid) as follower:
        follower.until("started")
        for at, content in ((0, b"one"), (3, b"two")):
            server.do(server.services.write(eid, content))
            said = next(follower)
            assert (said.name, said.data, said.id) == (
                "output", {"stream": "merged", "offset": at, "text": content.decode()}, str(at + len(content)),
            )  # fmt: skip
        server.do(server.services.finish(eid))
        assert [each.name for each in follower] == ["end"]


@pytest.mark.parametrize(
    ("how", "begins", "text"),
    [
        ({}, None, "0123456789"),
        ({"begin": "start"}, None, "0123456789"),
        ({"begin": "now"}, "10", ""),
        ({"last": "4"}, "4", "456789"),
        ({"last": "0"}, "0", "0123456789"),
        ({"last": "10"}, "10", ""),
        ({"last": "4", "begin": "now"}, "4", "456789"),
        ({"last": "", "begin": "now"}, "10", ""),  # an empty one is none, says the standard
    ],
)
def test_it_begins_where_it_was_asked_to(server: RunningServer, how: dict[str, str], begins: str | None, text: str) -> None:
    with server.follow(run(server, "0123456789"), **how) as follower:
        events = list(follower)
    assert events[0].id == begins
    assert output(events, 10 - len(text)) == text.encode()
    assert events[-1].name == "end"


@pytest.mark.parametrize("how", [{"last": "11"}, {"last": "3,3"}, {"last": "three"}, {"last": "-1"}, {"begin": "middle"}])
def test_what_is_no_position_is_refused(server: RunningServer, how: dict[str, str]) -> None:
    eid = run(server, "0123456789")
    query = f"?from={how['begin']}" if "begin" in how else ""
    headers = {"Last-Event-ID": how["last"]} if "last" in how else {}
    assert_problem(server.get(f"/v1/executions/{eid}/events{query}", **headers), "invalid", id=eid)


def test_it_is_refused_as_a_get_of_the_execution_is(server: RunningServer) -> None:
    eid = run(server, "text")
    path = f"/v1/executions/{eid}/events"
    assert_problem(server.request("GET", path), "epoch_required", id=eid)
    assert_problem(server.request("GET", path, headers={EPOCH_HEADER: OTHER_EPOCH}), "epoch_mismatch", id=eid)
    assert_problem(server.get("/v1/executions/never-made-one/events"), "not_found", id="never-made-one")
    for headers, code in (({"Authorization": None}, "unauthorized"), ({"Origin": "http://x"}, "forbidden"), ({"Host": "x.y"}, "forbidden")):
        assert_problem(server.request("GET", path, headers={EPOCH_HEADER: EPOCH, **headers}), code)
    assert_problem(server.post(path, None), "method_not_allowed")
    assert server.services.following == 0


def test_a_silent_command_is_heard_of_by_heartbeats() -> None:
    server = RunningServer(Settings(port=0, stream_heartbeat_s=0.01))
    try:
        eid = run(server, "hang")
        with server.follow(eid) as follower:
            heard = [next(follower) for _ in range(4)]
            assert [(each.name, each.id, each.data) for each in heard[2:]] == [("heartbeat", None, {"state": "running"})] * 2
            server.do(server.services.finish(eid))
            assert list(follower)[-1].name == "end"
    finally:
        server.stop()


def test_the_end_of_the_stream_leaves_the_connection_for_the_next_request(server: RunningServer) -> None:
    eid = run(server, "text")
    with server.follow(eid) as follower:
        assert list(follower)[-1].name == "end"
        follower.connection.request("GET", f"/v1/executions/{eid}", headers={"Authorization": f"Bearer {TOKEN}", EPOCH_HEADER: EPOCH})
        assert follower.connection.getresponse().status == 200


def test_a_consumer_that_leaves_takes_its_stream_along(server: RunningServer) -> None:
    eid = run(server, "hang")
    followers = [server.follow(eid) for _ in range(5)]
    for follower in followers:
        follower.until("started")
    assert server.services.following == server.sample("streams") == 5
    for follower in followers:
        follower.close()
    assert_no_follower_left(server)


def test_a_consumer_that_leaves_without_having_read_takes_its_stream_along(server: RunningServer) -> None:
    """Its stream waits for room in the socket's buffer, not for the command."""
    eid = run(server, "hang")
    server.do(server.services.write(eid, b"x" * (32 << 20)))
    follower = server.follow(eid)
    follower.until("started")
    assert server.services.following == 1
    assert (server.sample("stream_bytes_total") or 0) < 16 << 20
    follower.close()
    assert_no_follower_left(server)


def test_streams_and_what_they_sent_are_counted(server: RunningServer) -> None:
    before = server.sample("stream_bytes_total")
    assert before == 0
    with server.follow(run(server, "text")) as follower:
        body = follower.response.read()
    assert_no_follower_left(server)
    assert server.sample("stream_bytes_total") == len(body)


def test_a_stopping_server_says_so_and_ends_the_stream_properly(server: RunningServer) -> None:
    eid = run(server, "hang")
    with server.follow(eid) as follower:
        follower.until("started")
        server.loop.call_soon_threadsafe(server.lifetime.stop)
        rest = list(follower)  # ends without an exception: the last chunk was sent
    assert [(each.name, each.data) for each in rest] == [("stopping", {"retry_after_s": 1.0})]
    assert_no_follower_left(server)


def test_a_stream_over_ipv6_is_the_same(server: RunningServer) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with Follower(server.port, TOKEN, run(server, "text"), EPOCH, address="::1") as follower:
        assert output(list(follower)) == b"text"
