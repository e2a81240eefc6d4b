"""The agent itself: what it leaves behind when its server goes, and whose rights it has."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import select
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from server.bodies import PIECE
from server.fileagent import AgentError, AgentLost, Answer, FileAgent
from server.filecontent import off_loop
from server.filemessages import CONTENT_LIMIT, Flag, Operation, ReplyFlag
from server.filepacking import TreePacker
from server.files import SandboxFiles
from server.problems import ProblemError
from tests.files.agents import AgentProcess
from tests.files.conftest import Start

USER = 4242


def test_unfinished_files_are_removed_when_the_server_goes(root: Path, start_agent: Start) -> None:
    """A server that is killed closes its sockets: that is all the agent sees of it."""

    async def scene(process: AgentProcess) -> None:
        agent = FileAgent(process.socket)
        for name in (b"/one", b"/two"):
            os.close((await agent.ask(Operation.CREATE, name)).fd)
        assert len(os.listdir(root)) == 2
        assert all(name.startswith(".remote-env-upload-") for name in os.listdir(root))
        agent.close()

    process = start_agent(root)
    asyncio.run(scene(process))
    assert process.process.wait(30) == 0
    assert os.listdir(root) == []


def test_agent_has_its_users_rights_and_no_more(root: Path, start_agent: Start) -> None:
    (root / "private").mkdir(mode=0o700)
    (root / "private/file").write_bytes(b"secret")
    (root / "theirs").write_bytes(b"x")
    (root / "open").mkdir()
    (root / "open").chmod(0o777)

    async def scene(agent: FileAgent) -> None:
        files = SandboxFiles(agent)

        for refused in (files.open(b"/private/file"), files.listed(b"/private"), files.remove(b"/theirs", False)):
            with pytest.raises(ProblemError, match="permission_denied"):
                await refused
        await agent.ask(Operation.MAKE_DIRECTORY, b"/open/made", mode=0o755)
        assert (root / "open/made").stat().st_uid == USER
        agent.close()

    process = start_agent(root, USER)

    async def whole() -> None:
        await scene(FileAgent(process.socket))

    asyncio.run(whole())


def test_more_handles_than_there_are_places_for_are_refused(root: Path, start_agent: Start) -> None:
    async def scene(process: AgentProcess) -> None:
        agent = FileAgent(process.socket)
        for _ in range(256):
            await agent.ask(Operation.DIRECTORY, b"/")
        with pytest.raises(AgentError) as refused:
            await agent.ask(Operation.DIRECTORY, b"/")
        assert refused.value.number == errno.EMFILE
        agent.release(7)
        assert (await agent.ask(Operation.DIRECTORY, b"/")).handle == 7
        agent.close()

    asyncio.run(scene(start_agent(root)))


@pytest.mark.parametrize("path", [b"..", b"a/../..", b"/etc", b"a//b", b"./a", b"a/", b"link/passwd", b"link"])
def test_what_is_beneath_a_handle_never_leads_out(root: Path, start_agent: Start, path: bytes) -> None:
    (root / "tree/a/b").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_bytes(b"x")
    (root / "tree/link").symlink_to("/etc")

    async def scene(process: AgentProcess) -> None:
        agent = FileAgent(process.socket)
        handle = (await agent.ask(Operation.DIRECTORY, b"/tree")).handle
        for operation in (Operation.OPEN, Operation.DIRECTORY, Operation.EMPTY, Operation.SET):
            with pytest.raises(AgentError):
                await agent.ask(operation, path, flags=Flag.BENEATH | Flag.FOLLOW, handle=handle)
        agent.close()

    asyncio.run(scene(start_agent(root)))
    assert (root / "etc/passwd").read_bytes() == b"x"


def test_killed_agent_fails_what_was_asked_and_is_noticed(root: Path, start_agent: Start) -> None:
    async def scene(process: AgentProcess) -> None:
        ended = asyncio.Event()
        agent = FileAgent(process.socket, ended.set)
        process.process.kill()
        await ended.wait()
        with pytest.raises(AgentLost):
            await agent.ask(Operation.STAT, b"/")

    process = AgentProcess(start_agent(root).binary, root)
    asyncio.run(scene(process))
    process.process.wait(30)


def test_new_file_that_somebody_removes_at_once_fails_alone(root: Path, start_agent: Start) -> None:
    """As `rm -r` of the directory beside an upload does: the agent, which others use too, goes on."""

    async def scene(process: AgentProcess) -> None:
        agent = FileAgent(process.socket)
        creating = asyncio.create_task(agent.ask(Operation.CREATE, b"/new"))
        await asyncio.sleep(0)
        select.select([process.socket], [], [], 30)  # answered, and not read yet
        (temporary,) = os.listdir(root)
        (root / temporary).unlink()
        with pytest.raises(AgentError) as refused:
            await creating
        assert refused.value.number == errno.ENOENT
        assert (await agent.ask(Operation.DIRECTORY, b"/")).handle == 1  # the handle is free again
        agent.close()

    asyncio.run(scene(start_agent(root)))


def test_nothing_stays_open_of_an_answer_that_nobody_waits_for_any_more(root: Path, start_agent: Start) -> None:
    (root / "file").write_bytes(b"x")

    async def scene(process: AgentProcess) -> None:
        agent = FileAgent(process.socket)
        before = len(os.listdir("/proc/self/fd"))
        asking = asyncio.create_task(agent.ask(Operation.OPEN, b"/file"))
        await asyncio.sleep(0)
        select.select([process.socket], [], [], 30)
        watching = os.dup(process.socket.fileno())
        asyncio.get_running_loop().add_reader(watching, asking.cancel)  # behind the agent's own, in the same turn of the loop
        await asyncio.wait([asking])
        asyncio.get_running_loop().remove_reader(watching)
        os.close(watching)
        assert asking.cancelled()
        await agent.ask(Operation.STAT, b"/")
        assert len(os.listdir("/proc/self/fd")) == before
        agent.close()

    asyncio.run(scene(start_agent(root)))


class Growing(FileAgent):
    """Someone in the sandbox makes a file large just before it is opened."""

    def __init__(self, process: AgentProcess, victim: Path, size: int) -> None:
        super().__init__(process.socket)
        self._victim, self._size = victim, size

    async def ask(self, operation: Operation, path: bytes = b"", **more: Any) -> Answer:
        if operation is Operation.OPEN:
            os.truncate(self._victim, self._size)
        return await super().ask(operation, path, **more)


def test_file_that_has_grown_since_it_was_listed_is_packed_piece_by_piece(root: Path, start_agent: Start) -> None:
    (root / "tree").mkdir()
    for name in ("one", "two"):
        (root / "tree" / name).write_bytes(b"x")
    size = 64 << 20

    async def scene(process: AgentProcess) -> None:
        agent = Growing(process, root / "tree/one", size)
        packer = TreePacker(agent, b"/tree", None)
        await packer.begin()
        pieces = [piece async for piece in packer.pieces()]
        packer.close()
        await agent.ask(Operation.STAT, b"/")  # and it has closed its handle
        agent.close()
        assert max(map(len, pieces)) <= PIECE
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            assert {member.name: member.size for member in tar} == {"tree": 0, "tree/one": size, "tree/two": 1}

    asyncio.run(scene(start_agent(root)))


def test_work_on_a_descriptor_outlasts_every_cancellation() -> None:
    """Whoever is cancelled again and again, as by a task group that is left, returns only when its thread is done: it closes the
    descriptor then, and the number may be another file's."""

    async def scene() -> None:
        begun, go = threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            go.wait(30)

        task = asyncio.create_task(off_loop(work))
        await asyncio.to_thread(begun.wait, 30)
        for _ in range(5):
            task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
            assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scene())


def test_killed_agent_leaves_nothing_where_files_can_be_without_a_name(tmp_path: Path, as_root: None, start_agent: Start) -> None:
    """The OOM killer and `kill -9 -1` end agents at any moment."""

    async def scene(process: AgentProcess) -> bool:
        ended = asyncio.Event()
        agent = FileAgent(process.socket, ended.set)
        created = await agent.ask(Operation.CREATE, os.fsencode(tmp_path / "file"))
        os.write(created.fd, b"half of it")
        os.close(created.fd)
        process.process.kill()
        await ended.wait()
        return bool(created.flags & ReplyFlag.UNNAMED)

    process = AgentProcess(start_agent().binary)
    unnamed = asyncio.run(scene(process))
    process.process.wait(30)
    if not unnamed:
        pytest.skip("this file system has no O_TMPFILE")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("there", [False, True])
def test_file_without_a_name_gets_it_at_once_and_whole(tmp_path: Path, as_root: None, start_agent: Start, there: bool) -> None:
    if there:
        (tmp_path / "file").write_bytes(b"before")
        (tmp_path / "file").chmod(0o604)

    async def scene(process: AgentProcess) -> None:
        agent = FileAgent(process.socket)
        created = await agent.ask(Operation.CREATE, os.fsencode(tmp_path / "file"))
        os.write(created.fd, b"after")
        os.close(created.fd)
        done = await agent.ask(Operation.COMMIT, handle=created.handle, mode=0o640, flags=Flag.KEEP_MODE)
        assert bool(done.flags & ReplyFlag.REPLACED) == there
        agent.close()

    asyncio.run(scene(start_agent()))
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"after"
    assert (tmp_path / "file").stat().st_mode & 0o777 == (0o604 if there else 0o640)


def test_files_are_written_in_the_order_they_were_begun(root: Path, start_agent: Start) -> None:
    async def scene(process: AgentProcess) -> None:
        agent = FileAgent(process.socket)
        assert await agent.writes()
        begun = [agent.begin(Operation.WRITE, b"/file", mode=0o600, content=bytes([n]) * CONTENT_LIMIT) for n in range(100)]
        refused = agent.begin(Operation.WRITE, b"/missing/file", content=b"x")
        assert all([(await each).entry.size == CONTENT_LIMIT for each in begun])
        with pytest.raises(AgentError) as raised:
            await refused
        assert raised.value.number == errno.ENOENT
        agent.close()

    asyncio.run(scene(start_agent(root)))
    assert os.listdir(root) == ["file"]
    assert (root / "file").read_bytes() == bytes([99]) * CONTENT_LIMIT


@pytest.mark.parametrize(("depth", "width"), [(3, 1500), (250, 2)])
def test_tree_of_any_depth_and_width_is_removed(root: Path, start_agent: Start, depth: int, width: int) -> None:
    (root / "outside").write_bytes(b"stays")
    top = at = os.open(root, os.O_PATH)
    for level in range(depth):  # step by step: the path may be longer than one can be
        os.mkdir("d", dir_fd=at)
        at = os.open("d", os.O_PATH, dir_fd=at)
        for number in range(width if level == depth - 1 else 1):
            os.symlink("/outside", f"link{number}", dir_fd=at)
    os.close(top)

    async def scene(process: AgentProcess) -> None:
        agent = FileAgent(process.socket)
        await SandboxFiles(agent).remove(b"/d", recursive=True)
        agent.close()

    asyncio.run(scene(start_agent(root)))
    assert os.listdir(root) == ["outside"]


def test_what_cannot_be_removed_of_a_tree_is_named(root: Path, start_agent: Start) -> None:
    (root / "top/tree/mine/theirs").mkdir(parents=True)
    (root / "top/tree/mine/theirs/file").write_bytes(b"")
    for path in (root / "top", root / "top/tree", root / "top/tree/mine"):
        os.chown(path, USER, USER)

    async def scene(process: AgentProcess) -> None:
        agent = FileAgent(process.socket)
        with pytest.raises(ProblemError, match="/top/tree/mine/theirs: Permission denied") as raised:
            await SandboxFiles(agent).remove(b"/top/tree", recursive=True)
        assert raised.value.problem.code == "permission_denied"
        await agent.ask(Operation.STAT, b"/")  # behind what it let go of: nothing is unread when it is closed
        agent.close()

    asyncio.run(scene(start_agent(root, USER)))
    assert (root / "top/tree/mine/theirs/file").exists()
