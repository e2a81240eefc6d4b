"""What an init says that it must not say, or that its server has another memory of: over a real link, journal and spool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.messages import Ended, Ending, EndingKind, Entry, Stale, Started
from tests.unit.core.bench import SANDBOX, Command, Server, play
from tests.unit.core.fake_init import INCARNATION, SECRET, FakeInit, exited, hello

SKIPPED = Ending(EndingKind.SKIPPED)


# ------------------------------------------------------------------------------------------ what must not be said


@pytest.mark.parametrize(
    ("said", "fds"),
    [
        (Stale("execution-1", 1), 0),
        (Ended("nobody-knows", 1, SKIPPED), 0),
        (Ended("execution-1", 2, SKIPPED), 0),
        (Started("execution-1", 7, 1), 1),
        (Started("nobody-knows", 1, 1), 1),
    ],
    ids=["stale", "ended, unknown", "ended, other number", "started, other number", "started, unknown"],
)
def test_an_init_that_says_what_cannot_be_loses_its_link_and_nothing_else(tmp_path: Path, said: Ended, fds: int) -> None:
    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        live = server.post()
        init.say(said, [command.read_end() for _ in range(fds)])
        assert await init.closed()
        assert live.ended_at is None and server.given_up == []
        await server.link()
        command.gone()
        init.close()
        return server

    play(tmp_path, scene)


def test_a_hello_that_contradicts_what_the_server_saw_is_not_accepted(tmp_path: Path) -> None:
    """It lists as never arrived what it said had started: another table than before, under the same incarnation."""

    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        live = server.post()
        init.say(Started("execution-1", 1, 5), [command.read_end()])
        command.prints(b".")
        await server.output(live, 1)
        init.close()
        liar = FakeInit(server.mounted)
        liar.say(hello(0))
        assert await liar.closed()
        assert live.ended_at is None
        command.gone()
        liar.close()
        return server

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (hello(0, incarnation=bytes(16)), "sandbox_died"),
        (hello(9), "journal_set_back"),
        (hello(1), "journal_set_back"),
    ],
    ids=["restarted", "numbers that nobody gave", "a result that is gone"],
)
def test_a_sandbox_that_is_not_the_journal_s_is_given_up_and_nothing_is_sent_to_it(tmp_path: Path, said: Any, reason: str) -> None:
    async def scene(server: Server) -> Server:
        (await server.link()).close()
        await server.unlinked()
        server.post()
        other = FakeInit(server.mounted)
        other.say(said)
        with pytest.raises(EOFError):
            await other.heard()
        assert server.given_up == [reason]
        other.close()
        return server

    play(tmp_path, scene)


def test_the_incarnation_is_committed_at_the_first_hello(tmp_path: Path) -> None:
    """INCARN."""

    async def scene(server: Server) -> Server:
        init = await server.link()
        row = server.journal.sandbox(SANDBOX)
        assert row is not None
        assert (row.state, row.epoch, row.secret) == ("running", INCARNATION.hex(), SECRET)
        init.close()
        return server

    play(tmp_path, scene)


def test_a_first_hello_that_knows_of_commands_is_not_accepted(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init = FakeInit(server.mounted)
        init.say(hello(1, (Entry("execution-1", 1, 1, exited()),)))
        assert await init.closed()
        row = server.journal.sandbox(SANDBOX)
        assert row is not None and row.state == "creating"
        init.close()
        return server

    play(tmp_path, scene)
