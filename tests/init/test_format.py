"""Torn, oversized, random and nearly right packets: the link is dropped, the init lives, and goes on working."""

from __future__ import annotations

import os
import random
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server import messages
from server.messages import Type
from tests.init.harness import Init, Server, memory_file

GOOD = {
    Type.RUN: messages.run_body(messages.Run(10**6, "fuzzed-run", ("true", "argument"), ("A=1",), "nobody", "/tmp")),
    Type.SKIP: messages.packet_body(messages.skip(10**6, "fuzzed-skip")),
    Type.KILL: messages.packet_body(messages.kill("fuzzed")),
    Type.ACK: messages.packet_body(messages.ack("fuzzed")),
    Type.SIGNAL: messages.packet_body(messages.signal("fuzzed", 15)),
    Type.ACTIVITY: messages.packet_body(messages.activity("fuzzed")),
    Type.WELCOME: messages.packet_body(messages.welcome(10**9)),
}


def link_is_dropped(server: Server) -> bool:
    assert server.link is not None
    try:
        return server.link.recv(messages.PACKET_LIMIT) == b""
    except ConnectionResetError:
        return True


def torn() -> dict[str, bytes]:
    """Every good message cut at every length, longer by a byte, or with a header that lies."""
    cases = {}
    for type_, body in GOOD.items():
        for length in range(len(body)):
            cases[f"{type_.name} cut to {length}"] = messages.packet(type_, body[:length])
        cases[f"{type_.name} with a byte more"] = messages.packet(type_, body + b"\0")
        whole = messages.packet(type_, body)
        cases[f"{type_.name} whose header says less"] = whole[:4] + struct.pack("<I", len(body) - 1) + whole[8:]
        cases[f"{type_.name} whose header says more"] = whole[:4] + struct.pack("<I", 0xFFFFFFFF) + whole[8:]
        cases[f"{type_.name} with an unknown flag"] = whole[:1] + b"\x02" + whole[2:]
        cases[f"{type_.name} with a padding that is not 0"] = whole[:2] + b"\x01" + whole[3:]
    return cases


def test_torn_messages_end_the_link_and_nothing_else(server: Server) -> None:
    for name, packet in torn().items():
        server.send(packet)
        assert link_is_dropped(server), name
        assert server.connect().highest == 0, name
    assert server.do("echo on").text == "on\n"


@pytest.mark.parametrize("size", [1, 7, 8, 65_535, 65_536, 65_537, 150_000])
def test_packet_of_any_size_ends_the_link_and_nothing_else(server: Server, size: int) -> None:
    server.send(b"\1" * size)
    assert link_is_dropped(server)
    server.connect()
    assert server.do("echo on").text == "on\n"


def test_largest_request_within_a_packet_comes_whole(server: Server) -> None:
    probe = messages.run_body(messages.Run(1, "execution-1", ("sh", "-c", "echo ${#A}"), ("A=",)))
    length = messages.PACKET_LIMIT - 8 - len(probe)
    assert server.do("echo ${#A}", env={"A": "x" * length}).text == f"{length}\n"


@pytest.mark.parametrize("length", [messages.BODY_LIMIT + 1, 0xFFFFFFFF])
def test_body_beyond_the_limit_ends_the_link(server: Server, length: int) -> None:
    fd = memory_file(b"")
    os.ftruncate(fd, length)
    server.send(messages.large_packet(Type.RUN, length), [fd])
    os.close(fd)
    assert link_is_dropped(server)
    server.connect()
    assert server.do("echo on").text == "on\n"


def test_request_of_the_largest_size_is_an_ending_of_its_own(server: Server) -> None:
    body = messages.run_body(messages.Run(1, "execution-1", ("true", "x" * ((32 << 20) - 100))))
    assert len(body) <= messages.BODY_LIMIT
    run = server.do(["true", "x" * ((32 << 20) - 100)])
    assert run.ended is not None
    assert run.ended.ending.stage is messages.Stage.EXEC


def test_bodies_full_of_tiny_strings_are_taken(server: Server) -> None:
    run = server.do(["true", *[""] * 300_000])
    assert run.ended is not None
    assert run.ended.ending.kind in (messages.EndingKind.EXITED, messages.EndingKind.FAILED_TO_START)


@pytest.mark.parametrize("bad", ["", "a b", "a\nb", "ü" * 10, "x" * 65])
def test_id_that_is_none_ends_the_link(server: Server, bad: str) -> None:
    server.send(messages.kill(bad))
    assert link_is_dropped(server)
    server.connect()


def test_nul_within_an_argument_ends_the_link_before_its_number_is_taken(server: Server) -> None:
    body = GOOD[Type.RUN].replace(b"argument", b"argu\0ent")
    server.send(messages.packet(Type.RUN, body))
    assert link_is_dropped(server)
    assert server.connect().highest == 0


def test_thousands_of_mutated_messages_do_no_harm(server: Server) -> None:
    """Seeded: the same packets every time. Runs of `true` and signals may well come out of it; that is fine."""
    chance = random.Random(20_240_229)
    for _ in range(4000):
        type_ = chance.choice([type_ for type_ in GOOD if type_ is not Type.WELCOME])
        packet = bytearray(messages.packet(type_, GOOD[type_]))
        for _ in range(chance.randint(1, 4)):
            match chance.randrange(4):
                case 0:
                    packet[chance.randrange(8, len(packet))] = chance.randrange(256)
                case 1:
                    packet[chance.randrange(len(packet))] ^= 1 << chance.randrange(8)
                case 2:
                    at = chance.randrange(8, len(packet))
                    del packet[at : at + chance.randint(1, 8)]
                    packet += b"" if len(packet) > 8 else b"\0"
                case _:
                    at = chance.randrange(8, len(packet))
                    packet[at:at] = struct.pack("<I", chance.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF]))
            packet[4:8] = struct.pack("<I", len(packet) - 8)
        if packet[0] == Type.WELCOME:  # a good one may come out of it, that lets the init live for 0 ms without a server
            continue
        try:
            server.send(bytes(packet))
        except (BrokenPipeError, ConnectionResetError):
            server.hang_up()
            server.executions.clear()
            server.connect()
    server.hang_up()
    server.executions.clear()
    hello = server.connect()
    assert server.do("echo on", number=hello.highest + 1, id_="after-all-that").text == "on\n"


@given(data=st.binary(min_size=1, max_size=2000), fds=st.integers(0, 5))
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_do_no_harm(init: Init, data: bytes, fds: int) -> None:
    server = init.server
    passed = [os.open("/dev/null", os.O_RDONLY) for _ in range(fds)]
    try:
        server.send(data, passed)
    except (BrokenPipeError, ConnectionResetError):
        server.hang_up()
        server.connect()
    finally:
        for fd in passed:
            os.close(fd)
    assert init.process.poll() is None
