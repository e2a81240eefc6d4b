"""The rules of the link: order, refusal, endings kept, one link, hand-over. Names in capitals are rules of the protocol."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from server import messages
from server.messages import EndingKind, Hello, Type
from tests.init.followed import Execution
from tests.init.harness import PATIENCE_S, Init, Server, memory_file, wait_until
from tests.init.processes import alive, cmdline, descendants


def ending_of(hello: Hello, id_: str) -> messages.Ending | None:
    (entry,) = [entry for entry in hello.entries if entry.id == id_]
    return entry.ending


def open_files(init: Init) -> list[str]:
    return sorted(os.readlink(entry) for entry in Path(f"/proc/{init.pid}/fd").iterdir())


# ------------------------------------------------------------------------------------------------- order and refusal


def test_number_not_higher_than_the_highest_is_refused_and_nothing_runs(init: Init) -> None:
    server, mark = init.server, init.directory / "mark"
    server.do("true", number=5)
    for number in (5, 4, 1, 0):
        again = server.run(f"echo ran >> {mark}", number=number, id_=f"again-{number}")
        server.wait_for(lambda again=again: [s for s in server.stale if s.id == again.id], "the refusal")  # type: ignore[misc]
        assert again.started is None
    assert not mark.exists()
    assert server.do("echo next", number=6).text == "next\n"


def test_copy_of_a_run_is_refused_also_after_its_ack(init: Init) -> None:
    server, mark = init.server, init.directory / "mark"
    for copies in range(3):
        run = server.run(f"echo ran >> {mark}", number=1, id_="the-one")
        if copies == 0:
            server.finished(run)
    server.wait_for(lambda: len(server.stale) == 2, "both refusals")
    assert mark.read_text() == "ran\n"


def test_refusal_holds_over_a_new_link(server: Server) -> None:
    server.do("true", number=7)
    server.hang_up()
    assert server.connect().highest == 7
    server.run("true", number=7, id_="again")
    server.wait_for(lambda: server.stale, "the refusal")


def test_skip_takes_the_number_and_ends_without_running(server: Server) -> None:
    skipped = server.ended(server.skip(3))
    assert skipped.ended is not None
    assert skipped.ended.ending.kind is EndingKind.SKIPPED
    assert skipped.started is None
    server.run("true", number=3, id_="late-copy")
    server.wait_for(lambda: server.stale, "the refusal")
    assert server.stale[0].id == "late-copy"


def test_skip_of_a_taken_number_is_refused(server: Server) -> None:
    server.do("true", number=2)
    server.send(messages.skip(2, "execution-2"))
    server.wait_for(lambda: server.stale, "the refusal")


# ------------------------------------------------------------------------------------------------- endings are kept


def test_ending_is_kept_until_its_ack_and_is_the_same_in_every_hello(server: Server) -> None:
    run = server.ended(server.run("echo out; exit 9"))
    assert run.ended is not None
    for _ in range(3):
        server.hang_up()
        hello = server.connect()
        assert ending_of(hello, run.id) == run.ended.ending
        assert hello.pipes == 1
    server.ack(run)
    server.all_said()
    server.hang_up()
    assert server.connect().entries == ()


def test_output_not_yet_taken_comes_again_with_the_next_hello(server: Server) -> None:
    server.reading = False
    run = server.run("echo kept; exit 9")
    server.wait_for(lambda: run.ended, "the ending")
    server.die()
    server.connect()
    assert server.finished(run).text == "kept\n"


def test_ending_without_a_pipe_is_kept_too(server: Server) -> None:
    skipped, failed = server.skip(), server.run([])
    server.ended(failed)
    server.hang_up()
    hello = server.connect()
    assert hello.pipes == 0
    kept = [ending_of(hello, execution.id) for execution in (skipped, failed)]
    assert [ending and ending.kind for ending in kept] == [EndingKind.SKIPPED, EndingKind.FAILED_TO_START]


def test_ack_of_what_runs_or_is_unknown_changes_nothing(server: Server) -> None:
    run = server.run("read line; exit 3", stdin=(ends := os.pipe())[0])
    server.send(messages.ack(run.id))
    server.send(messages.ack("never-there"))
    server.all_said()
    os.write(ends[1], b"\n")
    assert server.finished(run).exit_code == 3
    for end in ends:
        os.close(end)


# --------------------------------------------------------------------------------------------------------- hand-over


def test_running_command_is_handed_over_with_its_pipe_and_no_byte_is_missing(server: Server) -> None:
    lines = 30_000  # several pipes' worth, written while there is a server, is none, and is another
    run = server.run(f"i=0; while [ $i -lt {lines} ]; do echo $i; i=$((i+1)); done")
    for part in range(5):
        server.output_of(run, f"{(part + 1) * lines // 8}\n")
        server.die()
        hello = server.connect()
        assert hello.pipes == 1
        assert ending_of(hello, run.id) is None
    server.finished(run)
    assert run.text == "".join(f"{i}\n" for i in range(lines))


def test_command_that_ends_while_the_server_is_away_is_in_the_hello_with_all_its_output(server: Server) -> None:
    run = server.run("read line; echo $line; exit 4", stdin=(ends := os.pipe())[0])
    server.wait_for(lambda: run.started, "the start")
    server.die()
    os.write(ends[1], b"written to nobody\n")
    for end in ends:
        os.close(end)
    wait_until(lambda: not any(alive(pid) for pid in descendants(os.getpid()) if b"read line" in cmdline(pid)), "its end")
    server.connect()
    server.finished(run)
    assert (run.text, run.exit_code) == ("written to nobody\n", 4)


def test_init_waits_for_a_server_that_comes_late(start_init: Callable[..., Init], sanitized_binary: Path) -> None:
    init = start_init(sanitized_binary)
    wait_until(lambda: open_files(init).count("/dev/null") >= 1, "the init's start")
    hello = init.server.connect()
    assert (hello.version, hello.highest, hello.entries) == (messages.LINK_VERSION, 0, ())
    assert init.server.do("echo here").text == "here\n"


def test_incarnation_and_secret_stay_over_links_and_differ_between_inits(start_init: Callable[..., Init], sanitized_binary: Path) -> None:
    first, second = start_init(sanitized_binary), start_init(sanitized_binary)
    hello, other = first.server.connect(), second.server.connect()
    first.server.hang_up()
    again = first.server.connect()
    assert (again.incarnation, again.secret) == (hello.incarnation, hello.secret)
    assert len({hello.incarnation, hello.secret, other.incarnation, other.secret}) == 4


def test_nothing_but_the_hello_is_said_before_the_welcome(server: Server) -> None:
    run = server.run("read line; exit 3", stdin=(ends := os.pipe())[0])
    server.wait_for(lambda: run.started, "the start")
    server.hang_up()
    server.connect(welcome=False)
    os.write(ends[1], b"\n")
    for end in ends:
        os.close(end)
    assert server.link is not None
    wait_until(lambda: not any(b"read line" in cmdline(pid) for pid in descendants(os.getpid())), "its end")
    assert select.select([server.link], [], [], 0)[0] == []
    server.send(messages.welcome(1000))
    assert server.finished(run).exit_code == 3


# ---------------------------------------------------------------------------------------------------- descriptors


@pytest.mark.usefixtures("as_root")
def test_descriptors_that_nobody_asked_for_are_closed(init: Init) -> None:
    server = init.server
    server.all_said()
    before = open_files(init)
    garbage = [os.open("/dev/zero", os.O_RDONLY), memory_file(b"x"), *os.pipe(), socket.socket().detach()]
    for _ in range(20):
        server.send(messages.kill("never-there"), garbage * 20)
        server.send(messages.ack("never-there"), garbage)
    body = messages.run_body(messages.Run(1, "the-run", ("sh", "-c", "cat; echo fine")))
    server.executions["the-run"] = run = Execution("the-run", 1)
    server.send(messages.packet(Type.RUN, body), garbage)
    assert server.finished(run).text == "fine\n"  # none of them became its stdin: it did not ask for one
    server.all_said()
    for fd in garbage:
        os.close(fd)
    assert open_files(init) == before


def test_empty_packet_with_descriptors_costs_the_link_and_none_of_them_stays(init: Init) -> None:
    server = init.server
    server.all_said()
    before = open_files(init)
    with open("/dev/zero", "rb") as device:
        for _ in range(20):
            server.send(b"", [device.fileno()] * 20)
            server.connect()
    assert [name for name in open_files(init) if name == "/dev/zero"] == []
    assert len(open_files(init)) == len(before)
    assert server.do("echo fine").text == "fine\n"


@pytest.mark.parametrize("kind", ["pipe", "directory", "short", "device", "nothing"])
def test_large_packet_without_a_proper_memory_file_ends_the_link_and_nothing_else(init: Init, kind: str) -> None:
    server = init.server
    body = messages.run_body(messages.Run(1, "the-run", ("true",)))
    fds: list[int] = []
    if kind == "pipe":
        fds += os.pipe()
    elif kind == "short":
        fds.append(memory_file(body[:-1]))
    elif kind != "nothing":
        fds.append(os.open({"directory": "/", "device": "/dev/zero"}[kind], os.O_RDONLY))
    server.send(messages.large_packet(Type.RUN, len(body)), fds)
    assert link_ended(server)
    for fd in fds:
        os.close(fd)
    assert server.connect().highest == 0
    assert server.do("echo on").text == "on\n"


def link_ended(server: Server) -> bool:
    assert server.link is not None
    try:
        return server.link.recv(messages.PACKET_LIMIT) == b""
    except ConnectionResetError:
        return True


# ------------------------------------------------------------------------------------------------------ a full table


def test_full_table_leaves_runs_unread_until_there_is_room(start_init: Callable[..., Init], small_table_binary: Path) -> None:
    init = start_init(small_table_binary)
    server = init.server
    server.connect()
    runs = [server.run(f"exit {i}") for i in range(8)]
    for run in runs:
        server.ended(run)
    waiting = server.run("echo at last")
    server.send(messages.ack(runs[0].id))  # behind the run that blocks the way: only a new link lets it through
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        server.wait_for(lambda: waiting.started, "the end of the link")
    hello = server.connect()
    assert hello.highest == 8
    assert [ending_of(hello, run.id) == (run.ended and run.ended.ending) for run in runs] == [True] * 8
    for run in runs:
        server.ack(run)
    server.run("echo at last", number=9, id_=waiting.id)
    assert server.finished(server.executions[waiting.id]).text == "at last\n"


def test_ack_makes_room_in_a_full_table(start_init: Callable[..., Init], small_table_binary: Path) -> None:
    init = start_init(small_table_binary)
    server = init.server
    server.connect()
    for _ in range(4):
        runs = [server.run("echo out") for _ in range(8)]
        for run in runs:
            assert server.finished(run).text == "out\n"
    assert server.link is not None


# -------------------------------------------------------------------------------------------------------- the day clock


def test_init_without_a_server_ends_its_sandbox_when_its_clock_runs_out(start_init: Callable[..., Init], sanitized_binary: Path) -> None:
    init = start_init(sanitized_binary)
    init.server.welcome_ms = 100
    init.server.connect()
    run = init.server.output_of(init.server.run("setsid sleep 1000 & trap '' TERM; echo ready; sleep 1000"), "ready")
    family = descendants(init.pid)
    assert run.ended is None
    init.server.die()
    assert init.process.wait(timeout=PATIENCE_S) == 0
    assert [pid for pid in family if alive(pid)] == []


def test_day_clock_rests_while_the_link_is_up_and_starts_anew_with_each_welcome(
    start_init: Callable[..., Init], sanitized_binary: Path
) -> None:
    server = start_init(sanitized_binary).server
    server.welcome_ms = 300
    server.connect()
    assert server.do("sleep 0.5; echo alive").text == "alive\n"
    server.welcome_ms = 60_000
    server.hang_up()
    server.connect()
    server.hang_up()
    assert server.connect().highest == 1


def test_connection_without_a_welcome_does_not_stop_the_day_clock(start_init: Callable[..., Init], sanitized_binary: Path) -> None:
    init = start_init(sanitized_binary)
    init.server.welcome_ms = 200
    init.server.connect()
    init.server.hang_up()
    init.server.connect(welcome=False)
    assert init.process.wait(timeout=PATIENCE_S) == 0


# --------------------------------------------------------------------------------------------- what the format excludes


def test_id_that_is_in_the_table_is_against_the_protocol(init: Init) -> None:
    server, mark = init.server, init.directory / "mark"
    run = server.ended(server.run("true", number=1, id_="the-one"))
    server.run(f"echo ran >> {mark}", number=2, id_="the-one")
    assert link_ended(server)
    assert server.connect().highest == 1
    assert not mark.exists()
    server.ack(run)


def test_slow_reader_gets_everything_in_order(server: Server) -> None:
    # Far more answers than the socket's buffer holds: the init waits, stops reading, and forgets nothing.
    count = 3000
    assert server.link is not None

    def ask() -> None:
        for i in range(count):
            server.send(messages.skip(0, f"stale-{i}"))

    sender = threading.Thread(target=ask)
    sender.start()
    server.wait_for(lambda: len(server.stale) == count, "all answers")
    sender.join()
    assert [stale.id for stale in server.stale] == [f"stale-{i}" for i in range(count)]
