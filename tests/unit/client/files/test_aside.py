"""Content of many batches, which is read, hashed and written in threads beside the transfer."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from remote_env import Progress, Sandbox, packing, partial, sourcing, unpacking
from remote_env.aio.lanes import OffLoop
from remote_env.hashed import Unframer
from remote_env.lanes import BATCH_BYTES
from tests.unit.client.faces import threads_only
from tests.unit.client.fakefiles import FakeFiles
from tests.unit.client.fakeserver import CUT_BEFORE, pattern_bytes
from tests.unit.client.files.conftest import FILES, cut_at

BOTH_FACES = True
CONTENT = pattern_bytes(5 * BATCH_BYTES + 7)


@pytest.mark.parametrize("size", [BATCH_BYTES - 1, BATCH_BYTES, BATCH_BYTES + 1, len(CONTENT)])
def test_content_of_any_size_arrives_as_it_is(sandbox: Sandbox, fake: FakeFiles, here: Path, size: int) -> None:
    (here / "f").write_bytes(CONTENT[:size])
    sent = sandbox.upload(here / "f", "/f")
    assert (fake.root / "f").read_bytes() == CONTENT[:size]
    come = sandbox.download("/f", here / "back")
    assert (here / "back").read_bytes() == CONTENT[:size]
    assert (come.sha256, come.bytes) == (sent.sha256, size)
    assert sandbox.read_bytes("/f", offset=1, length=size - 2) == CONTENT[1 : size - 1]


def test_an_opened_file_whose_request_breaks_is_sent_again_whole(sandbox: Sandbox, fake: FakeFiles, here: Path) -> None:
    """What the broken copy was about to read must not move the position of the next one."""
    (here / "f").write_bytes(CONTENT)
    fake.on("PUT", FILES, CUT_BEFORE, CUT_BEFORE)
    with (here / "f").open("rb") as file:
        sandbox.write("/f", file)
    assert (fake.root / "f").read_bytes() == CONTENT


def test_a_download_that_breaks_in_a_later_batch_is_whole_in_the_end(sandbox: Sandbox, fake: FakeFiles, here: Path) -> None:
    (fake.root / "f").write_bytes(CONTENT)
    fake.on("GET", f"{FILES[:-1]}", *[cut_at(3 * BATCH_BYTES + 5)] * 2)
    sandbox.download("/f", here / "f")
    assert (here / "f").read_bytes() == CONTENT
    assert os.listdir(here) == ["f"]


def test_a_disk_that_fails_in_the_middle_is_told_as_itself(
    sandbox: Sandbox, fake: FakeFiles, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    (fake.root / "f").write_bytes(CONTENT)
    written = 0

    def write(self: partial.PartialFile, data: Any) -> None:
        nonlocal written
        written += len(data)
        if written > 2 * BATCH_BYTES:
            raise OSError(28, "No space left on device", str(here / "f"))

    monkeypatch.setattr(partial.PartialFile, "write", write)
    with pytest.raises(OSError, match="No space left on device"):
        sandbox.download("/f", here / "f")
    assert os.listdir(here) == []


def test_the_event_loop_touches_no_local_file_and_hears_all_progress(
    sandbox: Sandbox, fake: FakeFiles, here: Path, face: type, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Threads: the caller's may wait, and its listener is called in it. Asyncio: local work is done in others, and the listener
    is called in the event loop."""
    local: list[threading.Thread] = []
    heard: list[threading.Thread] = []

    def watched(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            local.append(threading.current_thread())
            return original(*args, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (packing.LocalTree, "__init__"), (packing.LocalFile, "__init__"), (sourcing.Framed, "_next"), (unpacking.Unpacker, "feed"),
        (unpacking.Unpacker, "settle"), (partial.PartialFile, "__init__"), (partial.PartialFile, "write"),
        (partial.PartialFile, "commit"), (partial.PartialFile, "settle"),
    ):  # fmt: skip
        watched(owner, name)

    def listen(progress: Progress) -> None:
        heard.append(threading.current_thread())

    (here / "tree").mkdir()
    (here / "tree/f").write_bytes(CONTENT)
    sandbox.upload(here / "tree", "/tree", on_progress=listen)
    sandbox.upload(here / "tree/f", "/f", on_progress=listen)
    sandbox.download("/tree", here / "back", on_progress=listen)
    sandbox.download("/f", here / "f", on_progress=listen)
    assert (here / "back/f").read_bytes() == (here / "f").read_bytes() == CONTENT
    assert len(set(heard)) == 1
    if heard[0] is threading.main_thread():
        assert face.__name__ == "Client"
    else:
        assert heard[0] not in local


def test_content_that_is_hashed_elsewhere_is_hashed_in_order(sandbox: Sandbox, fake: FakeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake.root / "f").write_bytes(CONTENT)
    original, threads = Unframer.hash, set()

    def hash(self: Unframer, content: Any) -> None:
        threads.add(threading.current_thread())
        original(self, content)

    monkeypatch.setattr(Unframer, "hash", hash)
    assert sandbox.read_bytes("/f") == CONTENT
    assert any(thread is not threading.main_thread() for thread in threads)


class Slow:
    """A source that a disk holds up, until `on` is set."""

    size = None

    def __init__(self) -> None:
        self.asked, self.on = threading.Event(), threading.Event()

    def pieces(self) -> Iterator[bytes]:
        self.asked.set()
        self.on.wait(30)
        yield CONTENT


@threads_only
def test_an_upload_that_is_cancelled_while_its_source_is_read_ends_with_that_read() -> None:
    """And with no error of its own, which would take the place of the cancellation."""

    async def act() -> None:
        source = Slow()
        framed = sourcing.Framed(cast(Any, source), OffLoop())
        pieces = framed.__aiter__()
        taking = asyncio.ensure_future(pieces.__anext__())
        await asyncio.to_thread(source.asked.wait, 30)
        taking.cancel()
        await asyncio.wait({taking})
        closing = asyncio.create_task(framed.close())
        await asyncio.sleep(0)
        source.on.set()
        await closing
        assert taking.cancelled()

    asyncio.run(asyncio.wait_for(act(), 60))
