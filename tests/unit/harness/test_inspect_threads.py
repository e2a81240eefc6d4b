"""Calls in threads for coroutines; on each event loop that is installed, of those that Inspect runs on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import pytest

from remote_env.errors import LinkLost
from remote_env.harness import inspect_threads
from remote_env.harness.inspect_threads import Cancellation, in_thread

pytestmark = pytest.mark.anyio


class Call:
    """Blocks in its thread until it is released or undone."""

    def __init__(self, undo: Callable[[], None] | None = None) -> None:
        self.begun, self.over, self.undone = threading.Event(), threading.Event(), threading.Event()
        self._undo = undo

    def __call__(self, cancellation: Cancellation) -> str:
        self.begun.set()
        cancellation.undo_with(self.undo)
        assert self.over.wait(30)
        return "done"

    def undo(self) -> None:
        self.undone.set()
        self.over.set()
        if self._undo is not None:
            self._undo()


async def cancelled(call: Callable[[Cancellation], str], begun: threading.Event) -> None:
    """Runs the call, and cancels the one who waits for it once it has begun."""
    async with anyio.create_task_group() as group:
        group.start_soon(in_thread, call)
        assert await anyio.to_thread.run_sync(begun.wait, 30)
        group.cancel_scope.cancel()


async def test_the_result_comes_back() -> None:
    call = Call()
    call.over.set()
    assert await in_thread(call) == "done"
    assert not call.undone.is_set()


async def test_who_is_cancelled_does_not_wait_and_undoes() -> None:
    call = Call()
    await cancelled(call, call.begun)
    assert call.undone.is_set()


async def test_what_is_done_after_the_cancel_is_undone_at_once() -> None:
    """The request was on its way when nobody wanted it any more."""
    begun, late, undone = threading.Event(), threading.Event(), threading.Event()

    def call(cancellation: Cancellation) -> str:
        begun.set()
        assert late.wait(30)
        cancellation.undo_with(undone.set)
        return ""

    await cancelled(call, begun)
    assert not undone.is_set()
    late.set()
    assert await anyio.to_thread.run_sync(undone.wait, 30)


async def test_an_undoing_that_fails_does_not_take_the_cancels_place(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise LinkLost("away")

    call = Call(fail)
    await cancelled(call, call.begun)
    assert call.undone.is_set()
    assert "a cancelled call could not be undone: away" in caplog.text


async def test_a_server_that_does_not_answer_delays_a_cancel_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_threads, "FAREWELL_S", 0.05)
    answered = threading.Event()
    call = Call(lambda: answered.wait(30) and None)
    await cancelled(call, call.begun)  # returns though the undoing has not
    assert not answered.is_set()
    answered.set()


async def test_farewells_do_not_wait_for_the_calls_that_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_threads, "THREADS", 1)
    call = Call()
    await cancelled(call, call.begun)
    assert call.undone.is_set()
