"""The face that agent harnesses use: one sandbox, `execute()` in it, a dict as the answer."""

from __future__ import annotations

import atexit
import logging
import os
import posixpath
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from remote_env.answer import execute_answer
from remote_env.client import Client
from remote_env.creation import forget_sandbox, remove_sandbox
from remote_env.driving import drive
from remote_env.errors import (
    EpochChanged,
    InvalidSpec,
    MisuseError,
    NotRunError,
    RemoteEnvError,
    SandboxGone,
)
from remote_env.exchange import Exchange
from remote_env.idempotency import ReadCommands
from remote_env.link import OnDisconnected, OnReconnected
from remote_env.listener import OnOutput
from remote_env.protocol import COMMAND_TIMEOUT_S, Execution
from remote_env.sandbox import Sandbox
from remote_env.sandbox_base import OnUndelivered
from remote_env.timings import Timings
from remote_env.transport import ENVIRONMENT_POOL_SIZE

log = logging.getLogger("remote_env")


class RemoteDockerEnvironment:
    """A sandbox and a way to run commands in it. Threads may share it.

    Args:
        image: of the container; pulled where it is missing.
        url, token, token_file, ca_file, fingerprint, timings, run_id, on_lease_end, on_undelivered, reads,
            on_disconnected, on_reconnected: see `Client`.
        cwd: the directory that commands run in; None: the sandbox's own.
        env: variables that every command sees.
        timeout: seconds that a command may take unless `execute` is told otherwise.
        client: a client to share; then url, token and the like are its own.
        sandbox_options: the other fields of `protocol.SandboxSpec`, as `Client.create_sandbox` takes them.

    Raises what `Client.create_sandbox` raises.
    """

    def __init__(
        self,
        image: str,
        url: str | None = None,
        token: str | None = None,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = COMMAND_TIMEOUT_S,
        client: Client | None = None,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        fingerprint: str | None = None,
        timings: Timings | None = None,
        run_id: str | None = None,
        on_lease_end: Literal["wait", "kill"] = "wait",
        on_undelivered: OnUndelivered | None = None,
        reads: ReadCommands | None = None,
        on_disconnected: OnDisconnected | None = None,
        on_reconnected: OnReconnected | None = None,
        **sandbox_options: Any,
    ) -> None:
        if client is None:
            self.client = Client(
                url,
                token,
                token_file=token_file,
                ca_file=ca_file,
                fingerprint=fingerprint,
                timings=timings,
                run_id=run_id,
                on_lease_end=on_lease_end,
                on_undelivered=on_undelivered or "raise",
                reads=reads,
                on_disconnected=on_disconnected,
                on_reconnected=on_reconnected,
                pool_size=ENVIRONMENT_POOL_SIZE,
            )
        elif any(
            given is not None for given in (url, token, token_file, ca_file, fingerprint, timings, reads, on_disconnected, on_reconnected)
        ):
            raise InvalidSpec("With a shared client, its own url, token, TLS, timings, reads and callbacks hold: give them to the client.")
        else:
            self.client = client
            sandbox_options = {"on_lease_end": on_lease_end, **({"run_id": run_id} if run_id else {}), **sandbox_options}
        self._owns_client = client is None
        self._on_undelivered = on_undelivered
        self.cwd = cwd
        self.timeout = timeout
        self._death_reported = False
        self._lost = False
        self._pid = os.getpid()
        try:
            self.sandbox: Sandbox = self.client.create_sandbox(image, env=dict(env or {}), **sandbox_options)
        except BaseException:
            if self._owns_client:
                self.client.close()
            raise
        self._finalizer = weakref.finalize(self, _abandon, self.client.exchange, self.sandbox.id, self._pid, self._owned_client())
        self._finalizer.atexit = False  # `_close_all` sees to that while the interpreter still works
        _close_at_exit(self)

    @property
    def container_id(self) -> str | None:
        """The engine's own id of the container."""
        return self.sandbox.container_id

    @property
    def lost(self) -> bool:
        """Whether a command was told that the sandbox is gone, or was lost with it."""
        return self._lost

    def execute(
        self,
        command: str | Sequence[str] | Mapping[str, Any],
        cwd: str = "",
        *,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
    ) -> dict[str, Any]:
        """Runs the command at most once and waits for its end.

        Args:
            command: for the shell; an argv list; or a mapping with one of these under "command".
            cwd: directory to run in, absolute or below `self.cwd`; "": `self.cwd` itself.
            timeout: seconds it may take; None: `self.timeout`.
            on_output: called with each `OutputPiece` (`.text`, `.data`, `.offset`) while the command runs, in a thread of its
                own. The result never waits for it, but for `Timings.listener_grace_s` at the end, and is whole whatever it does.

        Returns:
            {"output": str, "returncode": int, "exception_info": str, "extra": dict}. Whatever happens to the command is in
            there: with a returncode of -1, `exception_info` says in a sentence what happened, whether it ran, what to do.

        Raises:
            MisuseError: the call itself is wrong; nothing was sent.
            SandboxGone: the sandbox is gone, and an earlier call has said so, or it was closed.
        """
        words: Any = command.get("command") if isinstance(command, Mapping) else command  # what it is not, `run` refuses
        began = time.monotonic()
        options: dict[str, Any] = {"timeout_s": self.timeout if timeout is None else timeout}
        workdir = self._workdir(cwd)
        if workdir is not None:
            options["workdir"] = workdir
        record: Execution | None = None
        try:
            execution = self.sandbox.run(words, on_undelivered=self._on_undelivered, on_output=on_output, **options)
            record = execution.record
            answer = execute_answer(record, execution.output()).model_dump()
        except MisuseError:
            raise
        except RemoteEnvError as error:
            if isinstance(error, SandboxGone) and self._death_reported:
                raise
            if isinstance(error, (SandboxGone, EpochChanged)):
                self._death_reported = self._lost = True
            return _answer_for(error, record, time.monotonic() - began)
        if record.outcome is not None and record.outcome.kind == "lost":
            self._death_reported = self._lost = True
        return answer

    def close(self) -> None:
        """Removes the sandbox, with all that runs in it. Tried for a short while; where that fails its lease ends it. May
        be repeated. In a forked child it does nothing: the sandbox is the parent's."""
        if self._finalizer.detach() is None:
            return
        self._death_reported = True
        self.sandbox.mark_gone("it was closed")
        exchange = self.client.exchange
        farewell_s = exchange.transport.timings.farewell_s
        try:
            if os.getpid() == self._pid:
                drive(remove_sandbox(exchange, self.sandbox.id, budget_s=farewell_s, wait_s=farewell_s))
        except RemoteEnvError as error:
            log.warning("sandbox %s could not be removed (%s): its lease will end it", self.sandbox.id, error)
        finally:
            if self._owns_client:
                self.client.close()

    def __enter__(self) -> RemoteDockerEnvironment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _owned_client(self) -> Client | None:
        return self.client if self._owns_client else None

    def _workdir(self, cwd: str) -> str | None:
        base = self.cwd or self.sandbox.record.workdir
        if not cwd:
            return self.cwd
        return posixpath.join(base or "/", cwd)


def _answer_for(error: RemoteEnvError, record: Execution | None, seconds: float) -> dict[str, Any]:
    """The dict for a command whose end, or whose output, nobody can show."""
    ran: bool | str = "unknown"
    outcome = "unknown"
    if isinstance(error, (NotRunError, SandboxGone)):
        ran, outcome = False, "not_run"
    elif record is not None and record.outcome is not None:
        ran, outcome = record.outcome.ran, record.outcome.kind
    extra: dict[str, Any] = {
        "execution_id": error.execution_id,
        "sandbox_id": error.sandbox_id,
        "outcome": outcome,
        "ran": ran,
        "truncated": None,
        "duration_s": round(seconds, 3),
        "error": type(error).__name__,
    }
    return {"output": "", "returncode": -1, "exception_info": str(error), "extra": extra}


def _abandon(exchange: Exchange, sandbox_id: str, pid: int, owned_client: Client | None) -> None:
    """What is left to do for an environment that was dropped without `close()`."""
    if os.getpid() != pid:
        return

    def remove() -> None:
        drive(forget_sandbox(exchange, sandbox_id))
        if owned_client is not None:
            owned_client.close()

    # A finalizer may run in the middle of anything: no place to wait for a server, or for a lock.
    threading.Thread(target=remove, name="remote-env-remove", daemon=True).start()


_open_environments: weakref.WeakSet[RemoteDockerEnvironment] = weakref.WeakSet()
_exit_hook_set = False


def _close_at_exit(environment: RemoteDockerEnvironment) -> None:
    global _exit_hook_set
    _open_environments.add(environment)
    if not _exit_hook_set:
        _exit_hook_set = True
        atexit.register(_close_all)


def _close_all() -> None:
    for environment in list(_open_environments):
        environment.close()
