"""Consumers of GET …/events that are slow, late, many, or gone: what they cost, and what they see."""

from __future__ import annotations

import contextlib
import os

from remote_env import Sandbox
from tests.engine.following import LINE, STALLED, follow, go, metric, wait_for
from tests.support.follower import output
from tests.support.outside import peak_memory, until
from tests.support.server import Server

FLOOD = 200_000_000  # bytes
MARGIN = 32 << 20  # bytes of memory that a server may come to need beside


def open_files(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


# -------------------------------------------------------------------------------------- limits and slow consumers


def test_a_reader_that_keeps_up_sees_all_and_one_that_comes_later_is_told_what_is_gone(server: Server, sandbox: Sandbox) -> None:
    size, limit = 1_000_000, 4096
    execution = sandbox.start(f"yes 0123456789abcde | head -c {size}; {wait_for('go')}", output_limit_bytes=limit)
    whole = LINE * (size // len(LINE))
    with follow(server, execution) as follower:
        heard = follower.until("started")
        while len(output(heard)) < size:
            heard += follower.until("output")
        go(sandbox, "go")
        heard += list(follower)
    assert output(heard) == whole
    with follow(server, execution) as follower:
        later = list(follower)
    assert [each.name for each in later] == ["accepted", "started", "output", "gap", "output", "end"]
    assert (later[2].bytes, later[3].data) == (whole[: limit // 2], {"stream": "merged", "from": limit // 2, "to": size - limit // 2})
    assert (later[4].bytes, later[4].data["offset"], later[4].id) == (whole[-limit // 2 :], size - limit // 2, str(size))
    with follow(server, execution, last="500000") as follower:
        middle = list(follower)
    assert (middle[2].data["from"], middle[2].data["to"]) == (500000, size - limit // 2)


def test_consumers_that_never_read_slow_nothing_and_cost_a_bounded_buffer(server: Server, sandbox: Sandbox) -> None:
    """Ten consumers hang from the start while 200 MB are written. The command ends, what is kept is exact, the server does
    not grow, and when they read at last they are told the truth, gaps and all."""
    limit = 8 << 20
    sandbox.run("yes | head -c 1000000", output_limit_bytes=limit)
    before = peak_memory(server.pid)
    execution = sandbox.start(f"{wait_for('go')}; yes 0123456789abcde | head -c {FLOOD}", output_limit_bytes=limit)
    with contextlib.ExitStack() as stack:
        followers = [stack.enter_context(follow(server, execution)) for _ in range(STALLED)]
        go(sandbox, "go")
        assert execution.wait(60).returncode == 0
        assert execution.record.output.total_bytes == FLOOD
        assert peak_memory(server.pid) - before < MARGIN
        whole = LINE * (FLOOD // len(LINE))
        at, gaps = 0, 0
        for said in followers[0]:
            if said.name == "output":
                assert said.data["offset"] == at
                assert said.bytes == whole[at : at + len(said.bytes)]
                at += len(said.bytes)
            elif said.name == "gap":
                assert said.data["from"] == at < said.data["to"]
                at, gaps = said.data["to"], gaps + 1
        assert (said.name, at) == ("end", FLOOD)
        assert gaps >= 1
    until(lambda: metric(server, "remote_env_streams") == 0, "the streams of consumers that left are over")


def test_consumers_that_leave_leave_nothing_behind(server: Server, sandbox: Sandbox) -> None:
    execution = sandbox.start(f"echo hello; {wait_for('go')}")
    files = open_files(server)
    for _ in range(3):
        followers = [follow(server, execution) for _ in range(20)]
        for follower in followers:
            follower.until("output")
        assert metric(server, "remote_env_streams") == 20
        for follower in followers:
            follower.close()
        until(lambda: metric(server, "remote_env_streams") == 0, "their streams are over")
    until(lambda: open_files(server) <= files + 2, "their descriptors are closed")
    go(sandbox, "go")
    assert execution.wait().returncode == 0
