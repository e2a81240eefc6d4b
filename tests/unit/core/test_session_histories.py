"""Random histories of a session: commands, jobs, broken links and dead servers, on the real journal, spool, link and pipe. Whatever
happens, every command starts at most once, every byte is in one output, and in the right one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.answers import row_answer
from server.machines.execution import CancelRequested
from server.messages import Cause, Ended, Ending, EndingKind, Entry, Pipes, Stage, Started, Type, header, packet_body
from server.problems import ProblemError
from tests.unit.core.bench import Command, Server
from tests.unit.core.fake_init import FakeInit, exited, hello

SESSION = "session-0001"
HISTORIES, STEPS = 60, 60


@dataclass
class Held:
    """A line of the init's table."""

    number: int
    ending: Ending | None = None
    piped: bool = False


@dataclass
class Init:
    """A sandbox with one session: says and keeps what a real one does, when it is told to."""

    pipe: Command = field(default_factory=Command)
    table: dict[str, Held] = field(default_factory=dict)
    highest: int = 0
    alive: bool = False  # the session's shell
    running: str | None = None
    starts: dict[str, int] = field(default_factory=dict)
    link: FakeInit | None = None
    tokens: int = 0
    by_commands: dict[str, list[str]] = field(default_factory=dict)
    by_jobs: list[str] = field(default_factory=list)
    between: list[str] = field(default_factory=list)  # of those, what was said while there was no command at all

    def connect(self, server: Server) -> None:
        self.unlink()
        entries = tuple(Entry(id_, held.number, 1, held.ending) for id_, held in self.table.items())
        piped = [id_ for id_, held in self.table.items() if held.piped]
        self.link = FakeInit(server.mounted)
        self.link.say(hello(self.highest, entries, pipes=len(piped)))
        if piped:
            self.link.say(Pipes(tuple(piped)), [self.pipe.read_end() for _ in piped])

    def unlink(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None

    def says(self, message: Started | Ended, *fds: int) -> None:
        if self.link is None:
            for fd in fds:
                os.close(fd)
            return
        try:
            self.link.say(message, fds)
        except (BrokenPipeError, ConnectionResetError):
            self.unlink()

    def prints(self, token: str) -> str:
        self.tokens += 1
        whole = f"{token}{self.tokens};"
        self.pipe.prints(whole.encode())
        return whole

    def reads(self) -> None:
        """All that the server has sent."""
        while self.link is not None:
            try:
                data = self.link.sock.recv(65536)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self.unlink()
                return
            type_, body = header(data)[0], packet_body(data)
            if type_ is Type.WELCOME:
                continue
            at = 8 if type_ in (Type.RUN, Type.SKIP) else 0
            (length,) = struct.unpack_from("<I", body, at)
            id_ = body[at + 4 : at + 4 + length].decode()
            if at:
                (number,) = struct.unpack_from("<Q", body)
                assert number > self.highest, "a number came twice"
                self.highest = number
                self.table[id_] = Held(number)
            self.take(type_, id_)

    def take(self, type_: Type, id_: str) -> None:
        if type_ is Type.RUN and id_ == SESSION:
            self.alive = True
            self.starts_one(id_)
        elif type_ is Type.RUN and self.alive and self.running is None:
            self.running = id_
            self.starts_one(id_)
            self.works()
        elif type_ is Type.RUN:
            self.ends(id_, Ending(EndingKind.FAILED_TO_START, stage=Stage.SESSION, status=3))
        elif type_ is Type.SKIP:
            self.ends(id_, Ending(EndingKind.SKIPPED))
        elif type_ is Type.KILL and id_ == SESSION and self.alive:
            self.shell_ends(Ending(EndingKind.EXITED, cause=Cause.CANCEL, status=9))
        elif type_ is Type.KILL and id_ == self.running:
            self.running = None
            self.ends(id_, Ending(EndingKind.EXITED, cause=Cause.CANCEL, status=130 << 8))
        elif type_ is Type.ACK:
            self.table.pop(id_, None)

    def starts_one(self, id_: str) -> None:
        self.starts[id_] = self.starts.get(id_, 0) + 1
        self.table[id_].piped = True
        self.says(Started(id_, self.table[id_].number, 1), self.pipe.read_end())

    def works(self) -> None:
        """The command that runs says something."""
        if self.running is not None:
            self.by_commands.setdefault(self.running, []).append(self.prints(f"{self.running}:"))

    def ends(self, id_: str, ending: Ending) -> None:
        self.table[id_].ending = ending
        self.says(Ended(id_, self.table[id_].number, ending))

    def command_ends(self) -> None:
        if self.running is not None:
            id_, self.running = self.running, None
            self.ends(id_, exited())

    def shell_ends(self, ending: Ending, *, first: bool = False) -> None:
        """And its command with it. `first`: the shell's end is told first, which a real init does not do."""
        if not self.alive:
            return
        self.works()  # last words
        self.alive = False
        over = [SESSION] if self.running is None else [SESSION, self.running] if first else [self.running, SESSION]
        self.running = None
        for id_ in over:
            self.ends(id_, ending)


class History:
    """One random walk.

    Args:
        directory: of the data of all its servers.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.choice = random.Random(seed)
        self.server = Server(directory)
        self.init = Init()
        self.posted: list[str] = []
        self.steps = [
            self.post, self.post, self.job, self.job, self.turns, self.turns, self.turns, self.init_reads, self.init_reads, self.works,
            self.command_ends, self.command_ends, self.link_breaks, self.link_comes, self.link_comes, self.server_dies, self.cancel,
            self.shell_ends,
        ]  # fmt: skip

    async def walk(self) -> None:
        self.init.connect(self.server)
        await self.server.sandbox.linked.wait()
        self.server.post(SESSION, command=None, opens="session")
        for _ in range(STEPS):
            await self.choice.choice(self.steps)()
        await self.settle()

    async def turns(self) -> None:
        """The server's event loop goes round."""
        for _ in range(self.choice.randint(1, 6)):
            await asyncio.sleep(0)

    async def post(self) -> None:
        id_ = f"command-{len(self.posted):04}"
        with contextlib.suppress(ProblemError):  # it is busy, say
            self.server.post(id_, session=SESSION)
            self.posted.append(id_)

    async def job(self) -> None:
        """Something that an earlier command left behind speaks up."""
        if not self.init.alive:
            return  # what is said after a session's end is nobody's
        token = self.init.prints("job:")
        self.init.by_jobs.append(token)
        if set(self.server.executions.live) <= {SESSION} and self.init.running is None:
            self.init.between.append(token)

    async def init_reads(self) -> None:
        self.init.reads()

    async def works(self) -> None:
        self.init.works()

    async def command_ends(self) -> None:
        self.init.command_ends()

    async def shell_ends(self) -> None:
        """Seldom: there is only one."""
        if self.choice.random() < 0.2:
            self.init.shell_ends(exited(3), first=self.choice.random() < 0.5)

    async def link_breaks(self) -> None:
        self.init.unlink()

    async def link_comes(self) -> None:
        if self.init.link is None:
            self.init.connect(self.server)

    async def server_dies(self) -> None:
        assert (self.server.fatal, self.server.given_up) == ([], [])
        self.server.die()
        self.server = Server(self.directory)

    async def cancel(self) -> None:
        live = [each for each in self.server.executions.live.values() if each.id != SESSION]
        if live:
            self.server.executions.apply(self.choice.choice(live), CancelRequested())
            self.server.executions.pump(self.server.sandbox)

    async def settle(self) -> None:
        """No more faults: all comes to its end, the session's shell last."""
        for number in range(400):
            self.init.reads()
            if number % 4 == 3:
                self.init.command_ends()
            if not set(self.server.executions.live) - {SESSION}:
                self.init.shell_ends(exited(3))
            if not self.server.executions.live and not self.init.table:
                return
            if self.init.link is None:
                self.init.connect(self.server)
            for _ in range(4):
                await asyncio.sleep(0)
        raise AssertionError(f"never over: {list(self.server.executions.live)}, {list(self.init.table)}")

    def check(self) -> None:
        assert (self.server.fatal, self.server.given_up) == ([], [])
        assert set(self.init.starts.values()) <= {1}
        outputs = {id_: self.output(id_) for id_ in (SESSION, *self.posted)}
        for id_ in self.posted:
            assert [token for token in outputs[id_] if not token.startswith("job:")] == self.init.by_commands.get(id_, [])
        assert {token.partition(":")[0] for token in outputs[SESSION]} <= {"job"}
        assert [token for token in outputs[SESSION] if token in self.init.between] == self.init.between
        heard = sorted((token for tokens in outputs.values() for token in tokens if token.startswith("job:")), key=_age)
        assert heard == self.init.by_jobs

    def output(self, id_: str) -> list[str]:
        row = self.server.journal.execution(id_)
        assert row is not None
        answer = row_answer(row, self.server.spool)
        assert answer.outcome is not None
        assert (answer.outcome.ran is True) == (id_ in self.init.starts), answer.outcome
        text = answer.output.text
        assert text is not None
        assert text == "" or text.endswith(";")
        return [f"{token};" for token in text.split(";")[:-1]]


def _age(token: str) -> int:
    return int(token.rpartition(":")[2][:-1])


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_no_history_of_a_session_loses_doubles_or_mixes_a_byte(tmp_path: Path, seed: int) -> None:
    async def main() -> None:
        history = History(tmp_path, seed)
        try:
            await history.walk()
            history.check()
        finally:
            history.init.unlink()
            history.init.pipe.gone()
            history.server.die()

    asyncio.run(asyncio.wait_for(main(), 60))
