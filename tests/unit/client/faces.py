"""The asyncio face behind the names of the other, so that one test holds for both: each call runs in an event loop of its own
thread, and is waited for.

A module of tests with `BOTH_FACES = True` is run with each (see `conftest.face`); what speaks of threads alone is `@threads_only`.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from remote_env.aio import AsyncClient, AsyncEventStream, AsyncExecution, AsyncSandbox, AsyncSession, AsyncTerminal
from remote_env.events import Ended
from remote_env.terminal_base import Expected

Function = TypeVar("Function", bound=Callable[..., object])


def threads_only(test: Function) -> Function:
    """What it claims has no like in asyncio, or a test of its own there."""
    test.threads_only = True  # type: ignore[attr-defined]
    return test


@cache
def loop() -> asyncio.AbstractEventLoop:
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, name="event-loop-of-the-tests", daemon=True).start()
    return made


def run(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls it in the event loop, awaits what can be awaited. Ctrl-C cancels the task, and waits for its end."""
    over = threading.Event()
    task: list[asyncio.Task[Any]] = []

    async def call() -> Any:
        task.extend(each for each in [asyncio.current_task()] if each is not None)
        try:
            return await act()
        finally:
            over.set()

    async def act() -> Any:
        result = function(*args, **options)
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, AsyncEventStream):
            await result.__aenter__()  # the other face sends at once
        return result

    future = asyncio.run_coroutine_threadsafe(call(), loop())
    try:
        return shown(future.result())
    except KeyboardInterrupt:
        loop().call_soon_threadsafe(task[0].cancel)
        assert over.wait(20)
        raise


def shown(value: Any) -> Any:
    if isinstance(value, (AsyncClient, AsyncSandbox, AsyncExecution, AsyncSession, AsyncTerminal)):
        known = getattr(value, "_shown", lambda: None)()
        return known or Shown(value)
    if isinstance(value, AsyncEventStream):
        return ShownStream(value)
    if isinstance(value, Ended):
        return Ended(shown(value.result))
    if isinstance(value, Expected):
        return replace(value, execution=shown(value.execution))
    return [shown(each) for each in value] if isinstance(value, list) else value


class Shown:
    def __init__(self, thing: Any) -> None:
        self._thing = thing
        thing._shown = weakref.ref(self)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        if name == "text" and inspect.ismethod(value):
            return run(value)
        if name == "follow":
            return lambda: pieces(value())
        return (lambda *args, **options: run(value, *args, **options)) if inspect.ismethod(value) else shown(value)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        run(self._thing.__aexit__, *error)

    def __repr__(self) -> str:
        return repr(self._thing)


class ShownStream(Shown):
    def __iter__(self) -> ShownStream:
        return self

    def __next__(self) -> Any:
        try:
            return run(self._thing.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None


class LoopClient(Shown):
    """As `Client`, over an `AsyncClient`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(AsyncClient(*args, **options))


def pieces(generator: Any) -> Iterator[bytes]:
    while True:
        try:
            yield run(generator.__anext__)
        except StopAsyncIteration:
            return
