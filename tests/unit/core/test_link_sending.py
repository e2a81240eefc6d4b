"""The link's other way: what the server says to an init arrives whole and in order, or is known not to have left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from server import link as link_module
from server import messages
from server.link import Link
from server.messages import Run, RunFlag, Type
from tests.unit.core.fake_init import FakeInit, Witness, hello
from tests.unit.core.stage import act, linked

NO_FLAGS = RunFlag(0)


def run_of(number: int, size: int = 1, flags: RunFlag = NO_FLAGS) -> Run:
    return Run(number, f"e{number:07}", ("sh", "-c", "x" * size), flags=flags)


def test_no_run_is_sent_before_the_welcome(tmp_path: Path) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = FakeInit(directory)
        init.say(hello())
        await witness.next()
        assert witness.link is not None
        assert (witness.link.ready, witness.link.send_run(run_of(1), None)) == (False, False)
        init.close()

    act(tmp_path, scene, welcome=False)


@pytest.mark.parametrize("stdin", [None, b"", b"input\0" * 1000], ids=["none", "empty", "some"])
@pytest.mark.parametrize("size", [10, 65_400, 65_600, 3 << 20], ids=["small", "just below", "just above", "large"])
def test_a_run_arrives_whole_with_its_stdin(tmp_path: Path, size: int, stdin: bytes | None) -> None:
    """What does not fit in a packet comes by a memory file; stdin is the last descriptor."""
    run = run_of(1, size, NO_FLAGS if stdin is None else RunFlag.STDIN)

    async def scene(directory: Path, witness: Witness) -> None:
        init = await linked(directory, witness)
        assert witness.link is not None and witness.link.send_run(run, stdin)
        type_, body, fds = await init.heard()
        assert len(fds) == (stdin is not None) + (len(messages.run_body(run)) > messages.PACKET_LIMIT - 8)
        if stdin is not None:
            assert _content(fds.pop()) == stdin
        if fds:
            body = _content(fds.pop())
        assert (type_, body) == (Type.RUN, messages.run_body(run))
        init.close()

    act(tmp_path, scene)


def test_an_ack_leaves_soon_and_never_after_what_was_sent_later(tmp_path: Path) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = await linked(directory, witness)
        link = witness.link
        assert link is not None
        link.ack("e0000001")
        link.ack("e0000002")
        assert link.send_run(run_of(3), None)
        link.ack("e0000003")
        link.send(messages.kill("e0000003"))
        link.ack("e0000004")
        heard = [(await init.heard())[0] for _ in range(6)]
        assert heard == [Type.ACK, Type.ACK, Type.RUN, Type.ACK, Type.KILL, Type.ACK]
        init.close()

    act(tmp_path, scene)


async def until_ready(link: Link, witness: Witness) -> None:
    while not link.ready:
        assert await witness.next() == ("ready", None)


def _content(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def test_a_full_link_keeps_the_order_and_says_when_it_takes_more(tmp_path: Path) -> None:
    """EAGAIN: small messages wait in order, a run is refused until all that came before has left (ORDER)."""

    async def scene(directory: Path, witness: Witness) -> None:
        init = await linked(directory, witness)
        link = witness.link
        assert link is not None
        number = 0
        while link.send_run(run_of(number + 1, 20_000), None):
            number += 1
        for extra in range(50):
            link.send(messages.kill(f"k{extra:07}"))
        assert not link.ready and not link.send_run(run_of(number + 1), None)
        heard = [await init.heard_id() for _ in range(number + 50)]
        expected = [(Type.RUN, f"e{n:07}") for n in range(1, number + 1)] + [(Type.KILL, f"k{n:07}") for n in range(50)]
        assert heard == expected
        await until_ready(link, witness)
        assert link.send_run(run_of(number + 1), None)
        assert await init.heard_id() == (Type.RUN, f"e{number + 1:07}")
        init.close()

    act(tmp_path, scene)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM], ids=errno.errorcode.get)
def test_a_run_that_gets_no_descriptor_just_now_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = await linked(directory, witness)
        link = witness.link
        assert link is not None

        def refuse(name: str, content: bytes) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(link_module, "memfd", refuse)
            assert not link.send_run(run_of(1, flags=RunFlag.STDIN), b"in")
        await until_ready(link, witness)
        assert link.send_run(run_of(1, flags=RunFlag.STDIN), b"in")
        assert await init.heard_id() == (Type.RUN, "e0000001")
        init.close()

    act(tmp_path, scene)


def test_sending_on_a_link_whose_init_is_gone_is_harmless(tmp_path: Path) -> None:
    async def scene(directory: Path, witness: Witness) -> None:
        init = await linked(directory, witness)
        init.close()
        link = witness.link
        assert link is not None
        assert not link.send_run(run_of(1), None)
        link.send(messages.ack("e0000001"))
        assert await witness.next() == ("down", None)
        link.send(messages.ack("e0000001"))
        assert not link.send_run(run_of(1), None)

    act(tmp_path, scene)
