"""`sandbox` for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from remote_env import protocol
from remote_env.aio.eventstream import AsyncEventStream
from remote_env.aio.execution import AsyncExecution
from remote_env.aio.listener import AsyncListener, OnOutput
from remote_env.aio.sandbox_files import AsyncSandboxFiles
from remote_env.aio.session import AsyncSession
from remote_env.aio.terminal import AsyncTerminal
from remote_env.execution_base import ExecutionBase
from remote_env.filemodels import Change, Snapshot
from remote_env.filerequests import Path
from remote_env.protocol import Tty
from remote_env.sandbox_base import OnUndelivered, SandboxBase
from remote_env.terminal_base import SHELL_COMMAND, require_terminal

if TYPE_CHECKING:
    from remote_env.aio.client import AsyncClient


_ITSELF: Any = object()  # what `remove` removes when no path is given; None would be a path that somebody forgot


class AsyncSandbox(SandboxBase, AsyncSandboxFiles):
    """A container that the server made. Commands run in it one beside the other; tasks may share it.

    With `async with`, it is removed at the end. `record` is the server's latest answer about it.
    """

    def __init__(self, client: AsyncClient, record: protocol.Sandbox) -> None:
        super().__init__(client, record)
        self._client = client

    async def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = False,
        idempotent: bool | None = None,
        on_undelivered: OnUndelivered | None = None,
        on_output: OnOutput | None = None,
        **spec: Any,
    ) -> AsyncExecution:
        """Runs the command at most once and waits for its end. Arguments and errors: see `Sandbox.run`.

        Cancelling the task that awaits this (a timeout of `asyncio`'s too) cancels the command: asks for that for at most
        `Timings.farewell_s` seconds, then goes on with the cancellation.

        `on_output` is called with each `OutputPiece` as it comes, in the event loop, so it must not block; a coroutine function is
        awaited in a task of its own.
        """
        hear = None if on_output is None else self._hearing(on_output)
        return self._execution(await self._run(command, idempotent, on_undelivered, hear, check, spec))

    async def start(self, command: str | Sequence[str], **spec: Any) -> AsyncExecution:
        """Sends the command and returns as soon as the server has it in its journal. Arguments and errors as `run`."""
        return self._execution(await self._start(command, spec))

    def stream(
        self,
        command: str | Sequence[str],
        *,
        idempotent: bool | None = None,
        on_undelivered: OnUndelivered | None = None,
        **spec: Any,
    ) -> AsyncEventStream:
        """Sends the command and follows it: `async for event in sandbox.stream(command)`, the last event being `Ended` with the
        `AsyncExecution` that `run` would have returned. Sent when the stream is entered, or with its first event.

        Leaving the loop does not cancel the command: `cancel()` of the stream does, and `.execution` is its handle. Cancelling the
        task while the command is being sent does, as in `run`. Arguments and errors as `run`.
        """

        async def begin() -> AsyncExecution:
            return self._execution(await self._begin(command, idempotent, on_undelivered, spec))

        return AsyncEventStream(begin, self._exchange)

    async def session(
        self,
        *,
        startup: Sequence[str] = (),
        tty: bool | Tty | None = None,
        errors: str = "replace",
        shell: str | None = None,
        login: bool | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        streams: protocol.Streams | None = None,
        **spec: Any,
    ) -> AsyncSession:
        """Opens a shell that keeps its directory, variables, functions and jobs between commands, and waits until it answers.
        Arguments and errors: see `Sandbox.session`."""
        options = {"shell": shell, "login": login, "workdir": workdir, "env": env, "user": user, "streams": streams, **spec}
        return await AsyncSession.open(self, startup, tty, errors, options)

    async def terminal(
        self,
        command: str | Sequence[str] | None = None,
        *,
        rows: int = 24,
        cols: int = 80,
        term: str = "xterm-256color",
        echo: bool = True,
        errors: str = "replace",
        **spec: Any,
    ) -> AsyncTerminal:
        """Starts a program (default: a login shell) on a terminal of its own, for somebody who talks with it. See `Sandbox.terminal`."""
        options = {"timeout_s": None, **spec, "tty": {"rows": rows, "cols": cols, "term": term, "echo": echo}}
        return AsyncTerminal(await self.start(SHELL_COMMAND if command is None else command, **options), errors=errors)

    async def attach(self, execution_id: str, *, from_: str | int = "now", errors: str = "replace") -> AsyncTerminal:
        """Takes up a program on a terminal that somebody started, this process or another. See `Sandbox.attach`."""
        execution = await self._client.execution(execution_id)
        require_terminal(execution, self.id)
        return AsyncTerminal(execution, typed=None, from_=from_, errors=errors)

    @overload
    async def remove(self, *, purge: bool = False) -> None: ...
    @overload
    async def remove(self, path: Path, *, recursive: bool = False, user: str | None = None) -> None: ...
    async def remove(self, path: Path = _ITSELF, *, purge: bool = False, recursive: bool = False, user: str | None = None) -> None:
        """Without a path: kills what runs in the sandbox and removes its container; with one: removes that file, link or directory
        of the sandbox. See `Sandbox.remove`."""
        if path is _ITSELF:
            await self._remove(purge)
        else:
            await self.files.remove(path, recursive=recursive, user=user)

    async def diff(self) -> list[Change]:
        """What is otherwise in its file system than in its image, by path."""
        return await self._diff()

    async def snapshot(self, image: str) -> Snapshot:
        """Makes an image of that name. See `Sandbox.snapshot`."""
        return await self._snapshot(image)

    async def refresh(self) -> AsyncSandbox:
        """Asks the server how it stands now. Raises SandboxGone where the server does not know it, LinkLost."""
        return await self._refresh()

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.remove()

    def _execution(self, record: protocol.Execution) -> AsyncExecution:
        return AsyncExecution(self._client, record)

    def _hearing(self, on_output: OnOutput) -> Callable[[ExecutionBase], AsyncListener]:
        def hear(execution: ExecutionBase) -> AsyncListener:
            return AsyncListener(AsyncEventStream.of(self._execution(execution.record), self._exchange, counted=False), on_output)

        return hear
