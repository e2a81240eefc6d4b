"""Executions over a real link, journal and spool: what the HTTP side gets to see, whatever becomes of link and server."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remote_env.protocol import ExecutionSpec
from server import answers
from server.machines.execution import CancelRequested
from server.messages import Ended, Ending, EndingFlag, EndingKind, Entry, Started, Type
from tests.unit.core.bench import Command, Server, play
from tests.unit.core.fake_init import PATIENCE_S, exited

SKIPPED = Ending(EndingKind.SKIPPED)


# ------------------------------------------------------------------------------------------------- the plain way


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 900_000])
def test_a_command_s_output_is_whole_and_its_sha256_is_right(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        live = server.post()
        assert await init.heard_id() == (Type.RUN, "execution-1")
        init.say(Started("execution-1", 1, 5), [command.read_end()])
        await asyncio.to_thread(command.prints, content)
        init.say(Ended("execution-1", 1, exited(3)))
        answer = await server.ended(live)
        assert answer.outcome is not None and answer.outcome.returncode == 3
        assert (answer.output.total_bytes, answer.output.truncated) == (size, None)
        assert answer.output.sha256 == hashlib.sha256(content).hexdigest()
        assert await init.heard_id() == (Type.ACK, "execution-1")
        row = server.journal.execution("execution-1")
        assert row is not None and answers.row_answer(row, server.spool) == answer
        command.gone()
        init.close()
        return server

    play(tmp_path, scene)


def test_commands_go_out_in_the_order_of_their_numbers_once_there_is_a_link(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        (await server.link()).close()
        await server.unlinked()
        for number in range(1, 30):
            server.post(f"execution-{number}")
        init = await server.link()
        heard = []
        for _ in range(1, 30):
            _, body, _ = await init.heard()
            heard.append(struct.unpack_from("<Q", body)[0])
        assert heard == list(range(1, 30))
        init.close()
        return server

    play(tmp_path, scene)


def test_what_descendants_still_say_is_waited_for_and_marked(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        live = server.post()
        init.say(Started("execution-1", 1, 5), [command.read_end()])
        init.say(Ended("execution-1", 1, Ending(EndingKind.EXITED, flags=EndingFlag.OUTPUT_OPEN)))
        command.prints(b"last words")
        command.gone()
        answer = await server.ended(live)
        assert (answer.output.text, answer.output.output_open) == ("last words", True)
        init.close()
        return server

    play(tmp_path, scene)


# -------------------------------------------------------------------------------------------- cancel and abandon


def test_a_cancel_before_the_run_was_sent_makes_it_a_skip(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        (await server.link()).close()
        await server.unlinked()
        live = server.post()
        server.executions.apply(live, CancelRequested())
        row = server.journal.execution("execution-1")
        assert row is not None and row.cancelling
        init = await server.link()
        assert await init.heard_id() == (Type.SKIP, "execution-1")
        init.say(Ended("execution-1", 1, SKIPPED))
        outcome = (await server.ended(live)).outcome
        assert outcome is not None and (outcome.kind, outcome.ran) == ("cancelled", False)
        init.close()
        return server

    play(tmp_path, scene)


def test_a_cancel_is_said_again_after_the_link_broke(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        live = server.post()
        init.say(Started("execution-1", 1, 5), [command.read_end()])
        command.prints(b".")
        await server.output(live, 1)
        server.executions.apply(live, CancelRequested())
        init.close()  # RUN and KILL are unread in it
        again = await server.link(1, (Entry("execution-1", 1, 5, None),), (("execution-1", command.read_end()),))
        assert await again.heard_id() == (Type.KILL, "execution-1")
        command.gone()
        again.close()
        return server

    play(tmp_path, scene)


def test_an_abandoned_id_ends_as_not_run_only_when_the_init_says_so(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init = await server.link()
        live = server.executions.fence(server.sandbox, "execution-1")
        assert await init.heard_id() == (Type.SKIP, "execution-1")
        assert live.ended_at is None and answers.live_answer(live).state == "accepted"
        init.say(Ended("execution-1", 1, SKIPPED))
        answer = await server.ended(live)
        assert answer.outcome is not None
        assert (answer.state, answer.outcome.kind, answer.outcome.ran) == ("abandoned", "not_run", False)
        init.close()
        return server

    play(tmp_path, scene)


# ------------------------------------------------------------------------------------------- the server's death


def test_a_command_outlives_the_server_and_loses_no_byte(tmp_path: Path) -> None:
    """The pipe is handed to the next server, which appends to what the first one wrote."""

    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        live = server.post()
        assert await init.heard_id() == (Type.RUN, "execution-1")
        init.say(Started("execution-1", 1, 5), [command.read_end()])
        command.prints(b"before, ")
        await server.output(live, 8)
        server.die()
        command.prints(b"meanwhile, ")
        init.close()
        second = Server(tmp_path)
        live = second.executions.live["execution-1"]
        init = await second.link(1, (Entry("execution-1", 1, 5, None),), (("execution-1", command.read_end()),))
        command.prints(b"after")
        init.say(Ended("execution-1", 1, exited()))
        assert (await second.ended(live)).output.text == "before, meanwhile, after"
        command.gone()
        init.close()
        return second

    play(tmp_path, scene)


def test_an_id_that_is_accepted_once_more_after_the_journal_was_set_back_keeps_its_output(tmp_path: Path) -> None:
    """The command runs, its row is gone, and a late copy of its request arrives before the init does. It gets its old number
    again, so nothing looks wrong; the file holds what the command had said until then."""

    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        with closing(sqlite3.connect(tmp_path / "copy")) as copy, closing(sqlite3.connect(server.journal.path)) as journal:
            journal.backup(copy)
        live = server.post()
        assert await init.heard_id() == (Type.RUN, "execution-1")
        init.say(Started("execution-1", 1, 5), [command.read_end()])
        command.prints(b"before, ")
        await server.output(live, 8)
        server.die()
        init.close()
        (tmp_path / "copy").rename(server.journal.path)
        second = Server(tmp_path)
        live = second.post()
        init = await second.link(1, (Entry("execution-1", 1, 5, None),), (("execution-1", command.read_end()),))
        command.prints(b"after")
        init.say(Ended("execution-1", 1, exited()))
        assert (await second.ended(live)).output.text == "before, after"
        command.gone()
        init.close()
        return second

    play(tmp_path, scene)


@pytest.mark.parametrize("starts", [True, False])
def test_what_the_spool_has_of_a_journal_that_was_lost_is_no_output_of_a_new_command(tmp_path: Path, starts: bool) -> None:
    async def scene(server: Server) -> Server:
        path = server.spool.path("execution-1")
        path.parent.mkdir(parents=True)
        path.write_bytes(b"of long ago")
        init, command = await server.link(), Command()
        live = server.post()
        if starts:
            init.say(Started("execution-1", 1, 5), [command.read_end()])
            command.prints(b"new")
        init.say(Ended("execution-1", 1, exited() if starts else Ending(EndingKind.FAILED_TO_START)))
        assert (await server.ended(live)).output.text == ("new" if starts else "")
        command.gone()
        init.close()
        return server

    play(tmp_path, scene)


def test_an_ending_that_came_while_no_server_was_there_is_taken_with_its_output(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        server.post(env={"KEY": "secret"})
        assert await init.heard_id() == (Type.RUN, "execution-1")
        server.die()
        init.close()
        command.prints(b"all of it")
        second = Server(tmp_path)
        live = second.executions.live["execution-1"]
        init = await second.link(1, (Entry("execution-1", 1, 5, exited(4)),), (("execution-1", command.read_end()),))
        answer = await second.ended(live)
        assert answer.outcome is not None and (answer.output.text, answer.outcome.code) == ("all of it", 4)
        assert await init.heard_id() == (Type.ACK, "execution-1")
        row = second.journal.execution("execution-1")
        assert row is not None and row.secrets is None and second.executions.wiping.wiped
        command.gone()
        init.close()
        return second

    play(tmp_path, scene)


def test_an_ack_that_was_lost_is_said_again(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init = await server.link()
        live = server.post()
        init.say(Ended("execution-1", 1, Ending(EndingKind.FAILED_TO_START)))
        await server.ended(live)
        init.close()
        again = await server.link(1, (Entry("execution-1", 1, 0, Ending(EndingKind.FAILED_TO_START)),))
        assert await again.heard_id() == (Type.ACK, "execution-1")
        again.close()
        return server

    play(tmp_path, scene)


# ---------------------------------------------------------------------------------------------------------- lost


def test_a_command_whose_sandbox_died_is_lost_with_the_output_so_far(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        live = server.post()
        init.say(Started("execution-1", 1, 5), [command.read_end()])
        command.prints(b"so far")
        await server.output(live, 1)
        init.close()
        command.gone()
        await server.executions.lose(live, "sandbox_died")
        answer = await server.ended(live)
        assert answer.outcome is not None
        assert (answer.outcome.kind, answer.outcome.reason, answer.outcome.ran) == ("lost", "sandbox_died", True)
        assert answer.output.text == "so far"
        return server

    play(tmp_path, scene)


def test_a_command_that_may_have_run_is_lost_as_unknown(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        (await server.link()).close()
        await server.unlinked()
        live = server.post()
        await server.executions.lose(live, "host_restarted")
        outcome = (await server.ended(live)).outcome
        assert outcome is not None and (outcome.kind, outcome.ran) == ("lost", "unknown")
        return server

    play(tmp_path, scene)


def test_secrets_leave_the_journal_once_the_command_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.wiping._WIPE_S", 0.0)

    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        live = server.post(env={"KEY": "secret"}, stdin="also secret")
        hashed = live.spec_hash
        init.say(Started("execution-1", 1, 5), [command.read_end()])
        while (row := server.journal.execution("execution-1")) is not None and row.secrets is not None:
            await server.committed.wait(PATIENCE_S)
        assert row is not None and row.spec_hash == hashed
        assert "secret" not in str(row.spec)
        command.gone()
        init.close()
        return server

    play(tmp_path, scene)


def test_the_same_spec_has_the_same_hash_and_another_has_another(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        def hashed(**spec: Any) -> bytes:
            return server.executions.spec_hash(ExecutionSpec(id="execution-1", **spec))

        assert hashed(command="true") == hashed(command="true", env={})
        others: list[dict[str, Any]] = [{"command": "false"}, {"env": {"A": "1"}}, {"stdin": "x"}, {"stdin": ""}, {"timeout_s": 7}]
        assert len({hashed(command="true"), *(hashed(**{"command": "true", **other}) for other in others)}) == 6
        return server

    play(tmp_path, scene)
