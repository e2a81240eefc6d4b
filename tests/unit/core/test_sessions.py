"""Sessions over a real link, journal and spool: whose a byte is, and what becomes of it when server or link go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from remote_env.protocol import Outcome
from server.answers import live_answer
from server.live import LiveExecution
from server.machines.execution import CancelRequested
from server.messages import SPLIT_SINCE, Cause, Ended, Ending, EndingFlag, EndingKind, Entry, Stage, Started, Type
from server.problems import ProblemError
from tests.unit.core.bench import Command, Server, play
from tests.unit.core.fake_init import FakeInit, exited, hello

SESSION, FIRST, SECOND = "session-0001", "command-0001", "command-0002"


class Shell:
    """A session as its init has it: one pipe, commands one after the other."""

    def __init__(self, server: Server, init: FakeInit) -> None:
        self.server, self.init = server, init
        self.pipe = Command()
        self.live: LiveExecution

    async def open(self, **spec: Any) -> Shell:
        self.live = self.server.post(SESSION, command=None, opens="session", **spec)
        assert await self.init.heard_id() == (Type.RUN, SESSION)
        self.init.say(Started(SESSION, self.live.number, 5), [self.pipe.read_end()])
        await self.seen(self.live)
        return self

    async def send(self, eid: str, **spec: Any) -> LiveExecution:
        """The command's run has come to the init."""
        live = self.server.post(eid, session=SESSION, **spec)
        assert await self.init.heard_id() == (Type.RUN, eid)
        return live

    def starts(self, live: LiveExecution) -> None:
        self.init.say(Started(live.id, live.number, 6), [self.pipe.read_end()])

    def ends(self, live: LiveExecution, ending: Ending | None = None) -> None:
        self.init.say(Ended(live.id, live.number, ending or exited()))

    async def seen(self, live: LiveExecution) -> None:
        while live.started_at is None:
            await live.moved.wait(30)

    async def run(self, eid: str, content: bytes) -> str | None:
        live = await self.send(eid)
        self.starts(live)
        self.pipe.prints(content)
        self.ends(live)
        answer = await self.server.ended(live)
        assert await self.init.heard_id() == (Type.ACK, eid)
        return answer.output.text


def scene_with_session(directory: Path, scene: Callable[[Server, Shell], Awaitable[Server]], **spec: Any) -> None:
    async def whole(server: Server) -> Server:
        init = await server.link()
        shell = await Shell(server, init).open(**spec)
        last = await scene(server, shell)
        shell.pipe.gone()
        init.close()
        return last

    play(directory, whole)


def refusal(server: Server, eid: str = FIRST, **spec: Any) -> tuple[str, str]:
    highest = server.sandbox.highest
    with pytest.raises(ProblemError) as refused:
        server.post(eid, **{"session": SESSION, **spec})
    assert (server.sandbox.highest, server.journal.execution(eid)) == (highest, None)
    return refused.value.problem.code, refused.value.problem.detail


# ---------------------------------------------------------------------------------------------------- whose is it


def test_what_is_said_between_commands_is_the_sessions_and_what_a_command_says_is_its_own(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        shell.pipe.prints(b"before ")
        assert await shell.run(FIRST, b"one") == "one"
        shell.pipe.prints(b"between ")
        assert await shell.run(SECOND, b"two") == "two"
        shell.pipe.prints(b"after")
        shell.ends(shell.live, exited(3))
        answer = await server.ended(shell.live)
        assert answer.output.text == "before between after"
        assert (answer.opens, answer.session, answer.session_over) == ("session", None, False)
        return server

    scene_with_session(tmp_path, scene)


def test_a_command_says_whose_it_is(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        live = await shell.send(FIRST)
        assert (live_answer(live).session, live_answer(live).opens) == (SESSION, None)
        shell.starts(live)
        shell.ends(live, Ending(EndingKind.EXITED, flags=EndingFlag.SESSION_OVER, status=3 << 8))
        answer = await server.ended(live)
        assert (answer.session, answer.session_over) == (SESSION, True)
        row = server.journal.execution(FIRST)
        assert row is not None
        assert row.final is not None
        assert row.final["session_over"] is True
        return server

    scene_with_session(tmp_path, scene)


def test_a_job_that_writes_on_does_not_hold_up_the_command_that_began_it(tmp_path: Path) -> None:
    """No drain grace within a session (here it is an hour): what a job says later is the session's."""

    async def scene(server: Server, shell: Shell) -> Server:
        live = await shell.send(FIRST)
        shell.starts(live)
        shell.pipe.prints(b"mine")
        shell.ends(live, Ending(EndingKind.EXITED, flags=EndingFlag.OUTPUT_OPEN))
        assert (await server.ended(live)).output.text == "mine"
        shell.pipe.prints(b"later")
        await server.output(shell.live, 5)
        return server

    scene_with_session(tmp_path, scene)


def test_a_command_that_could_not_start_gives_the_pipe_back(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        live = await shell.send(FIRST)
        shell.ends(live, Ending(EndingKind.FAILED_TO_START, stage=Stage.SESSION, status=3))
        outcome = (await server.ended(live)).outcome
        assert outcome == Outcome(kind="failed_to_start", reason="session_over", errno=3, ran=False)
        shell.pipe.prints(b"heard")
        await server.output(shell.live, 5)
        return server

    scene_with_session(tmp_path, scene)


# --------------------------------------------------------------------------------------------------- who is let in


def test_one_command_at_a_time(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        live = await shell.send(FIRST)
        code, detail = refusal(server, SECOND)
        assert (code, FIRST in detail) == ("session_busy", True)
        shell.starts(live)
        assert refusal(server, SECOND)[0] == "session_busy"
        shell.ends(live)
        await server.ended(live)
        assert await shell.init.heard_id() == (Type.ACK, FIRST)
        assert await shell.run(SECOND, b"") == ""
        return server

    scene_with_session(tmp_path, scene)


def test_a_session_that_has_not_started_is_busy(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init = await server.link()
        server.post(SESSION, command=None, opens="session")
        assert refusal(server)[0] == "session_busy"
        init.close()
        return server

    play(tmp_path, scene)


def test_what_is_no_session_here_takes_no_command(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        assert refusal(server, session="session-0002") == ("session_ended", "session session-0002 is unknown in this sandbox")
        server.post("command-0009")
        assert "unknown" in refusal(server, session="command-0009")[1]
        return server

    scene_with_session(tmp_path, scene)


def test_a_session_that_is_over_says_how_it_ended_before_and_after_its_commit(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        shell.ends(shell.live, exited(3))
        await server.ended(shell.live)
        assert refusal(server) == ("session_ended", f"session {SESSION} is over: exited with code 3")
        server.die()
        second = Server(tmp_path)
        assert refusal(second) == ("session_ended", f"session {SESSION} is over: exited with code 3")
        return second

    scene_with_session(tmp_path, scene)


def test_a_session_that_is_being_closed_takes_no_command(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        server.executions.apply(shell.live, CancelRequested())
        assert refusal(server) == ("session_ended", f"session {SESSION} is being closed")
        return server

    scene_with_session(tmp_path, scene)


def test_a_terminal_and_a_second_output_have_to_have_been_asked_for(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        assert refusal(server, tty={})[0] == "invalid"
        assert refusal(server, streams="split")[0] == "invalid"
        return server

    scene_with_session(tmp_path, scene)


@pytest.mark.parametrize(
    ("wanted", "spec"),
    [
        ("session", {"command": None, "opens": "session"}), ("session", {"session": SESSION}), ("tty", {"tty": {}}),
        ("stdin_path", {"stdin_path": "/in"}),
    ],
)  # fmt: skip
def test_an_init_of_an_older_server_is_asked_for_nothing_that_it_does_not_know(tmp_path: Path, wanted: str, spec: dict[str, Any]) -> None:
    async def scene(server: Server) -> Server:
        init = FakeInit(server.mounted)
        init.say(hello(version=SPLIT_SINCE))
        assert (await init.heard())[0] is Type.WELCOME
        code, detail = refusal(server, **{"session": None, **spec})
        assert (code, detail.startswith(wanted), "make a new sandbox" in detail) == ("invalid", True, True)
        server.post(FIRST)
        assert await init.heard_id() == (Type.RUN, FIRST)
        init.close()
        return server

    play(tmp_path, scene)


# ----------------------------------------------------------------------------------------------- links and servers


def test_a_command_found_running_by_the_next_server_keeps_all_it_says_and_the_session_lives(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        shell.pipe.prints(b"job ")
        live = await shell.send(FIRST)
        shell.starts(live)
        shell.pipe.prints(b"while it watched, ")
        await server.output(live, 18)
        server.die()
        shell.init.close()
        shell.pipe.prints(b"while nobody did, ")
        second = Server(tmp_path)
        entries = (Entry(SESSION, 1, 5, None), Entry(FIRST, 2, 6, None))
        shell.init = await second.link(2, entries, ((SESSION, shell.pipe.read_end()), (FIRST, shell.pipe.read_end())))
        shell.server, shell.live = second, second.executions.live[SESSION]
        assert refusal(second, SECOND)[0] == "session_busy"
        shell.pipe.prints(b"and again")
        shell.ends(second.executions.live[FIRST])
        answer = await second.ended(second.executions.live[FIRST])
        assert (answer.output.text, answer.session) == ("while it watched, while nobody did, and again", SESSION)
        assert await shell.init.heard_id() == (Type.ACK, FIRST)
        assert await shell.run(SECOND, b"two") == "two"
        shell.pipe.prints(b"over")
        shell.ends(shell.live)
        assert (await second.ended(shell.live)).output.text == "job over"
        return second

    scene_with_session(tmp_path, scene)


def test_both_ended_while_no_server_was_there_and_each_gets_its_own(tmp_path: Path) -> None:
    """`exit 3`: one pipe, two endings in one hello."""

    async def scene(server: Server, shell: Shell) -> Server:
        shell.pipe.prints(b"job ")
        live = await shell.send(FIRST)
        shell.starts(live)
        await shell.seen(live)
        server.die()
        shell.init.close()
        shell.pipe.prints(b"last words")
        second = Server(tmp_path)
        entries = (Entry(SESSION, 1, 5, exited(3)), Entry(FIRST, 2, 6, exited(3)))
        pipes = ((SESSION, shell.pipe.read_end()), (FIRST, shell.pipe.read_end()))
        commands = [second.executions.live[id_] for id_ in (SESSION, FIRST)]
        shell.init = await second.link(2, entries, pipes)
        texts = [(await second.ended(live)).output.text for live in commands]
        assert texts == ["job ", "last words"]
        assert [await shell.init.heard_id() for _ in range(2)] == [(Type.ACK, FIRST), (Type.ACK, SESSION)]
        return second

    scene_with_session(tmp_path, scene)


def test_a_sessions_ending_that_comes_first_waits_for_its_commands(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        live = await shell.send(FIRST)
        shell.starts(live)
        shell.pipe.prints(b"mine")
        shell.ends(shell.live, exited(3))
        shell.ends(live, exited(3))
        assert (await server.ended(live)).output.text == "mine"
        assert (await server.ended(shell.live)).output.text == ""
        return server

    scene_with_session(tmp_path, scene)


def test_a_run_that_was_lost_with_the_link_is_sent_again_and_the_session_heard_meanwhile(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        shell.init.close()
        await server.unlinked()
        live = server.post(FIRST, session=SESSION)
        shell.init = await server.link(1, (Entry(SESSION, 1, 5, None),), ((SESSION, shell.pipe.read_end()),))
        assert await shell.init.heard_id() == (Type.RUN, FIRST)
        shell.init.close()
        await server.unlinked()
        shell.pipe.prints(b"not of the command, which was not there")
        shell.init = await server.link(1, (Entry(SESSION, 1, 5, None),), ((SESSION, shell.pipe.read_end()),))
        assert await shell.init.heard_id() == (Type.RUN, FIRST)
        shell.starts(live)
        shell.pipe.prints(b"mine")
        shell.ends(live)
        assert (await server.ended(live)).output.text == "mine"
        await server.output(shell.live, 39)
        return server

    scene_with_session(tmp_path, scene)


# -------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("ending", "ran"),
    [
        (Ending(EndingKind.EXITED, cause=Cause.CANCEL, status=9), True),
        (Ending(EndingKind.FAILED_TO_START, stage=Stage.SESSION, status=3), False),
    ],
    ids=["it ran", "it came too late"],
)
def test_the_command_of_a_session_that_is_closed_is_cancelled_for_that(tmp_path: Path, ending: Ending, ran: bool) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        live = await shell.send(FIRST)
        if ran:
            shell.starts(live)
        server.executions.apply(shell.live, CancelRequested())
        assert await shell.init.heard_id() == (Type.KILL, SESSION)
        shell.ends(live, ending)
        assert (await server.ended(live)).outcome == Outcome(kind="cancelled", reason="session_closed", ran=ran)
        shell.ends(shell.live, Ending(EndingKind.EXITED, cause=Cause.CANCEL, status=9))
        assert (await server.ended(shell.live)).outcome == Outcome(kind="cancelled", ran=True)
        return server

    scene_with_session(tmp_path, scene)


def test_a_command_that_was_cancelled_by_itself_says_nothing_of_its_session(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        live = await shell.send(FIRST)
        server.executions.apply(live, CancelRequested())
        shell.ends(live, Ending(EndingKind.EXITED, cause=Cause.CANCEL, status=130 << 8))
        assert (await server.ended(live)).outcome == Outcome(kind="cancelled", ran=True)
        return server

    scene_with_session(tmp_path, scene)


@pytest.mark.parametrize("held", [False, True], ids=["both run", "the session's ending is here"])
def test_lost_with_its_sandbox_a_command_keeps_what_it_said_before_its_session_does(tmp_path: Path, held: bool) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        live = await shell.send(FIRST)
        shell.starts(live)
        await shell.seen(live)
        shell.pipe.prints(b"mine")
        if held:
            shell.ends(shell.live)
            while shell.live.ending is None and shell.live.machine.held is None:
                assert server.sandbox.link is not None
                server.sandbox.link.read(8)
        shell.pipe.closes()
        await server.executions.lose(shell.live, "sandbox_died")
        assert (await server.ended(live)).output.text == "mine"
        assert (await server.ended(shell.live)).output.text == ""
        outcome = (await server.ended(shell.live)).outcome
        assert outcome is not None
        assert outcome.kind == ("exited" if held else "lost")
        return server

    scene_with_session(tmp_path, scene)


def test_a_session_has_no_clock_and_neither_has_what_wants_none(tmp_path: Path) -> None:
    async def scene(server: Server, shell: Shell) -> Server:
        live = await shell.send(FIRST, timeout_s=None)
        assert (shell.live.deadline, live.deadline) == (None, None)
        return server

    scene_with_session(tmp_path, scene)
