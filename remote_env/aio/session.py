"""`session` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast, overload

from remote_env.aio.eventstream import AsyncEventStream
from remote_env.aio.execution import AsyncExecution
from remote_env.aio.listener import OnOutput
from remote_env.aio.terminal import AsyncTerminal
from remote_env.protocol import Tty
from remote_env.sandbox_base import OnUndelivered
from remote_env.session_base import SessionBase, open_session
from remote_env.terminal_base import EXPECT_TIMEOUT_S, Expected, Patterns, tty_of

if TYPE_CHECKING:
    from remote_env.aio.sandbox import AsyncSandbox


class AsyncSession(SessionBase):
    """A shell that keeps its directory, variables, functions, aliases, options and background jobs between commands. Made by
    `await sandbox.session()`; with `async with`, it is closed at the end. What each method raises: see `Session`.

        async with await sandbox.session() as session:
            await session.run("cd /repo && export CI=1")
            print((await session.run("make")).returncode)

    Commands run one after the other; tasks that share it take turns in the order in which they came.
    """

    def __init__(self, sandbox: AsyncSandbox, opening: AsyncExecution, tty: Tty | None = None, errors: str = "replace") -> None:
        super().__init__(sandbox, opening, tty)
        self.sandbox = sandbox
        self._shell = opening
        self._errors = errors
        self._turns = asyncio.Lock()
        self._terminal: AsyncTerminal | None = None  # of the program that is talked with

    @classmethod
    async def open(
        cls, sandbox: AsyncSandbox, startup: Sequence[str], tty: bool | Tty | None, errors: str, options: dict[str, Any]
    ) -> AsyncSession:
        """For `AsyncSandbox.session`."""
        terminal = tty_of(tty)
        given = {name: value for name, value in options.items() if value is not None}
        return cls(sandbox, sandbox._execution(await open_session(sandbox, startup, terminal, given)), terminal, errors)

    # ---------------------------------------------------------------------------------------------------- commands

    @overload
    async def run(
        self,
        command: str,
        *,
        expect: None = None,
        check: bool = ...,
        idempotent: bool | None = ...,
        on_undelivered: OnUndelivered | None = ...,
        on_output: OnOutput | None = ...,
        **spec: Any,
    ) -> AsyncExecution: ...

    @overload
    async def run(self, command: str, *, expect: Patterns, timeout_s: float | None = ..., **spec: Any) -> Expected: ...

    async def run(
        self,
        command: str,
        *,
        expect: Patterns | None = None,
        check: bool = False,
        idempotent: bool | None = False,
        on_undelivered: OnUndelivered | None = None,
        on_output: OnOutput | None = None,
        **spec: Any,
    ) -> AsyncExecution | Expected:
        """Runs the command in the shell, at most once, and waits for its end, or for one of the patterns that are expected. Arguments:
        see `Session.run`. Cancelling the task that awaits an end interrupts the command; the session lives on."""
        if expect is not None:
            self._only_expecting(check=check, idempotent=idempotent, on_undelivered=on_undelivered, on_output=on_output)
            timeout_s = spec.pop("timeout_s", EXPECT_TIMEOUT_S)
            return await (await self.terminal(command, **spec)).expect(expect, timeout_s)
        hear = None if on_output is None else self.sandbox._hearing(on_output)
        async with self._turns:
            record = await self._run(command, idempotent, on_undelivered, hear, check, spec)
        return self.sandbox._execution(record)

    async def start(self, command: str, **spec: Any) -> AsyncExecution:
        """Sends the command and returns as soon as the server has it in its journal; the session's next command waits for its
        end."""
        async with self._turns:
            return cast(AsyncExecution, await self._begin(command, None, spec))

    def stream(self, command: str, *, on_undelivered: OnUndelivered | None = None, **spec: Any) -> AsyncEventStream:
        """Sends the command and follows it, as `AsyncSandbox.stream`."""

        async def begin() -> AsyncExecution:
            async with self._turns:
                return cast(AsyncExecution, await self._begin(command, on_undelivered, spec))

        return AsyncEventStream(begin, self.sandbox._exchange)

    # ------------------------------------------------------------------------------------------ programs to talk with

    async def terminal(self, command: str, **spec: Any) -> AsyncTerminal:
        """Starts a program on the session's terminal, for somebody who talks with it. See `Session.terminal`."""
        options = {"timeout_s": None, "tty": True, **spec}
        async with self._turns:
            execution = cast(AsyncExecution, await self._begin(command, None, options, talking=True))
            self._terminal = AsyncTerminal(execution, errors=self._errors)
        return self._terminal

    async def send(
        self, text: str | bytes, *, expect: Patterns | None = None, timeout_s: float | None = EXPECT_TIMEOUT_S
    ) -> Expected | None:  # fmt: skip
        """Types the text to the program that `run(…, expect=…)` has started: a line end is yours to type."""
        return await self._talked_with(self._terminal).send(text, expect=expect, timeout_s=timeout_s)

    async def expect(self, patterns: Patterns, timeout_s: float | None = EXPECT_TIMEOUT_S) -> Expected:
        """Waits for more of what that program says."""
        return await self._talked_with(self._terminal).expect(patterns, timeout_s)

    async def interrupt(self, *, expect: Patterns | None = None, timeout_s: float | None = EXPECT_TIMEOUT_S) -> Expected | None:
        """Interrupts what runs: Ctrl-C for a program that is talked with, SIGINT for a command that another task waits for; nothing
        happens where nothing runs. The session lives on."""
        return await self._interrupt(self._terminal, expect, timeout_s)

    # ------------------------------------------------------------------------------------------------- the session

    async def output(self) -> bytes:
        """What was said between commands, by background jobs above all."""
        return await self._shell.output()

    async def refresh(self) -> AsyncSession:
        """Asks the server how it stands now."""
        await self._refresh()
        return self

    async def close(self) -> None:
        """Ends the shell and all that was started in it; a command that runs is cancelled. May be repeated."""
        try:
            await self._close()
        finally:
            if self._terminal is not None:
                self._terminal._transcript.close()

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
