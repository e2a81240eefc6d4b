"""`session` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from remote_env.aio.eventstream import AsyncEventStream
from remote_env.aio.execution import AsyncExecution
from remote_env.aio.listener import OnOutput
from remote_env.protocol import Tty
from remote_env.sandbox_base import OnUndelivered
from remote_env.session_base import SessionBase, open_session
from remote_env.terminal_base import tty_of

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

    def __init__(self, sandbox: AsyncSandbox, opening: AsyncExecution, tty: Tty | None = None) -> None:
        super().__init__(sandbox, opening, tty)
        self.sandbox = sandbox
        self._shell = opening
        self._turns = asyncio.Lock()

    @classmethod
    async def open(cls, sandbox: AsyncSandbox, startup: Sequence[str], tty: bool | Tty | None, options: dict[str, Any]) -> AsyncSession:
        """For `AsyncSandbox.session`."""
        terminal = tty_of(tty)
        given = {name: value for name, value in options.items() if value is not None}
        return cls(sandbox, sandbox._execution(await open_session(sandbox, startup, terminal, given)), terminal)

    async def run(
        self,
        command: str,
        *,
        check: bool = False,
        idempotent: bool | None = False,
        on_undelivered: OnUndelivered | None = None,
        on_output: OnOutput | None = None,
        **spec: Any,
    ) -> AsyncExecution:
        """Runs the command in the shell, at most once, and waits for its end. Arguments: see `Session.run`. Cancelling the task
        that awaits this interrupts the command; the session lives on."""
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

    async def interrupt(self) -> None:
        """Interrupts what runs: SIGINT; nothing happens where nothing runs. The session lives on."""
        await self._interrupt()

    async def output(self) -> bytes:
        """What was said between commands, by background jobs above all."""
        return await self._shell.output()

    async def refresh(self) -> AsyncSession:
        """Asks the server how it stands now."""
        await self._refresh()
        return self

    async def close(self) -> None:
        """Ends the shell and all that was started in it; a command that runs is cancelled. May be repeated."""
        await self._close()

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
