"""The typed face for programmers: a client of one server, its sandboxes and its executions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from remote_env import protocol
from remote_env.answer import execute_answer
from remote_env.client_base import ClientBase, OnLeaseEnd
from remote_env.config import Endpoint
from remote_env.driving import drive
from remote_env.execution import Execution
from remote_env.heartbeat import HEARTBEATS
from remote_env.idempotency import ReadCommands
from remote_env.link import OnDisconnected, OnReconnected
from remote_env.protocol import ExecuteAnswer, Health
from remote_env.sandbox import Sandbox
from remote_env.sandbox_base import OnUndelivered
from remote_env.timings import Timings
from remote_env.transport import CLIENT_POOL_SIZE, Transport


class Client(ClientBase[Sandbox, Execution]):
    """A client of one server. Threads may share it; a forked child gets connections and a heartbeat of its own.

    Args:
        url: of the server; else REMOTE_ENV_URL, else http://127.0.0.1:9527.
        token: else `token_file`, REMOTE_ENV_TOKEN, REMOTE_ENV_TOKEN_FILE, else the local server's own token file.
        ca_file: PEM file that the server's certificate is checked with; else REMOTE_ENV_CA_FILE, else the system's CAs.
        fingerprint: sha256 of the server's certificate, instead of a CA; else REMOTE_ENV_FINGERPRINT.
        timings: every duration that the client waits, in seconds.
        run_id: the run that this client's sandboxes belong to: they share a lease and are reaped together. Default: one
            run per process.
        on_lease_end: "wait": a running command holds the lease until its own end; "kill": it does not.
        on_undelivered: "raise" CommandNotDelivered, or "redeliver" such a command once under a new id.
        reads: the commands that change nothing and so may run again (see `Sandbox.run`).
        on_disconnected: called with the reason (str) when `timings.heartbeat_misses` beats in a row went unanswered.
        on_reconnected: called with the downtime in seconds (float) when the server answers again after that. Both are called
            in a thread of their own: how long they take, and what they raise, harms nothing; that is logged.
        pool_size: connections that are kept.

    The link is watched from the first sandbox or command on, every `timings.heartbeat_s` seconds: see `link`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        fingerprint: str | None = None,
        timings: Timings | None = None,
        run_id: str | None = None,
        on_lease_end: OnLeaseEnd = "wait",
        on_undelivered: OnUndelivered = "raise",
        reads: ReadCommands | None = None,
        on_disconnected: OnDisconnected | None = None,
        on_reconnected: OnReconnected | None = None,
        pool_size: int = CLIENT_POOL_SIZE,
    ) -> None:
        endpoint = Endpoint.resolve(url, token, token_file=token_file, ca_file=ca_file, fingerprint=fingerprint)
        self._transport = Transport(endpoint, timings, pool_size=pool_size)
        super().__init__(
            self._transport,
            run_id=run_id,
            on_lease_end=on_lease_end,
            on_undelivered=on_undelivered,
            reads=reads,
            on_disconnected=on_disconnected,
            on_reconnected=on_reconnected,
        )

    # --------------------------------------------------------------------------------------------------- sandboxes

    def create_sandbox(self, image: str, *, queue_s: float | None = None, **options: Any) -> Sandbox:
        """Makes a sandbox and returns when commands can run in it; pulls the image where it is missing.

        Args:
            queue_s: how long to wait where the server has no room, in seconds; default `Timings.queue_s`. 0: ServerBusy at once.
            options: the other fields of `protocol.SandboxSpec`: workdir, env, user, cpus, memory_bytes, pids, shm_bytes,
                network, labels, binds, read_only, no_new_privileges, pull, platform, lease_s; and id, to ask for what an earlier
                process may have asked for already: with the same options, it is one sandbox.

        Raises ImageNotFound, InvalidSpec, IdConflict, Unauthorized, ServerBusy, Unreachable, SandboxNotCreated,
        ProtocolMismatch.
        """
        return drive(self._create_sandbox(image, options, queue_s))

    def sandbox(self, sandbox_id: str) -> Sandbox:
        """A sandbox that somebody made, this process or another. Its lease stays its run's affair.

        Raises SandboxGone where the server does not know it, LinkLost.
        """
        return drive(self._find_sandbox(sandbox_id))

    def sandboxes(self, *, run_id: str | None = None, state: str | None = None) -> list[Sandbox]:
        """The live sandboxes of the server, of one run or of all. `state="all"`: those that are gone, too."""
        return drive(self._list_sandboxes(run_id, state))

    def sandbox_record(self, sandbox_id: str) -> protocol.Sandbox:
        """The server's answer about a sandbox, once it is no longer being created. Raises SandboxGone, LinkLost."""
        return drive(self.ask_sandbox(sandbox_id))

    # -------------------------------------------------------------------------------------------------- executions

    def execution(self, execution_id: str) -> Execution:
        """A command that somebody sent, this process or another. Raises EpochChanged where the server does not know it."""
        return drive(self._find_execution(execution_id))

    def executions(self, **filters: str | int | None) -> list[Execution]:
        """The server's executions, newest first, without output: filtered by run_id, sandbox_id, state, id, and limit."""
        return drive(self._list_executions(filters))

    def execute(self, sandbox_id: str, command: str | Sequence[str], **spec: Any) -> ExecuteAnswer:
        """`Sandbox.run` with the answer of POST /execute: output, returncode, exception_info, extra. Raises as `run`."""
        execution = self.sandbox(sandbox_id).run(command, **spec)
        return execute_answer(execution.record, execution.output(), execution.stderr() if execution.streams == "split" else None)

    # --------------------------------------------------------------------------------------------------- the server

    def health(self) -> Health:
        """The server's version, protocol, instance id, engine and capacity. Raises Unreachable, LinkLost."""
        return drive(self._health())

    def close(self) -> None:
        """Ends the heartbeat of this client and its connections. Sandboxes stay, until their lease runs out. A call of
        another thread that is under way raises; its command goes on. May be repeated."""
        self._closed.set()
        self._link.close()
        self._transport.close()
        HEARTBEATS.leave(self, self._endpoint)
        self._link.join_callbacks(self.timings.farewell_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _sandbox(self, record: protocol.Sandbox) -> Sandbox:
        return Sandbox(self, record)

    def _execution(self, record: protocol.Execution) -> Execution:
        return Execution(self, record)
