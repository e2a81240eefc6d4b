"""The link: who is let in, what is believed, and that nothing is lost, doubled or leaked on the way."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from server import link as link_module
from server import messages
from server.descriptors import memfd
from server.link import Listener
from server.messages import Ended, Entry, FromInit, Pipes, Stale, Started, Type
from tests.unit.core.fake_init import SECRET, FakeInit, Witness, exited, hello
from tests.unit.core.stage import act, linked, read_end, write_end
from tests.unit.core.wire import body_of

# --------------------------------------------------------------------------------------------------- who is let in


def test_an_init_is_let_in_with_the_read_ends_that_it_announced(tmp_path: Path) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = FakeInit(directory)
        entries = [Entry(f"e{n:07}", n, 1, None) for n in range(1, 4)]
        init.say(hello(3, entries, pipes=3))
        init.say(Pipes(("e0000001", "e0000002")), [read_end(), read_end()])
        init.say(Pipes(("e0000003",)), [read_end()])
        assert await witness.next() == ("hello", hello(3, entries, pipes=3))
        assert sorted(witness.pipes) == ["e0000001", "e0000002", "e0000003"]
        assert await init.heard() == (Type.WELCOME, struct.pack("<Q", 1000), [])
        init.close()
        assert await witness.next() == ("down", None)

    act(tmp_path, scene)


def test_a_process_that_is_not_the_init_is_refused_and_reported(tmp_path: Path) -> None:
    """Anything in the sandbox can reach the socket; SO_PEERCRED tells it from the init."""

    async def scene(directory: Path, witness: Witness) -> None:
        init = FakeInit(directory)
        init.say(hello(0, secret=SECRET))
        assert await witness.next() == ("stranger", os.getpid())
        assert await init.closed()
        assert witness.told.empty()
        init.close()

    act(tmp_path, scene, pid=os.getpid() + 1, secret=SECRET)


def test_another_secret_than_that_of_the_first_hello_is_refused(tmp_path: Path) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = FakeInit(directory)
        init.say(hello(secret=bytes(16)))
        assert (await witness.next())[0] == "stranger"
        assert await init.closed()
        init.close()
        await linked(directory, witness)

    act(tmp_path, scene, secret=SECRET)


def test_an_init_of_an_unknown_link_version_is_refused(tmp_path: Path) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = FakeInit(directory)
        init.say(hello(version=99))
        assert await init.closed()
        assert witness.told.empty()
        init.close()

    act(tmp_path, scene)


def test_a_connection_that_says_nothing_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_HELLO_S", 0.01)

    async def scene(directory: Path, witness: Witness) -> None:
        silent, slow = FakeInit(directory), FakeInit(directory)
        slow.say(hello(1, [Entry("e0000001", 1, 1, None)], pipes=1))  # and the read end never comes
        assert await silent.closed() and await slow.closed()
        silent.close()
        slow.close()

    act(tmp_path, scene)


def test_only_a_few_may_stand_at_the_door(tmp_path: Path) -> None:
    """A sandbox that opens connections without end costs a handful of descriptors, and the init gets in once one is over."""

    async def scene(directory: Path, witness: Witness) -> None:
        waiting = [FakeInit(directory) for _ in range(link_module._STRANGERS)]
        assert await FakeInit(directory).closed()
        waiting.pop().close()
        init = FakeInit(directory)
        for connection in waiting:
            connection.close()
        init.say(hello())
        assert (await init.heard())[0] is Type.WELCOME
        init.close()

    act(tmp_path, scene)


def test_a_socket_is_reached_below_a_path_longer_than_a_socket_s_name_may_be(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()

    async def scene(directory: Path, witness: Witness) -> None:
        await linked(directory, witness)

    act(directory, scene)


def test_the_next_server_s_socket_replaces_the_old_one_in_the_same_directory(tmp_path: Path) -> None:
    """The directory is mounted into the sandbox: it must stay the same, and hold one name at any time."""

    async def scene(directory: Path, witness: Witness) -> None:
        inode = os.stat(directory).st_ino
        first = await linked(directory, witness)
        witness_2 = Witness(os.getpid())
        second = Listener(directory, witness_2)
        second.accept()
        await linked(directory, witness_2)
        assert (os.stat(directory).st_ino, os.listdir(directory)) == (inode, ["server.sock"])
        second.close()
        first.close()

    act(tmp_path, scene)


# ----------------------------------------------------------------------------------------------- what is believed


def messages_out_of_place() -> dict[str, Callable[[FakeInit], None]]:
    """What breaks a link before its welcome, sent by who might be anybody."""
    one = hello(1, [Entry("e0000001", 1, 1, None)], pipes=1)
    body = body_of(hello())[1]

    def large(fd: int, length: int) -> Callable[[FakeInit], None]:
        return lambda init: init.send(messages.large_packet(Type.HELLO, length), [fd])

    def deaf_memfd() -> int:
        fd = memfd("x", body)
        reopened = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC)
        os.close(fd)
        return reopened

    def after_hello(then: Callable[[FakeInit], None]) -> Callable[[FakeInit], None]:
        def say(init: FakeInit) -> None:
            init.say(one)
            then(init)

        return say

    return {
        "a byte": lambda init: init.send(b"x"),
        "an unknown type": lambda init: init.send(struct.pack("<BBHI", 99, 0, 0, 0)),
        "a server's word": lambda init: init.send(messages.kill("e0000001")),
        "a body that is not all there": lambda init: init.send(struct.pack("<BBHI", Type.HELLO, 0, 0, 10) + b"short"),
        "a packet that is too long": lambda init: init.send(messages.packet(Type.HELLO, bytes(messages.PACKET_LIMIT))),
        "a hello with a descriptor": lambda init: init.say(hello(), [read_end()]),
        "an ending before the hello": lambda init: init.say(Ended("e0000001", 1, exited())),
        "read ends before the hello": lambda init: init.say(Pipes(("e0000001",)), [read_end()]),
        "large, without its descriptor": lambda init: init.send(messages.large_packet(Type.HELLO, len(body))),
        "large, by a pipe": lambda init: large(read_end(), len(body))(init),
        "large, by a file of the disk": lambda init: large(os.open(__file__, os.O_RDONLY), os.path.getsize(__file__))(init),
        "large, of another length": lambda init: large(memfd("x", body), len(body) + 1)(init),
        "large, that cannot be read": lambda init: large(deaf_memfd(), len(body))(init),
        "large, and a descriptor too many": lambda init: init.send(
            messages.large_packet(Type.HELLO, len(body)), [memfd("x", body), read_end()]
        ),
        "large, and garbage in it": lambda init: large(memfd("x", b"\xff" * 100), 100)(init),
        "more descriptors than a packet may have": lambda init: init.say(hello(), [read_end() for _ in range(100)]),
        "a read end that is missing": after_hello(lambda init: init.say(Pipes(("e0000001",)))),
        "a read end that is a file": after_hello(lambda init: init.say(Pipes(("e0000001",)), [os.open(__file__, os.O_RDONLY)])),
        "a read end that is a write end": after_hello(lambda init: init.say(Pipes(("e0000001",)), [write_end()])),
        "a read end that only names a pipe": after_hello(lambda init: init.say(Pipes(("e0000001",)), [_path_only(read_end())])),
        "more read ends than announced": after_hello(lambda init: init.say(Pipes(("e0000001", "e0000002")), [read_end(), read_end()])),
        "an ending before the welcome": after_hello(lambda init: init.say(Ended("e0000001", 1, exited()))),
        "a second hello before the welcome": after_hello(lambda init: init.say(one)),
    }


def _path_only(fd: int) -> int:
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
    finally:
        os.close(fd)


@pytest.mark.parametrize("what", messages_out_of_place())
def test_whoever_breaks_the_format_is_cut_off_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(link_module, "_HELLO_S", 3600.0)  # it must not be the hello's deadline that ends it

    async def scene(directory: Path, witness: Witness) -> None:
        init = FakeInit(directory)
        messages_out_of_place()[what](init)
        assert await init.closed()
        assert witness.told.empty()
        init.close()

    act(tmp_path, scene)


@pytest.mark.parametrize(
    ("version", "packets"),
    [
        (1, [("e0000001", "e0000001")]),
        (2, [("e0000001", "e0000001", "e0000001")]),
        (2, [("e0000001", "e0000002", "e0000001")]),
        (2, [("e0000001",), ("e0000001",)]),
    ],
    ids=["two, of version 1", "three", "two that do not stand together", "two torn apart"],
)
def test_read_ends_that_no_execution_can_have_are_refused(tmp_path: Path, version: int, packets: list[tuple[str, ...]]) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = FakeInit(directory)
        entries = [Entry("e0000001", 1, 1, None), Entry("e0000002", 2, 1, None), Entry("e0000003", 3, 1, None)]
        init.say(hello(3, entries, pipes=3, version=version))
        for ids in packets:
            init.say(Pipes(ids), [read_end() for _ in ids])
        assert await init.closed()
        assert witness.told.empty()
        init.close()

    act(tmp_path, scene)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda init: init.say(hello()),
        lambda init: init.say(Pipes(("e0000001",)), [read_end()]),
        lambda init: init.say(Started("e0000001", 1, 1)),
        lambda init: init.say(Started("e0000001", 1, 1), [read_end(), read_end(), read_end()]),
        lambda init: init.say(Started("e0000001", 1, 1), [write_end()]),
        lambda init: init.say(Ended("e0000001", 1, exited()), [read_end()]),
        lambda init: init.send(b"\0" * 8),
    ],
    ids=["second hello", "late read ends", "started, no pipe", "started, three pipes", "started, a write end", "ended, a pipe", "zeros"],
)
def test_an_accepted_init_that_breaks_the_format_has_to_connect_again(tmp_path: Path, break_it: Callable[[FakeInit], None]) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = await linked(directory, witness)
        break_it(init)
        assert await witness.next() == ("down", None)
        assert await init.closed()
        init.close()
        await linked(directory, witness)

    act(tmp_path, scene)


def test_a_started_with_two_pipes_is_none_of_version_1(tmp_path: Path) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = FakeInit(directory)
        init.say(hello(version=1))
        assert (await witness.next())[0] == "hello"
        init.say(Started("e0000001", 1, 1), [read_end(), read_end()])
        assert await witness.next() == ("down", None)
        init.close()

    act(tmp_path, scene)


def test_both_read_ends_of_a_split_execution_reach_its_owner_stdout_first(tmp_path: Path) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = FakeInit(directory)
        split, merged = Entry("e0000001", 1, 1, None), Entry("e0000002", 2, 1, None)
        init.say(hello(2, [split, merged], pipes=3))
        ends = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        init.say(Pipes(("e0000001", "e0000001", "e0000002")), [reader for reader, _ in ends])
        assert (await witness.next())[0] == "hello"
        for number, (_, writer) in enumerate(ends):
            os.write(writer, b"%d" % number)
            os.close(writer)
        said = {id_: [os.read(pipe, 9) for pipe in pipes] for id_, pipes in witness.pipes.items()}
        assert said == {"e0000001": [b"0", b"1"], "e0000002": [b"2"]}
        init.close()

    act(tmp_path, scene)


def test_random_packets_open_no_door_and_leak_nothing(tmp_path: Path) -> None:
    chance = random.Random(3)

    async def scene(directory: Path, witness: Witness) -> None:
        for _ in range(200):
            init = FakeInit(directory)
            body = chance.randbytes(chance.randrange(80))
            packet = messages.packet(chance.choice(list(Type)), body) if chance.random() < 0.7 else chance.randbytes(20)
            init.send(packet, [read_end() for _ in range(chance.randrange(3))])
            assert await init.closed()
            init.close()
        assert witness.told.empty()
        await linked(directory, witness)

    act(tmp_path, scene)


def test_messages_arrive_in_order_each_once(tmp_path: Path) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = await linked(directory, witness)
        said: list[FromInit] = []
        for number in range(1, 100):  # more than one turn of the loop reads
            said += [Started(f"e{number:07}", number, 5), Ended(f"e{number:07}", number, exited(number % 256))]
            init.say(said[-2], [read_end()])
            init.say(said[-1])
        said.append(Stale("e0000001", 1))
        init.say(said[-1])
        assert [await witness.next() for _ in said] == [("message", message) for message in said]
        init.close()

    act(tmp_path, scene)


def test_a_large_hello_is_read_from_its_memory_file(tmp_path: Path) -> None:
    """A thousand executions do not fit in one packet."""
    entries = [Entry(f"e{number:07}", number, 0, exited(started_ns=0)) for number in range(1, 1001)]

    async def scene(directory: Path, witness: Witness) -> None:
        init = FakeInit(directory)
        body = body_of(hello(1000, entries))[1]
        assert len(body) > messages.PACKET_LIMIT
        init.send(messages.large_packet(Type.HELLO, len(body)), [memfd("hello", body)])
        assert await witness.next() == ("hello", hello(1000, entries))
        init.close()

    act(tmp_path, scene)


def test_a_dead_init_s_last_words_are_heard(tmp_path: Path) -> None:
    """It died with packets of ours unread: the kernel says ECONNRESET first, its queued ending comes after."""

    async def scene(directory: Path, witness: Witness) -> None:
        init = await linked(directory, witness)
        assert witness.link is not None
        witness.link.send(messages.kill("e0000001"))
        init.say(Ended("e0000001", 1, exited()))
        init.close()
        assert await witness.next() == ("message", Ended("e0000001", 1, exited()))
        assert await witness.next() == ("down", None)

    act(tmp_path, scene)
