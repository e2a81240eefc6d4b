"""A terminal, on a real pty: what is typed into it, how its output is read, its size."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
import tty
from collections.abc import AsyncGenerator, Coroutine, Iterator
from pathlib import Path

import pytest

from server.correlation import Correlation
from server.events import Event, Position
from server.live import LiveExecution
from server.lookup import Lookup
from server.metrics import Metrics
from server.output import LiveOutput
from server.spool import SpoolFile
from server.terminal import Terminal, TerminalClosed
from server.terminals import Terminals
from tests.unit.core import jumping_clock
from tests.unit.core.bench import Server

FLOOD = bytes(range(32, 126)) * 10_000  # far beyond what a pty holds


class Pty:
    """Both ends; `program` is the one inside, raw."""

    def __init__(self) -> None:
        self.master, self.program = os.openpty()
        tty.setraw(self.program)

    def read(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            content += os.read(self.program, count - len(content))
        return content

    def program_ends(self) -> None:
        if self.program >= 0:
            os.close(self.program)
            self.program = -1

    def close(self) -> None:
        self.program_ends()
        os.close(self.master)


@pytest.fixture
def pty() -> Iterator[Pty]:
    made = Pty()
    yield made
    made.close()


def run(main: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


def attached(pty: Pty, *, counted: bool = True) -> Terminal:
    terminal = Terminal(counted)
    terminal.attach(pty.master)
    return terminal


class Screen:
    """A terminal's output on its way into the spool."""

    def __init__(self, pty: Pty, path: Path, limit: int = 64 << 20) -> None:
        self.output = LiveOutput("merged", SpoolFile(path, limit))
        self.came = asyncio.Event()
        self.failures: list[BaseException] = []
        self.output.attach(os.dup(pty.master), self.came.set, self.failures.append)

    async def until(self, total: int) -> None:
        while self.output.spool_file.total < total:
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), 30)


# ---------------------------------------------------------------------------------------------------------- input


def test_what_is_typed_is_read_and_counted(pty: Pty) -> None:
    async def main() -> None:
        terminal = attached(pty)
        assert await terminal.type_in(b"hello", 30) == 5
        assert (pty.read(5), terminal.count) == (b"hello", 5)
        terminal.detach()

    run(main())


def test_more_than_a_pty_holds_is_typed_as_the_program_reads_it(pty: Pty) -> None:
    async def main() -> None:
        terminal = attached(pty)
        reading = asyncio.create_task(asyncio.to_thread(pty.read, len(FLOOD)))
        assert await terminal.type_in(FLOOD, 60) == len(FLOOD)
        assert await reading == FLOOD
        assert terminal.count == len(FLOOD)
        terminal.detach()

    run(main())


def test_what_a_program_does_not_read_in_time_is_not_said_to_be_typed(pty: Pty) -> None:
    """And what comes when it reads again follows without a gap."""

    async def main() -> None:
        terminal = attached(pty)
        taken = await terminal.type_in(FLOOD, 0.0)
        assert 0 < taken < len(FLOOD)
        assert terminal.count == taken
        reading = asyncio.create_task(asyncio.to_thread(pty.read, len(FLOOD)))
        assert await terminal.type_in(FLOOD[taken:], 60) == len(FLOOD) - taken
        assert await reading == FLOOD
        terminal.detach()

    run(main())


def test_a_count_that_was_never_known_stays_unknown(pty: Pty) -> None:
    async def main() -> None:
        terminal = attached(pty, counted=False)
        await terminal.type_in(b"x", 30)
        assert terminal.count is None
        terminal.detach()

    run(main())


def test_who_waits_for_a_terminal_that_goes_is_told_so(pty: Pty) -> None:
    async def main() -> None:
        terminal = attached(pty)
        typing = asyncio.create_task(terminal.type_in(FLOOD, 60))
        while not terminal.count:  # noqa: ASYNC110 - then it has typed what there is room for; short of memory, a kernel has none at first
            await asyncio.sleep(0.01)
        terminal.detach()
        with pytest.raises(TerminalClosed):
            await typing
        with pytest.raises(TerminalClosed):
            await terminal.type_in(b"x", 60)

    run(main())


def test_a_new_size_is_seen_inside(pty: Pty) -> None:
    async def main() -> None:
        terminal = attached(pty)
        terminal.resize(50, 132)
        size = struct.unpack("HHHH", fcntl.ioctl(pty.program, termios.TIOCGWINSZ, b"\0" * 8))
        assert size[:2] == (50, 132)
        terminal.detach()

    run(main())


def test_what_a_typist_has_given_is_counted_apart_and_kept_over_a_new_link(pty: Pty) -> None:
    async def main() -> None:
        terminal = attached(pty)
        assert (terminal.seat("one"), terminal.seat("other")) == (0, 0)
        await terminal.type_in(b"hello", 30, "one")
        assert (terminal.seat("one"), terminal.seat("other"), terminal.count) == (5, 0, 5)
        terminal.detach()

    run(main())


def test_typist_who_may_have_typed_before_is_not_said_to_have_typed_nothing(pty: Pty) -> None:
    """To a server before this one; or so many others ago that the count was dropped."""

    async def main() -> None:
        taken_over = Terminal(counted=False)
        assert (taken_over.seat("one"), taken_over.seat("one")) == (None, 0)
        terminal = attached(pty)
        assert terminal.seat("first") == 0
        await terminal.type_in(b"hello", 30, "first")
        for number in range(100):
            assert number > 60 or terminal.seat(f"typist-{number}") == 0
            terminal.seat(f"typist-{number}")
        assert terminal.seat("first") is None
        terminal.detach()

    run(main())


# --------------------------------------------------------------------------------------------------------- output


def test_all_that_a_program_shows_is_in_the_spool(pty: Pty, tmp_path: Path) -> None:
    async def main() -> None:
        screen = Screen(pty, tmp_path / "output")
        os.set_blocking(pty.program, True)
        await asyncio.to_thread(lambda: [os.write(pty.program, FLOOD[at : at + 1000]) for at in range(0, len(FLOOD), 1000)])
        await screen.output.linger(30, 1.0)
        facts = screen.output.finish()
        assert (facts["total"], facts["truncated"], screen.failures) == (len(FLOOD), None, [])
        assert (tmp_path / "output").read_bytes() == FLOOD

    run(main())


def test_the_end_of_a_terminal_is_the_end_of_its_output_and_no_failure(pty: Pty, tmp_path: Path) -> None:
    """A read says EIO then."""

    async def main() -> None:
        screen = Screen(pty, tmp_path / "output")
        os.write(pty.program, b"last words")
        await screen.until(10)
        pty.program_ends()
        await screen.output.linger(3600)
        assert (screen.output.finish()["total"], screen.failures) == (10, [])

    run(main())


def test_a_program_that_shows_nothing_leaves_no_file(pty: Pty, tmp_path: Path) -> None:
    async def main() -> None:
        screen = Screen(pty, tmp_path / "output")
        pty.program_ends()
        await screen.output.linger(3600)
        assert screen.output.finish()["total"] == 0
        assert not (tmp_path / "output").exists()

    run(main())


def test_what_is_still_on_its_way_through_the_kernel_is_waited_for_until_it_is_quiet(pty: Pty, tmp_path: Path) -> None:
    """The terminal stays open, as a session's does; the wait ends by itself."""

    async def main() -> None:
        screen = Screen(pty, tmp_path / "output")
        os.write(pty.program, b"prompt> ")
        await screen.output.linger(3600, 0.02)
        assert screen.output.finish()["total"] == 8

    run(main())


def test_the_output_limit_holds_for_a_terminal(pty: Pty, tmp_path: Path) -> None:
    async def main() -> None:
        screen = Screen(pty, tmp_path / "output", limit=1000)
        await asyncio.to_thread(os.write, pty.program, FLOOD[:3000])
        await screen.until(3000)
        facts = screen.output.finish()
        assert (facts["total"], facts["head"], facts["tail"], facts["truncated"]) == (3000, 500, 2500, "limit")

    run(main())


# ------------------------------------------------------------------------------------------------ as requests see it

EPOCH, EID = "epoch-of-a-test", "execution-on-a-terminal"
MINUTE_S, HOURS_S = 60.0, 36_000.0  # on a clock that jumps


def _follow(eid: str, epoch: str, at: Position | None) -> tuple[Correlation, AsyncGenerator[Event, None]]:
    raise AssertionError("nobody looks")


def sat_down(directory: Path) -> tuple[Server, LiveExecution, Terminals]:
    """An execution that has not started, and who types into its terminal."""
    server = Server(directory)
    server.sandbox.epoch = EPOCH
    live = server.post(EID, tty={})
    lookup = Lookup(server.executions, server.journal, server.spool, Metrics())
    return server, live, Terminals(lookup, _follow)


def starts(live: LiveExecution, pty: Pty) -> Terminal:
    assert live.terminal is not None
    live.terminal.attach(pty.master)
    live.moved.ring()
    return live.terminal


def test_what_is_typed_long_before_the_program_starts_is_typed_when_it_does(pty: Pty, tmp_path: Path) -> None:
    """A WebSocket that was there first: it is told of no byte that is refused, so none may be lost."""

    async def main() -> None:
        server, live, terminals = sat_down(tmp_path)
        typing = asyncio.create_task(terminals.type_on(EID, EPOCH, b"hello"))
        await asyncio.sleep(HOURS_S)
        terminal = starts(live, pty)
        await typing
        assert (pty.read(5), terminal.count) == (b"hello", 5)
        terminal.detach()
        server.die()

    jumping_clock.run(main())


def test_a_size_that_is_told_long_before_the_program_starts_is_its_own_when_it_does(pty: Pty, tmp_path: Path) -> None:
    async def main() -> None:
        server, live, terminals = sat_down(tmp_path)
        await terminals.resize(EID, EPOCH, 10, 20)
        await terminals.resize(EID, EPOCH, 33, 99)
        await asyncio.sleep(HOURS_S)
        terminal = starts(live, pty)
        assert struct.unpack("HHHH", fcntl.ioctl(pty.program, termios.TIOCGWINSZ, b"\0" * 8))[:2] == (33, 99)
        terminal.detach()
        server.die()

    jumping_clock.run(main())


def test_who_types_what_is_not_read_keeps_nobody_else_from_an_answer(pty: Pty, tmp_path: Path) -> None:
    async def main() -> None:
        server, live, terminals = sat_down(tmp_path)
        terminal = starts(live, pty)
        flooding = asyncio.create_task(terminals.type_on(EID, EPOCH, FLOOD))
        await asyncio.sleep(MINUTE_S)
        had = terminal.count
        assert await asyncio.wait_for(terminals.type_in(EID, EPOCH, b"", 0), MINUTE_S) == had
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        terminal.detach()
        server.die()

    jumping_clock.run(main())
