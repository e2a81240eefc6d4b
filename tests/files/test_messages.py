"""What an agent may say: everything else ends it."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.fileagent import AgentError, AgentLost, FileAgent
from server.filemessages import PATH_LIMIT, Entry, EntryFlag, Operation, Reply, ReplyFlag, parse, request
from server.messages import BadMessage
from tests.files.agents import AgentProcess

HEAD, ENTRY, LENGTH = struct.Struct("<IiIII"), struct.Struct("<IIIIQqIIQQ"), struct.Struct("<I")
WORD, LONG = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 63) - 1)

names = st.binary(min_size=0, max_size=255).filter(lambda name: not set(name) & set(b"/\0") and name not in (b".", b".."))
entries = st.builds(
    Entry, mode=st.integers(0, 0xFFFF).filter(stat.S_ISLNK), uid=WORD, gid=WORD, flags=st.sampled_from(EntryFlag), size=LONG,
    mtime_ns=st.integers(-(1 << 62), 1 << 62), dev=LONG, ino=LONG, name=names,
    target=st.binary(max_size=300).map(lambda text: text.replace(b"\0", b"")),
)  # fmt: skip


def packed(reply: Reply) -> bytes:
    parts = [HEAD.pack(reply.number, reply.error, reply.handle, reply.flags, len(reply.entries))]
    for entry in reply.entries:
        seconds, nanoseconds = divmod(entry.mtime_ns, 1_000_000_000)
        parts += [
            ENTRY.pack(entry.mode, entry.uid, entry.gid, entry.flags, entry.size, seconds, nanoseconds, 0, entry.dev, entry.ino),
            LENGTH.pack(len(entry.name)), entry.name, LENGTH.pack(len(entry.target)), entry.target,
        ]  # fmt: skip
    return b"".join(parts)


flags = st.sampled_from(ReplyFlag)
replies = st.builds(Reply, number=WORD, error=st.just(0), handle=WORD, flags=flags, entries=st.lists(entries, max_size=4).map(tuple))


@given(replies)
def test_reply_is_read_as_it_was_said(reply: Reply) -> None:
    assert parse(packed(reply)) == reply


@given(replies, st.integers(0, 10000))
def test_reply_that_is_cut_or_has_a_tail_is_refused(reply: Reply, at: int) -> None:
    whole = packed(reply)
    for data in (whole[: at % len(whole)], whole + b"\0"):
        with pytest.raises(BadMessage):
            parse(data)


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_a_reply(data: bytes) -> None:
    try:
        reply = parse(data)
    except BadMessage:
        return
    assert packed(reply) == data


REGULAR = stat.S_IFREG | 0o644


@pytest.mark.parametrize(
    "entry",
    [
        Entry(REGULAR, 0, 0, EntryFlag(0), 0, 0, 0, 0, b"a/b", b""), Entry(REGULAR, 0, 0, EntryFlag(0), 0, 0, 0, 0, b"..", b""),
        Entry(REGULAR, 0, 0, EntryFlag(0), 0, 0, 0, 0, b".", b""), Entry(REGULAR, 0, 0, EntryFlag(0), 0, 0, 0, 0, b"a\0", b""),
        Entry(REGULAR, 0, 0, EntryFlag(0), 0, 0, 0, 0, b"a", b"target"), Entry(1 << 20, 0, 0, EntryFlag(0), 0, 0, 0, 0, b"a", b""),
        Entry(REGULAR, 0, 0, EntryFlag(0), 0, 0, 0, 0, b"n" * 256, b""),
        Entry(REGULAR, 0, 0, EntryFlag(0), (1 << 64) - 1, 0, 0, 0, b"a", b""),
    ],
)  # fmt: skip
def test_entry_that_no_file_can_have_is_refused(entry: Entry) -> None:
    with pytest.raises(BadMessage):
        parse(packed(Reply(1, 0, 0, ReplyFlag(0), (entry,))))


@pytest.mark.parametrize("path", [b"/a\0b", b"/" * (PATH_LIMIT + 1)])
def test_path_that_no_agent_takes_is_not_sent(path: bytes) -> None:
    with pytest.raises(ValueError, match="no such path"):
        request(1, Operation.STAT, path=path)


# ------------------------------------------------------------------------- an agent that does not keep the rules


def memory() -> int:
    return os.memfd_create("test")


def opened(path: str, flags: int) -> Callable[[], int]:
    return lambda: os.open(path, flags | os.O_CLOEXEC)


def pipe() -> int:
    read_end, write_end = os.pipe()
    os.close(write_end)
    return read_end


FOUND = Entry(REGULAR, 0, 0, EntryFlag(0), 0, 0, 0, 0, b"", b"")
NAMED = Entry(REGULAR, 0, 0, EntryFlag(0), 0, 0, 0, 0, b"name", b"")

BROKEN: dict[str, tuple[Operation, Reply, Callable[[], int] | None]] = {
    "a number that nobody asked with": (Operation.STAT, Reply(7, 0, 0, ReplyFlag(0), (FOUND,)), None),
    "no entry": (Operation.STAT, Reply(1, 0, 0, ReplyFlag(0), ()), None),
    "two entries": (Operation.STAT, Reply(1, 0, 0, ReplyFlag(0), (FOUND, FOUND)), None),
    "a name where the request named it": (Operation.STAT, Reply(1, 0, 0, ReplyFlag(0), (NAMED,)), None),
    "no name in a list": (Operation.NEXT, Reply(1, 0, 0, ReplyFlag(0), (FOUND,)), None),
    "a handle": (Operation.STAT, Reply(1, 0, 5, ReplyFlag(0), (FOUND,)), None),
    "no handle": (Operation.DIRECTORY, Reply(1, 0, 0, ReplyFlag(0), (FOUND,)), None),
    "a descriptor": (Operation.STAT, Reply(1, 0, 0, ReplyFlag(0), (FOUND,)), memory),
    "no descriptor": (Operation.OPEN, Reply(1, 0, 0, ReplyFlag(0), (FOUND,)), None),
    "an error with a descriptor": (Operation.OPEN, Reply(1, 2, 0, ReplyFlag(0), ()), memory),
    "a directory": (Operation.OPEN, Reply(1, 0, 0, ReplyFlag(0), (FOUND,)), opened("/", os.O_RDONLY)),
    "a device": (Operation.OPEN, Reply(1, 0, 0, ReplyFlag(0), (FOUND,)), opened("/dev/zero", os.O_RDONLY)),
    "a pipe": (Operation.OPEN, Reply(1, 0, 0, ReplyFlag(0), (FOUND,)), pipe),
    "a file of /proc": (Operation.OPEN, Reply(1, 0, 0, ReplyFlag(0), (FOUND,)), opened("/proc/self/status", os.O_RDONLY)),
    "a file of /proc to write": (Operation.CREATE, Reply(1, 0, 1, ReplyFlag(0), ()), opened("/proc/self/comm", os.O_RDWR)),
    "a mere name of a file": (Operation.OPEN, Reply(1, 0, 0, ReplyFlag(0), (FOUND,)), opened("/etc/passwd", os.O_PATH)),
    "a file that holds something": (Operation.CREATE, Reply(1, 0, 1, ReplyFlag(0), ()), opened(__file__, os.O_RDWR)),
}  # fmt: skip


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("broken", BROKEN)
def test_agent_that_breaks_the_format_is_let_go(broken: str) -> None:
    operation, reply, make = BROKEN[broken]

    async def scene() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ended = asyncio.Event()
        agent = FileAgent(ours, ended.set)
        asked = asyncio.create_task(agent.ask(operation, b"/path"))
        with theirs:
            await asyncio.get_running_loop().run_in_executor(None, theirs.recv, 65536)
            fds = [] if make is None else [make()]
            socket.send_fds(theirs, [packed(reply)], fds)
            for fd in fds:
                os.close(fd)
            with pytest.raises(AgentLost):
                await asked
            assert ended.is_set()
            assert not agent.open
            with pytest.raises(AgentLost):
                await agent.ask(Operation.STAT, b"/path")

    before = descriptors()
    asyncio.run(scene())
    assert descriptors() == before


def run_with_agent(scene: Callable[[FileAgent, socket.socket], Awaitable[None]]) -> None:
    async def whole() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        agent = FileAgent(ours)
        with theirs:
            await scene(agent, theirs)
            agent.close()

    asyncio.run(whole())


def test_replies_find_those_who_asked_in_any_order() -> None:
    async def scene(agent: FileAgent, theirs: socket.socket) -> None:
        asked = [asyncio.create_task(agent.ask(Operation.STAT, b"/%d" % number)) for number in range(20)]
        await asyncio.sleep(0)
        for number in reversed(range(20)):
            found = Entry(REGULAR, 0, 0, EntryFlag(0), number, 0, 0, 0, b"", b"")
            theirs.send(
                packed(Reply(number + 1, 0, 0, ReplyFlag(0), (found,)) if number % 2 else Reply(number + 1, 2, 0, ReplyFlag(0), ()))
            )
        for number, task in enumerate(asked):
            if number % 2:
                assert (await task).entry.size == number
            else:
                with pytest.raises(AgentError):
                    await task

    run_with_agent(scene)


def test_what_comes_for_somebody_who_has_gone_is_let_go_of(tmp_path: Path) -> None:
    """A client hangs up while its file is being opened: neither descriptor nor handle may stay."""

    async def scene(agent: FileAgent, theirs: socket.socket) -> None:
        asked = asyncio.create_task(agent.ask(Operation.CREATE, b"/path"))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        theirs.recv(65536)
        fd = os.open(tmp_path / "new", os.O_RDWR | os.O_CREAT)
        socket.send_fds(theirs, [packed(Reply(1, 0, 9, ReplyFlag(0), ()))], [fd])
        os.close(fd)
        loop = asyncio.get_running_loop()
        packet = await loop.run_in_executor(None, theirs.recv, 65536)
        assert packet == request(2, Operation.CLOSE, handle=9)

    before = descriptors()
    run_with_agent(scene)
    assert descriptors() == before


# --------------------------------------------------------------------------------- an agent that hears nonsense


@pytest.fixture
def spoken_to(agent_binary: Path) -> Callable[[bytes], int | None]:
    """Says something to a new agent. Returns how that ended, or None when it answered."""

    def say(packet: bytes) -> int | None:
        agent = AgentProcess(agent_binary)
        agent.socket.send(packet)
        agent.socket.settimeout(30)
        answered = agent.socket.recv(65536)
        code = agent.close()
        return None if answered else code

    return say


GOOD = request(1, Operation.STAT, path=b"/")


@pytest.mark.parametrize(
    "packet",
    [GOOD[:-1], GOOD + b"\0", GOOD[:7] + b"\1" + GOOD[8:], b"\0", GOOD[:24] + b"\xff" * 4 + GOOD[28:], GOOD[:32] + b"\0" + GOOD[33:]],
)  # fmt: skip
def test_agent_ends_at_what_no_server_says(spoken_to: Callable[[bytes], int | None], packet: bytes) -> None:
    assert spoken_to(packet) == 2


@pytest.mark.parametrize("operation", [0, 14, 255])
def test_unknown_operation_is_answered(spoken_to: Callable[[bytes], int | None], operation: int) -> None:
    assert spoken_to(GOOD[:4] + bytes([operation]) + GOOD[5:]) is None
