"""Executions whose stdout and stderr are apart: two pipes, two files, one result, whatever becomes of link and server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from remote_env.protocol import ExecutionSpec
from server import answers
from server.api.services import OutputSlice
from server.messages import LINK_VERSION, Ended, Ending, EndingFlag, EndingKind, Entry, Pipes, Started, Type
from server.problems import ProblemError
from server.slices import chosen_output, ended_slice, running_slice
from tests.unit.core.bench import Command, Server, play
from tests.unit.core.fake_init import FakeInit, exited, hello

EID = "execution-1"
RUNNING = (Entry(EID, 1, 5, None),)


async def whole(part: OutputSlice) -> bytes:
    return b"".join([piece async for piece in part.chunks])


async def started(server: Server, **spec: Any) -> tuple[FakeInit, Command, Command]:
    """A split execution that runs, what its stdout and its stderr look like from inside."""
    init, out, err = await server.link(), Command(), Command()
    server.post(EID, streams="split", **spec)
    assert await init.heard_id() == (Type.RUN, EID)
    init.say(Started(EID, 1, 5), [out.read_end(), err.read_end()])
    return init, out, err


def leave(init: FakeInit, *commands: Command) -> None:
    for command in commands:
        command.gone()
    init.close()


@pytest.mark.parametrize("sizes", [(0, 0), (3, 0), (0, 3), (65_537, 200_000)])
def test_each_stream_is_whole_with_a_count_and_sha256_of_its_own(tmp_path: Path, sizes: tuple[int, int]) -> None:
    contents = [bytes(range(256)) * (size // 256) + b"x" * (size % 256) for size in sizes]

    async def scene(server: Server) -> Server:
        init, out, err = await started(server)
        live = server.executions.live[EID]
        await asyncio.gather(asyncio.to_thread(out.prints, contents[0]), asyncio.to_thread(err.prints, contents[1]))
        init.say(Ended(EID, 1, exited(3)))
        answer = await server.ended(live)
        assert answer.outcome is not None and answer.outcome.code == 3
        assert answer.streams == "split" and answer.stderr is not None
        for output, content in zip((answer.output, answer.stderr), contents, strict=True):
            assert (output.total_bytes, output.truncated) == (len(content), None)
            assert output.sha256 == hashlib.sha256(content).hexdigest()
            assert output.inline() == content
        assert await init.heard_id() == (Type.ACK, EID)
        row = server.journal.execution(EID)
        assert row is not None and answers.row_answer(row, server.spool) == answer
        leave(init, out, err)
        return server

    play(tmp_path, scene)


def test_the_limit_holds_for_each_stream_by_itself(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init, out, err = await started(server, output_limit_bytes=10)
        live = server.executions.live[EID]
        out.prints(b"0123456789")
        err.prints(b"abcdefghijklmnop")
        init.say(Ended(EID, 1, exited()))
        answer = await server.ended(live)
        assert answer.stderr is not None
        assert (answer.output.text, answer.output.gap) == ("0123456789", None)
        assert (answer.stderr.text, answer.stderr.gap, answer.stderr.truncated) == ("abcdelmnop", (5, 11), "limit")
        leave(init, out, err)
        return server

    play(tmp_path, scene)


def test_a_slice_is_of_the_stream_that_is_asked_for_or_refused(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init, out, err = await started(server)
        live = server.executions.live[EID]
        out.prints(b"stdout here")
        err.prints(b"stderr")
        await server.output(live, 17)
        now = answers.live_answer(live)
        assert now.stderr is not None
        assert (now.streams, now.output.total_bytes, now.stderr.total_bytes) == ("split", 11, 6)
        running = {wanted: await whole(running_slice(live, chosen_output(live, wanted), 0, None)) for wanted in (None, "stdout", "stderr")}
        assert running == {None: b"stdout here", "stdout": b"stdout here", "stderr": b"stderr"}
        with pytest.raises(ProblemError, match="merged"):
            chosen_output(live, "merged")
        init.say(Ended(EID, 1, exited()))
        await server.ended(live)
        assert live.final is not None
        for wanted, content in running.items():
            assert await whole(ended_slice(server.spool, EID, live.final, wanted, 2, 6)) == content[2:6]
        with pytest.raises(ProblemError, match="merged"):
            ended_slice(server.spool, EID, live.final, "merged", 0, None)
        leave(init, out, err)
        return server

    play(tmp_path, scene)


def test_merged_output_has_no_streams_to_ask_for(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init = await server.link()
        live = server.post(EID)
        assert chosen_output(live, None) is chosen_output(live, "merged") is live.outputs[0]
        init.say(Ended(EID, 1, Ending(EndingKind.FAILED_TO_START)))
        answer = await server.ended(live)
        assert (answer.streams, answer.stderr) == ("merged", None)
        assert live.final is not None
        for wanted in ("stdout", "stderr"):
            with pytest.raises(ProblemError) as refused:
                ended_slice(server.spool, EID, live.final, wanted, 0, None)
            assert refused.value.problem.code == "wrong_state"
        init.close()
        return server

    play(tmp_path, scene)


def test_both_pipes_go_to_the_next_server_and_no_byte_of_either_is_missing(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init, out, err = await started(server)
        live = server.executions.live[EID]
        out.prints(b"out before, ")
        err.prints(b"err before, ")
        await server.output(live, 24)
        server.die()
        out.prints(b"out meanwhile, ")
        err.prints(b"err meanwhile, ")
        init.close()
        second = Server(tmp_path)
        live = second.executions.live[EID]
        assert live.total_bytes == 24  # what the first one wrote is there before any hello
        init = await second.link(1, RUNNING, ((EID, out.read_end()), (EID, err.read_end())))
        out.prints(b"out after")
        err.prints(b"err after")
        init.say(Ended(EID, 1, exited()))
        answer = await second.ended(live)
        assert answer.stderr is not None
        assert answer.output.text == "out before, out meanwhile, out after"
        assert answer.stderr.text == "err before, err meanwhile, err after"
        leave(init, out, err)
        return second

    play(tmp_path, scene)


@pytest.mark.parametrize("held", [0, 1], ids=["stdout", "stderr"])
def test_one_stream_that_descendants_hold_open_is_waited_for_and_both_are_marked(tmp_path: Path, held: int) -> None:
    async def scene(server: Server) -> Server:
        init, *commands = await started(server)
        live = server.executions.live[EID]
        commands[1 - held].prints(b"said")
        commands[1 - held].gone()
        init.say(Ended(EID, 1, Ending(EndingKind.EXITED, flags=EndingFlag.OUTPUT_OPEN)))
        commands[held].prints(b"last words")
        commands[held].gone()
        answer = await server.ended(live)
        outputs = [answer.output, answer.stderr]
        assert [output and output.text for output in outputs] == (["last words", "said"] if held == 0 else ["said", "last words"])
        assert [output and output.output_open for output in outputs] == [True, True]
        init.close()
        return server

    play(tmp_path, scene)


def test_a_split_command_whose_sandbox_died_is_lost_with_what_both_streams_said(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init, out, err = await started(server)
        live = server.executions.live[EID]
        out.prints(b"out")
        err.prints(b"err")
        leave(init, out, err)
        await server.executions.lose(live, "sandbox_died")
        answer = await server.ended(live)
        assert answer.outcome is not None and answer.stderr is not None
        assert (answer.outcome.kind, answer.output.text, answer.stderr.text) == ("lost", "out", "err")
        return server

    play(tmp_path, scene)


@pytest.mark.parametrize("fds", [1, 3])
def test_a_started_with_another_number_of_pipes_than_the_run_asked_for_ends_the_link(tmp_path: Path, fds: int) -> None:
    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        live = server.post(EID, streams="split")
        init.say(Started(EID, 1, 5), [command.read_end() for _ in range(fds)])
        assert await init.closed()
        assert live.ended_at is None and all(output.reader is None for output in live.outputs)
        leave(init, command)
        return server

    play(tmp_path, scene)


@pytest.mark.parametrize(("streams", "fds"), [("split", 1), ("merged", 2)])
def test_a_hello_with_another_number_of_pipes_than_the_journal_s_run_is_not_accepted(tmp_path: Path, streams: str, fds: int) -> None:
    async def scene(server: Server) -> Server:
        (await server.link()).close()
        await server.unlinked()
        server.sandbox.spec["link_version"] = LINK_VERSION
        live = server.post(EID, streams=streams)
        init, command = FakeInit(server.mounted), Command()
        init.say(hello(1, RUNNING, pipes=fds))
        init.say(Pipes((EID,) * fds), [command.read_end() for _ in range(fds)])
        assert await init.closed()
        assert live.ended_at is None and server.given_up == []
        leave(init, command)
        return server

    play(tmp_path, scene)


# --------------------------------------------------------------------------------------- inits of servers before


def test_an_init_of_version_1_refuses_split_before_anything_is_journaled_and_works_on(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init = FakeInit(server.mounted)
        init.say(hello(version=1))
        assert (await init.heard())[0] is Type.WELCOME
        for _ in range(2):
            with pytest.raises(ProblemError, match="make a new sandbox") as refused:
                server.post(EID, streams="split")
            assert (refused.value.problem.code, refused.value.problem.accepted) == ("invalid", False)
        assert server.journal.execution(EID) is None
        live, command = server.post(EID), Command()
        assert await init.heard_id() == (Type.RUN, EID)
        init.say(Started(EID, 1, 5), [command.read_end()])
        command.prints(b"merged")
        init.say(Ended(EID, 1, exited()))
        assert (await server.ended(live)).output.text == "merged"
        leave(init, command)
        return server

    play(tmp_path, scene)


@pytest.mark.parametrize(("written", "taken"), [({}, False), ({"link_version": 1}, False), ({"link_version": 2}, True)])
def test_while_the_link_is_down_the_journal_says_what_the_init_speaks(tmp_path: Path, written: dict[str, int], taken: bool) -> None:
    async def scene(server: Server) -> Server:
        (await server.link()).close()
        await server.unlinked()
        del server.sandbox.spec["link_version"]
        server.sandbox.spec |= written
        with contextlib.nullcontext() if taken else pytest.raises(ProblemError, match="make a new sandbox"):
            server.post(EID, streams="split")
        assert (EID in server.executions.live) == taken
        return server

    play(tmp_path, scene)


# ------------------------------------------------------------------------------------------------------ the journal


def test_rows_that_were_written_before_there_were_streams_are_answered_as_merged(tmp_path: Path) -> None:
    """An upgrade finds results of the server before it."""

    async def scene(server: Server) -> Server:
        init, command = await server.link(), Command()
        live = server.post(EID)
        init.say(Started(EID, 1, 5), [command.read_end()])
        command.prints(b"of old")
        init.say(Ended(EID, 1, exited(4)))
        answer = await server.ended(live)
        row = server.journal.execution(EID)
        assert row is not None and row.final is not None
        assert sorted(row.final["output"]) == ["head", "open", "sha256", "tail", "total", "truncated"]
        assert "stderr" not in row.final  # as it was written then, and still is
        assert answers.row_answer(row, server.spool) == answer
        leave(init, command)
        return server

    play(tmp_path, scene)


def test_the_hash_of_a_merged_spec_is_what_it_was_before_there_were_streams(tmp_path: Path) -> None:
    """A POST that is repeated to the next server must find its own row."""

    async def scene(server: Server) -> Server:
        hashed = server.executions.spec_hash
        merged, named, split = (ExecutionSpec(id=EID, command="true", **more) for more in ({}, {"streams": "merged"}, {"streams": "split"}))
        assert hashed(merged) == hashed(named) != hashed(split)
        (await server.link()).close()
        server.post(EID)
        with sqlite3.connect(tmp_path / "journal.sqlite3") as journal:
            (spec,) = journal.execute("SELECT spec FROM executions").fetchone()
        assert json.loads(spec) == {"command": "true"}
        return server

    play(tmp_path, scene)


def test_an_abandoned_id_that_asked_for_split_streams_is_no_command_at_all(tmp_path: Path) -> None:
    async def scene(server: Server) -> Server:
        init = await server.link()
        live = server.executions.fence(server.sandbox, EID)
        init.say(Ended(EID, 1, Ending(EndingKind.SKIPPED)))
        answer = await server.ended(live)
        assert (answer.state, answer.streams, answer.output.total_bytes) == ("abandoned", "merged", 0)
        init.close()
        return server

    play(tmp_path, scene)
