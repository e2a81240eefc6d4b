"""stdout and stderr apart: two pipes from the command's own process to the server, through every hand-over."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from server import messages
from server.messages import Cause, EndingFlag, EndingKind, RunFlag, Stage
from tests.init.harness import Init, Server, memory_file, unread, wait_until
from tests.init.processes import alive, children

SPLIT = RunFlag.SPLIT


def test_streams_come_apart_each_whole_and_in_its_own_order(server: Server) -> None:
    run = server.do("echo one; echo two >&2; echo three; echo four >&2; exit 5", flags=SPLIT)
    assert (run.both, run.exit_code) == ((b"one\nthree\n", b"two\nfour\n"), 5)


def test_streams_of_a_run_without_the_flag_share_one_pipe(server: Server) -> None:
    run = server.ended(server.run("echo one; echo two >&2"))
    assert (len(run.pipes), run.text) == (1, "one\ntwo\n")


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_dev_stdout_and_dev_stderr_can_be_opened_by_the_command_s_user(server: Server, user: str) -> None:
    command = "echo one > /dev/stdout; echo two > /dev/stderr; echo three | tee /dev/stderr"
    run = server.do(command, user=user, flags=SPLIT)
    assert run.both == (b"one\nthree\n", b"two\nthree\n")


def test_command_sees_three_descriptors_and_nothing_else(server: Server) -> None:
    others = [server.run("sleep 100", flags=SPLIT) for _ in range(3)]
    stdin = memory_file(b"given")
    code = "import os, sys; print(sorted(os.listdir('/proc/self/fd'), key=int)); print(sys.stdin.read(), file=sys.stderr)"
    run = server.do(["python3", "-c", code], stdin=stdin, flags=SPLIT)
    assert run.both == (b"['0', '1', '2', '3']\n", b"given\n")  # 3 is listdir's own
    os.close(stdin)
    for other in others:
        server.kill(other)
        server.finished(other)


def test_floods_on_both_streams_at_once_come_whole(server: Server) -> None:
    code = "import os\nfor _ in range(300):\n    os.write(1, b'o' * 65536)\n    os.write(2, b'e' * 65537)"
    run = server.do(["python3", "-c", code], flags=SPLIT)
    assert (len(run.output), len(run.errors)) == (300 * 65536, 300 * 65537)
    assert (set(run.output), set(run.errors)) == ({ord("o")}, {ord("e")})


def test_split_command_is_handed_over_with_both_pipes_and_no_byte_is_missing(server: Server) -> None:
    lines = 20_000
    command = f"i=0; while [ $i -lt {lines} ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; exit 3"
    run = server.run(command, flags=SPLIT)
    for part in range(4):
        server.output_of(run, f"out {(part + 1) * lines // 6}\n")
        server.die()
        hello = server.connect()
        assert (hello.pipes, len(run.pipes)) == (2, 2)
    server.finished(run)
    assert run.text == "".join(f"out {i}\n" for i in range(lines))
    assert run.errors.decode() == "".join(f"err {i}\n" for i in range(lines))
    assert run.exit_code == 3


def test_both_pipes_are_kept_until_the_ack(server: Server) -> None:
    server.reading = False
    run = server.run("echo out; echo err >&2", flags=SPLIT)
    server.wait_for(lambda: run.ended, "the ending")
    for _ in range(2):
        server.die()
        assert server.connect().pipes == 2
    server.finished(run)
    assert run.both == (b"out\n", b"err\n")
    server.all_said()
    server.hang_up()
    assert server.connect().pipes == 0


def test_hello_hands_over_many_split_and_merged_runs_in_packets_that_tear_none(start_init: Callable[..., Init], plain_binary: Path) -> None:
    """The harness refuses read ends of one id that do not stand together."""
    init = start_init(plain_binary)
    server = init.server
    server.connect()
    read_end, write_end = os.pipe()
    runs = [
        server.run(f"read line; echo out {i}; echo err {i} >&2", stdin=read_end, flags=SPLIT if i % 3 else RunFlag(0)) for i in range(200)
    ]
    server.wait_for(lambda: all(run.started for run in runs), "the starts")
    server.die()
    assert server.connect().pipes == sum(2 if i % 3 else 1 for i in range(200))
    for end in (read_end, write_end):
        os.close(end)
    for i, run in enumerate(runs):
        server.finished(run)
        out, err = f"out {i}\n".encode(), f"err {i}\n".encode()
        assert run.both == ((out, err) if i % 3 else (out + err, b""))
    server.all_said()


@pytest.mark.parametrize("redirect", ["", " >&2"], ids=["stdout", "stderr"])
def test_whichever_pipe_is_full_while_the_server_is_away_the_wait_is_told_and_is_no_idling(server: Server, redirect: str) -> None:
    server.reading = False
    run = server.run(f"head -c 200000 /dev/zero{redirect}", idle_timeout_ms=200, flags=SPLIT)
    server.wait_for(lambda: run.started, "the start")
    full = run.pipes[1 if redirect else 0]
    assert full is not None
    wait_until(lambda: unread(full) >= 65536, "a full pipe")
    server.die()
    away_until = time.monotonic() + 0.6  # three times the idle timeout
    wait_until(lambda: time.monotonic() > away_until, "the absence")
    server.reading = True
    server.connect()
    server.ended(run)
    assert (len(run.output), len(run.errors)) == ((0, 200_000) if redirect else (200_000, 0))
    assert run.ended is not None
    assert run.ended.ending.cause is Cause.NONE
    assert run.ended.ending.waited_ms > 0


def test_output_on_stderr_alone_is_activity_while_the_server_is_away(init: Init) -> None:
    server = init.server
    server.reading = False
    run = server.run("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i >&2; sleep 0.05; done; exit 7", idle_timeout_ms=400, flags=SPLIT)
    server.wait_for(lambda: run.started, "the start")
    (runner,) = children(init.pid)
    server.die()
    wait_until(lambda: not alive(runner), "its end, one way or the other")
    server.connect()
    assert server.ended(run).exit_code == 7


def test_timed_out_split_command_ends_with_what_both_streams_said(server: Server) -> None:
    run = server.do("echo out; echo err >&2; sleep 1000", timeout_ms=150, flags=SPLIT)
    assert run.ended is not None
    assert (run.both, run.ended.ending.cause) == ((b"out\n", b"err\n"), Cause.TOTAL)


@pytest.mark.parametrize("held", [1, 2], ids=["stdout", "stderr"])
def test_background_child_that_holds_one_stream_neither_blocks_nor_dies_after_the_ack(server: Server, held: int) -> None:
    """AFTERLIFE: the runner reads that pipe on, and goes when the child does."""
    other = 3 - held
    child = f"(sleep 0.2; head -c 300000 /dev/zero >&{held}; echo $? > $MARK) {other}>/dev/null &"
    mark = memory_file(b"")
    path = f"/proc/{os.getpid()}/fd/{mark}"
    run = server.finished(server.run(f"{child} echo started", env={"MARK": path}, flags=SPLIT))
    assert run.ended is not None
    assert run.ended.ending.flags & EndingFlag.OUTPUT_OPEN
    wait_until(lambda: os.pread(mark, 10, 0) == b"0\n", "the child's own end")
    os.close(mark)


def test_split_command_that_cannot_start_is_an_ending_of_its_own(server: Server) -> None:
    run = server.do(["no-such-program"], flags=SPLIT)
    assert run.ended is not None
    assert (run.ended.ending.kind, run.ended.ending.stage) == (EndingKind.FAILED_TO_START, Stage.EXEC)
    assert run.both == (b"", b"")


@pytest.mark.usefixtures("as_root")
def test_split_runs_leave_no_descriptor_behind(init: Init) -> None:
    server = init.server
    server.all_said()
    before = sorted(os.listdir(f"/proc/{init.pid}/fd"))
    for i in range(50):
        assert server.do(f"echo {i} >&2", flags=SPLIT).errors == f"{i}\n".encode()
    server.do([], flags=SPLIT)
    server.all_said()
    assert sorted(os.listdir(f"/proc/{init.pid}/fd")) == before


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("merged", [0, 1], ids=["even", "odd"])
def test_without_descriptors_for_both_pipes_it_is_an_ending_and_none_is_left_over(
    start_init: Callable[..., Init], sanitized_binary: Path, tmp_path: Path, merged: int
) -> None:
    """Whichever of the two is the one too many."""
    few = tmp_path / "few"
    few.write_text(f'#!/bin/sh\nulimit -n 64\nexec {sanitized_binary} "$@"\n')
    few.chmod(0o755)
    init = start_init(few)
    server = init.server
    server.connect()
    before = sorted(os.listdir(f"/proc/{init.pid}/fd"))
    runs = [server.run("sleep 1000", flags=SPLIT if i >= merged else RunFlag(0)) for i in range(40)]
    server.wait_for(lambda: all(run.started or run.ended for run in runs), "the starts")
    failed = [run.ended.ending for run in runs if run.ended]
    assert 0 < len(failed) < 40
    assert {(ending.stage, ending.status) for ending in failed} == {(Stage.PIPE, errno.EMFILE)}
    for run in runs:
        server.kill(run)
        server.finished(run)
    server.all_said()
    assert sorted(os.listdir(f"/proc/{init.pid}/fd")) == before
    assert server.do("echo on >&2", flags=SPLIT).errors == b"on\n"


def test_init_says_the_version_that_split_runs_need(server: Server) -> None:
    assert server.hello is not None
    assert server.hello.version >= messages.SPLIT_SINCE
