"""GET …/output: parts of the kept bytes, while it runs and after."""

from __future__ import annotations

import pytest

from remote_env.protocol import new_id
from server.api.output import parse_range
from tests.unit.server.fakes import SANDBOX
from tests.unit.server.harness import RunningServer, assert_problem


def run(server: RunningServer, command: str) -> str:
    eid = new_id()
    server.post(f"/v1/sandboxes/{SANDBOX}/executions", {"id": eid, "command": command})
    return f"/v1/executions/{eid}/output"


def test_ended_output_is_whole_without_range_and_cut_with(server: RunningServer) -> None:
    path = run(server, "0123456789")
    whole = server.get(path)
    assert (whole.status, whole.body, whole.headers["X-Remote-Env-State"]) == (200, b"0123456789", "ended")
    assert (whole.headers["Content-Length"], whole.headers["Content-Range"]) == ("10", None)
    part = server.get(path, Range="bytes=2-5")
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"2345", "bytes 2-5/10")
    rest = server.get(path, Range="bytes=7-")
    assert (rest.status, rest.body, rest.headers["Content-Range"]) == (206, b"789", "bytes 7-9/10")
    long = server.get(path, Range="bytes=7-99")
    assert (long.body, long.headers["Content-Range"]) == (b"789", "bytes 7-9/10")


def test_range_beyond_the_end_is_not_satisfiable_and_says_where_the_end_is(server: RunningServer) -> None:
    path = run(server, "0123456789")
    for beyond in ("bytes=10-", "bytes=11-20"):
        reply = server.get(path, Range=beyond)
        assert_problem(reply, "range_not_satisfiable")
        assert (reply.headers["Content-Range"], reply.headers["X-Remote-Env-State"]) == ("bytes */10", "ended")


def test_running_output_is_a_prefix_of_unknown_length(server: RunningServer) -> None:
    path = run(server, "hang")
    eid = path.split("/")[3]
    empty = server.get(path)
    assert (empty.status, empty.body, empty.headers["X-Remote-Env-State"]) == (200, b"", "running")
    assert server.get(path, Range="bytes=0-").status == 204
    server.do(server.services.write(eid, b"abc"))
    part = server.get(path, Range="bytes=1-")
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"bc", "bytes 1-2/*")


def test_wait_at_the_present_end_returns_with_more_output(server: RunningServer) -> None:
    path = run(server, "hang")
    eid = path.split("/")[3]
    server.do(server.services.write(eid, b"abc"))
    following = server.in_background("GET", f"{path}?wait=60", headers={"Range": "bytes=3-"})
    server.do(server.services.waiting(1))
    server.do(server.services.write(eid, b"def"))
    assert (following.reply().status, following.reply().body) == (206, b"def")


def test_wait_at_the_present_end_returns_empty_when_nothing_comes(server: RunningServer) -> None:
    reply = server.get(f"{run(server, 'hang')}?wait=0.01", Range="bytes=0-")
    assert (reply.status, reply.body, reply.headers["X-Remote-Env-State"]) == (204, b"", "running")


def test_a_stream_that_it_does_not_have_is_refused_rather_than_answered_with_both(server: RunningServer) -> None:
    path = run(server, "0123456789")
    assert_problem(server.get(f"{path}?stream=stderr"), "wrong_state")
    assert_problem(server.get(f"{path}?stream=all"), "invalid")
    assert server.get(f"{path}?stream=merged").body == b"0123456789"


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None), ("bytes=0-", (0, None)), ("bytes=0-0", (0, 1)), (" bytes=5-9 ", (5, 10)),
        ("bytes=-5", None), ("bytes=9-5", None), ("bytes=1-2,4-5", None), ("items=0-", None), ("bytes=1", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)  # fmt: skip
def test_only_single_plain_ranges_are_ranges(header: str | None, span: tuple[int, int | None] | None) -> None:
    assert parse_range(header) == span
