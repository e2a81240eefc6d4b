"""`terminal` for asyncio."""

from __future__ import annotations

import asyncio
import weakref
from types import TracebackType

from remote_env.aio.execution import AsyncExecution
from remote_env.aio.transcript import AsyncTranscript
from remote_env.terminal_base import EXPECT_TIMEOUT_S, INTERRUPT, Expected, Patterns, TerminalBase, encoded, position_of


class AsyncTerminal(TerminalBase):
    """A program that runs on a terminal. `sandbox.terminal()`, `sandbox.attach()` and `session.terminal()` make it. What each method
    raises: see `Terminal`.

        async with await sandbox.terminal("python3 -q") as python:
            await python.expect(">>> ")
            print((await python.send_line("6 * 7", expect=">>> ")).output)

    Tasks may share it, one of them writing. Cancelling a task that expects leaves program and text as they are; one that types, as
    with any send: some may have been typed.
    """

    def __init__(self, execution: AsyncExecution, *, typed: int | None = 0, from_: str | int = "start", errors: str = "replace") -> None:
        transcript = AsyncTranscript(execution.stream(position_of(from_, execution.record)), errors)
        super().__init__(execution, transcript, typed=typed)
        self.execution = execution
        self._turns = asyncio.Lock()
        weakref.finalize(self, transcript.abandon)

    @property
    def _typing(self) -> asyncio.Lock:
        return self._turns

    async def expect(self, patterns: Patterns, timeout_s: float | None = EXPECT_TIMEOUT_S) -> Expected:
        """Waits until one of the patterns is found in what the program says, and takes the text up to its end."""
        return await self._expect(patterns, timeout_s)

    async def read(self, timeout_s: float | None = EXPECT_TIMEOUT_S) -> str:
        """What it has said and nobody has taken, waiting for some; "" once it has ended and all was taken, or when nothing has come
        within `timeout_s` seconds (None: for ever)."""
        return await self._read(timeout_s)

    async def send(
        self, text: str | bytes, *, expect: Patterns | None = None, timeout_s: float | None = EXPECT_TIMEOUT_S
    ) -> Expected | None:  # fmt: skip
        """Types the text, exactly once, and then expects, where that is asked for."""
        return await self._send(text, expect, timeout_s)

    async def send_line(
        self, text: str | bytes = "", *, expect: Patterns | None = None, timeout_s: float | None = EXPECT_TIMEOUT_S
    ) -> Expected | None:  # fmt: skip
        """As `send`, with a line end."""
        return await self._send(encoded(text) + b"\n", expect, timeout_s)

    async def interrupt(self, *, expect: Patterns | None = None, timeout_s: float | None = EXPECT_TIMEOUT_S) -> Expected | None:
        """Types Ctrl-C, which is SIGINT for whatever has the terminal, unless that reads its keys itself. As `send`."""
        return await self._send(INTERRUPT, expect, timeout_s)

    async def resize(self, rows: int, cols: int) -> None:
        """Its size in characters; the program is told by SIGWINCH."""
        await self._resize(rows, cols)

    async def wait(self, timeout: float | None = None) -> AsyncExecution:
        """Waits for the program's end. Raises TimeoutError (it goes on), OutcomeUnknownError."""
        return await self.execution.wait(timeout)

    async def close(self) -> None:
        """Has the program ended, with all that it has started, and does not wait for that: `wait()` does. May be repeated."""
        try:
            await self._close()
        finally:
            self._transcript.close()

    async def __aenter__(self) -> AsyncTerminal:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
