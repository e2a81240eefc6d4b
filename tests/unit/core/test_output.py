"""The reader of one pipe."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path

from server.output import OutputReader
from server.spool import SpoolFile
from tests.unit.core.test_spool import Flood, stream


class Bench:
    """A pipe, its reader and the file that it fills."""

    def __init__(self, directory: Path) -> None:
        read_end, self.writer = os.pipe2(os.O_CLOEXEC)
        self.file = SpoolFile(directory / "output", 64 << 20)
        self.came = asyncio.Event()
        self.failures: list[BaseException] = []
        self.reader = OutputReader(read_end, self.file, self.came.set, self.failures.append)

    def command_ends(self) -> None:
        os.close(self.writer)

    async def until(self, total: int) -> None:
        while self.file.total < total:
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), 30)

    def content(self) -> bytes:
        return self.file.path.read_bytes() if self.file.path.exists() else b""


def run(main: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


def test_output_is_in_the_spool_as_it_comes(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        for at in range(0, 5000, 1000):
            os.write(bench.writer, stream(at, at + 1000))
            await bench.until(at + 1000)
        assert bench.content() == stream(0, 5000)
        bench.command_ends()
        bench.reader.close()
        bench.file.close()

    run(main())


def test_a_drain_takes_what_the_pipe_holds_and_nothing_of_what_comes_later(tmp_path: Path) -> None:
    """DRAINN: the ending has come; a background child goes on writing."""

    async def main() -> None:
        bench = Bench(tmp_path)
        os.write(bench.writer, stream(0, 3000))
        bench.reader.drain()
        os.write(bench.writer, stream(3000, 4000))
        for _ in range(5):
            await asyncio.sleep(0)
        assert bench.content() == stream(0, 3000)
        bench.command_ends()
        bench.reader.close()
        bench.file.close()

    run(main())


def test_a_drain_ends_though_a_child_writes_without_end(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        flood = Flood(bench.writer, 1 << 30)
        await bench.until(1)
        bench.reader.drain()
        total = bench.file.total
        bench.reader.close()  # the child gets SIGPIPE here; in a sandbox the runner reads on
        await asyncio.to_thread(flood.join, 30)
        assert not flood.is_alive()
        assert bench.file.path.stat().st_size == total
        bench.command_ends()
        bench.file.close()

    run(main())


def test_lingering_takes_the_last_words_of_descendants_up_to_the_end(tmp_path: Path) -> None:
    """`cmd > >(tee f)`: the command has ended, its tee has not."""

    async def main() -> None:
        bench = Bench(tmp_path)
        os.write(bench.writer, stream(0, 10))
        lingering = asyncio.create_task(bench.reader.linger(3600))
        await asyncio.sleep(0)
        os.write(bench.writer, stream(10, 2000))
        await asyncio.sleep(0)
        os.write(bench.writer, stream(2000, 2500))
        bench.command_ends()
        await lingering
        assert bench.content() == stream(0, 2500)
        bench.reader.close()
        bench.file.close()

    run(main())


def test_lingering_ends_by_itself_where_the_output_stays_open(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        os.write(bench.writer, stream(0, 10))
        await bench.reader.linger(0.01)
        assert bench.content() == stream(0, 10)
        bench.command_ends()
        bench.reader.close()
        bench.file.close()

    run(main())


def test_a_reader_that_is_replaced_while_it_lingers_leaves_the_new_descriptor_alone(tmp_path: Path) -> None:
    """ONEREADER: the old read end is closed, and the new one may get its very number."""

    async def main() -> None:
        bench = Bench(tmp_path)
        lingering = asyncio.create_task(bench.reader.linger(0.05))
        for _ in range(3):
            await asyncio.sleep(0)
        bench.reader.close()
        read_end, writer = os.pipe2(os.O_CLOEXEC)
        second = OutputReader(read_end, bench.file, bench.came.set, bench.failures.append)
        await lingering
        os.write(writer, stream(0, 100))
        await bench.until(100)
        assert bench.content() == stream(0, 100)
        second.close()
        os.close(writer)
        bench.command_ends()
        bench.file.close()

    run(main())


def test_closing_twice_or_draining_after_a_close_does_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        bench.reader.close()
        bench.reader.close()
        bench.reader.drain()
        await bench.reader.linger(0.01)
        assert bench.file.total == 0
        bench.command_ends()

    run(main())
