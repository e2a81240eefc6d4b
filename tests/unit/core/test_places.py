"""So many containers are made at once, callers' first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from server.making import Places


class Scene:
    """Makings that last until they are told to end."""

    def __init__(self, count: int) -> None:
        self.places = Places(count)
        self.begun: list[str] = []
        self._over: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, *, ahead: bool = False) -> None:
        self._over[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._make(name, ahead))
        await settled()

    async def _make(self, name: str, ahead: bool) -> None:
        async with self.places.one(ahead=ahead):
            self.begun.append(name)
            await self._over[name].wait()

    async def end(self, name: str) -> None:
        self._over[name].set()
        await self._tasks[name]
        await settled()

    async def cancel(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
        await asyncio.gather(*(self._tasks[name] for name in names), return_exceptions=True)
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scene()

    asyncio.run(main())


def test_no_more_than_so_many_are_made_at_once_and_in_their_order() -> None:
    async def scene() -> None:
        stage = Scene(2)
        for name in "abcd":
            await stage.ask(name)
        assert stage.begun == ["a", "b"]
        await stage.end("b")
        assert stage.begun == ["a", "b", "c"]
        await stage.end("a")
        assert stage.begun == ["a", "b", "c", "d"]

    play(scene)


def test_what_is_made_ahead_begins_only_while_nothing_is_made_for_anybody() -> None:
    async def scene() -> None:
        stage = Scene(2)
        await stage.ask("a")
        await stage.ask("ahead", ahead=True)
        await stage.ask("b")
        await stage.end("a")
        assert stage.begun == ["a", "b"]
        await stage.end("b")
        assert stage.begun == ["a", "b", "ahead"]
        await stage.ask("c")
        assert stage.begun[-1] == "c", "a caller waits for nothing that is made ahead while there is a place"

    play(scene)


def test_one_that_is_broken_off_leaves_its_place_to_the_next() -> None:
    async def scene() -> None:
        stage = Scene(1)
        for name in "abcd":
            await stage.ask(name)
        await stage.cancel("b")  # while it waits
        await stage.cancel("a")  # while it is being made
        assert stage.begun == ["a", "c"]
        stage._over["c"].set()
        await stage.cancel("c", "d")  # just as it is given its place
        await stage.ask("e")
        assert stage.begun[-1] == "e"

    play(scene)
