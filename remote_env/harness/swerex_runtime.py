"""SWE-ReX's runtime interface over a sandbox."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from swerex.exceptions import SessionDoesNotExistError, SessionExistsError, SwerexException
from swerex.runtime import abstract as peer
from swerex.utils.log import get_logger

from remote_env.harness.swerex_commands import execute
from remote_env.harness.swerex_failures import as_swerex_exceptions
from remote_env.harness.swerex_opening import open_session
from remote_env.harness.swerex_session import BashSession
from remote_env.harness.swerex_text import read_as_text
from remote_env.harness.swerex_threads import in_thread
from remote_env.sandbox import Sandbox

Result = TypeVar("Result")

_ALIVE_S = 10.0  # that a server may take to say so


class RemoteEnvRuntime(peer.AbstractRuntime):
    """All that SWE-ReX's runtimes do, in a sandbox that somebody else makes and removes (`RemoteEnvDeployment` does).

    It may be used from several event loops, one after the other or at once.

    Args:
        sandbox: where it all happens.
        logger: None: SWE-ReX's own.
    """

    def __init__(self, sandbox: Sandbox, *, logger: logging.Logger | None = None) -> None:
        self.sandbox = sandbox
        self.logger = logger or get_logger("rex-runtime")
        self._sessions: dict[str, BashSession | None] = {}  # None: it is being opened
        self._lock = threading.Lock()

    async def is_alive(self, *, timeout: float | None = None) -> peer.IsAliveResponse:
        """Whether commands can run in the sandbox, and why not. `timeout` in seconds; None: 10."""
        try:
            await asyncio.wait_for(self._call(self.sandbox.refresh), _ALIVE_S if timeout is None else timeout)
        except (TimeoutError, asyncio.TimeoutError):  # which are two before Python 3.11
            return peer.IsAliveResponse(is_alive=False, message="The server did not answer in time.")
        except SwerexException as error:
            return peer.IsAliveResponse(is_alive=False, message=str(error))
        gone = self.sandbox.gone
        return peer.IsAliveResponse(is_alive=gone is None, message="" if gone is None else f"The sandbox is gone: {gone}.")

    async def create_session(self, request: peer.CreateSessionRequest) -> peer.CreateSessionResponse:
        """Opens a shell. A name whose shell has ended may be taken again.

        Raises SessionExistsError, CommandTimeoutError (the startup files took too long; there is no session then), SandboxFailure.
        """
        return await self._call(lambda: self._create_session(request))

    async def run_in_session(self, action: peer.Action) -> peer.Observation:
        """Runs a command in a session, types to what runs there, or interrupts it.

        Raises SessionDoesNotExistError (also where its shell has ended), BashIncorrectSyntaxError, CommandTimeoutError (the command goes
        on), NonZeroExitCodeError, NoExitCodeError, SandboxFailure.
        """
        session = self._session(action.session)
        if isinstance(action, peer.BashInterruptAction):
            interruption = action
            return await self._call(lambda: session.interrupt(interruption))
        command = action
        return await self._call(lambda: session.run(command))

    async def close_session(self, request: peer.CloseSessionRequest) -> peer.CloseSessionResponse:
        """Ends a shell with all that runs in it. Raises SessionDoesNotExistError, SandboxFailure."""
        session = self._session(request.session)
        with self._lock:
            self._sessions.pop(request.session, None)
        await self._call(session.close)
        return peer.CloseBashSessionResponse()

    async def execute(self, command: peer.Command) -> peer.CommandResponse:
        """Runs a command apart from any session, as `subprocess.run` would.

        Raises CommandTimeoutError (it was killed), NonZeroExitCodeError (`check`), FileNotFoundError, PermissionError and their like,
        SandboxFailure.
        """
        return await self._call(lambda: execute(self.sandbox, command))

    async def read_file(self, request: peer.ReadFileRequest) -> peer.ReadFileResponse:
        """The text of a file, as `Path.read_text` has it. Raises FileNotFoundError and its like, UnicodeDecodeError, SandboxFailure."""
        data = await self._call(lambda: self.sandbox.read_bytes(request.path))
        return peer.ReadFileResponse(content=read_as_text(data, request.encoding, request.errors))

    async def write_file(self, request: peer.WriteFileRequest) -> peer.WriteFileResponse:
        """Writes a file whole or not at all, and makes the directories above it. Raises PermissionError and its like, SandboxFailure."""
        await self._call(lambda: self.sandbox.write(request.path, request.content.encode()))
        return peer.WriteFileResponse()

    async def upload(self, request: peer.UploadRequest) -> peer.UploadResponse:
        """Copies a file, or what is in a directory, from this machine to `target_path` in the sandbox, modes and symbolic links kept.

        Raises ValueError (no such file or directory here), PermissionError and its like, SandboxFailure.
        """
        await self._call(lambda: self._upload(Path(request.source_path).resolve(), request.target_path))
        return peer.UploadResponse()

    async def close(self) -> peer.CloseResponse:
        """Ends all sessions; the sandbox stays. May be repeated."""
        with self._lock:
            sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            if session is not None:
                await self._call(session.close)
        return peer.CloseResponse()

    # ------------------------------------------------------------------------------------------------------ helpers

    def _create_session(self, request: peer.CreateBashSessionRequest) -> peer.CreateBashSessionResponse:
        with self._lock:
            known = self._sessions.get(request.session)
            if request.session in self._sessions and (known is None or known.alive):
                raise SessionExistsError(f"session {request.session} already exists")
            self._sessions[request.session] = None
        try:
            session, output = open_session(self.sandbox, request, self.logger)
        except BaseException:
            with self._lock:
                self._sessions.pop(request.session, None)
            raise
        with self._lock:
            self._sessions[request.session] = session
        return peer.CreateBashSessionResponse(output=output)

    def _upload(self, source: Path, target: str) -> None:
        if not source.is_dir() and not source.is_file():
            raise ValueError(f"Source path {source} is not a file or directory")
        self.sandbox.upload(source, target)

    def _session(self, name: str) -> BashSession:
        with self._lock:
            session = self._sessions.get(name)
        if session is None:
            raise SessionDoesNotExistError(f"session {name!r} does not exist")
        return session

    async def _call(self, call: Callable[[], Result]) -> Result:
        def converted() -> Result:
            with as_swerex_exceptions():
                return call()

        return await in_thread(converted)
