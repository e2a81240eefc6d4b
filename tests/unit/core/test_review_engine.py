"""An engine that goes away, or is slow, at the other end of a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from server import engine as module
from server.engine import Engine, EngineError

_JSON = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Socket:
    """Answers /version and /info; knows no image, and says so in its own words. Of a pull it says the first line, and then nothing
    until it is `cut`."""

    def __init__(self) -> None:
        self.pulls = 0
        self.pulling = asyncio.Event()
        self.enough = 1
        self.cut = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            while (await reader.readline()).strip():
                pass
            if b"/images/create" in request:
                line = '{"status": "Pulling"}\n'
                writer.write(f"{_JSON}Transfer-Encoding: chunked\r\n\r\n{len(line):x}\r\n{line}\r\n".encode())
                self.pulls += 1
                if self.pulls == self.enough:
                    self.pulling.set()
                await self.cut.wait()
                break
            missing = b"/images/" in request
            body = '{"message": "there is none"}' if missing else '{"ApiVersion": "1.41"}'
            head = _JSON.replace("200 OK", "404 Not Found") if missing else _JSON
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()


def play(directory: Path, scene: Callable[[Engine, Socket], Awaitable[None]]) -> None:
    async def main() -> None:
        answers = Socket()
        path = directory / "engine.sock"
        server = await asyncio.start_unix_server(answers, path)
        await asyncio.wait_for(scene(Engine(f"unix://{path}", "instance-1"), answers), 60)
        server.close()

    asyncio.run(main())


def test_an_engine_that_goes_away_in_the_middle_of_a_pull_is_an_engine_error(tmp_path: Path) -> None:
    async def scene(engine: Engine, answers: Socket) -> None:
        pull = asyncio.create_task(engine.pull("busybox", None, 60, lambda _: None))
        await answers.pulling.wait()
        answers.cut.set()
        with pytest.raises(EngineError) as caught:
            await pull
        assert caught.value.code == "engine_unavailable"

    play(tmp_path, scene)


def test_pulls_that_take_long_do_not_keep_other_calls_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_THREADS", 2)
    monkeypatch.setattr(module, "_PULLS", 3)

    async def scene(engine: Engine, answers: Socket) -> None:
        answers.enough = 3
        pulls = [asyncio.create_task(engine.pull(f"image-{number}", None, 60, lambda _: None)) for number in range(5)]
        await answers.pulling.wait()
        assert (await engine.info())["ApiVersion"] == "1.41"
        answers.cut.set()
        await asyncio.gather(*pulls, return_exceptions=True)
        assert answers.pulls == 5

    play(tmp_path, scene)


def test_an_image_that_is_not_there_is_said_so_whatever_the_engines_words(tmp_path: Path) -> None:
    async def scene(engine: Engine, answers: Socket) -> None:
        with pytest.raises(EngineError) as caught:
            await engine.image("busybox")
        assert (caught.value.code, caught.value.detail) == ("image_not_found", "there is none")

    play(tmp_path, scene)
