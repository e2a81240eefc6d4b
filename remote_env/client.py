"""The typed face for programmers: a client of one server, its sandboxes and its executions."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import ValidationError

from remote_env import protocol
from remote_env.answer import execute_answer
from remote_env.config import Endpoint
from remote_env.correlation import About
from remote_env.creation import create_sandbox
from remote_env.errors import EpochChanged, InvalidSpec, OutcomeUnknownError
from remote_env.exchange import Exchange, Model, Refused, explain_gone, unreachable, wait_value
from remote_env.execution import Execution
from remote_env.heartbeat import HEARTBEATS
from remote_env.idempotency import ReadCommands
from remote_env.link import Link, OnDisconnected, OnReconnected
from remote_env.linkstate import LinkEvent
from remote_env.protocol import ID_PATTERN, ExecuteAnswer, ExecutionList, Health, SandboxList, SandboxSpec, new_id
from remote_env.sandbox import OnUndelivered, Sandbox, invalid_spec
from remote_env.timings import Timings
from remote_env.trace import enable_traces
from remote_env.transport import CLIENT_POOL_SIZE, MaybeSent, NotSent, Transport


class Client:
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
        on_lease_end: Literal["wait", "kill"] = "wait",
        on_undelivered: OnUndelivered = "raise",
        reads: ReadCommands | None = None,
        on_disconnected: OnDisconnected | None = None,
        on_reconnected: OnReconnected | None = None,
        pool_size: int = CLIENT_POOL_SIZE,
    ) -> None:
        enable_traces()
        _check_id("run_id", run_id)
        if on_undelivered not in ("raise", "redeliver"):
            raise InvalidSpec('on_undelivered is "raise" or "redeliver".')
        self._endpoint = Endpoint.resolve(url, token, token_file=token_file, ca_file=ca_file, fingerprint=fingerprint)
        self._transport = Transport(self._endpoint, timings, pool_size=pool_size)
        self._link = Link(self._transport.timings.heartbeat_misses, on_disconnected, on_reconnected)
        self.exchange = Exchange(self._transport, on_first_answer=self._link.first_answer)
        self.run_id = run_id or process_run_id()
        self.on_undelivered: OnUndelivered = on_undelivered
        self.reads = reads or ReadCommands.default()
        self._on_lease_end = on_lease_end
        self.beat_s = self.timings.heartbeat_s
        self._sandboxes: weakref.WeakSet[Sandbox] = weakref.WeakSet()
        self._made: weakref.WeakSet[Sandbox] = weakref.WeakSet()  # by this client: it keeps their runs alive
        self._making: dict[str, str] = {}  # sandbox id → run id, of those that are being made
        self._closed = threading.Event()
        self._beating_in: int | None = None  # the process whose heartbeat renews this client's run

    @property
    def url(self) -> str:
        return self._endpoint.url

    @property
    def timings(self) -> Timings:
        return self._transport.timings

    # --------------------------------------------------------------------------------------------------- sandboxes

    def create_sandbox(self, image: str, **options: Any) -> Sandbox:
        """Makes a sandbox and returns when commands can run in it; pulls the image where it is missing.

        `options` are the other fields of `protocol.SandboxSpec`: workdir, env, user, cpus, memory_bytes, pids,
        shm_bytes, network, labels, binds, read_only, no_new_privileges, pull, platform, lease_s, id.

        Raises ImageNotFound, InvalidSpec, IdConflict, Unauthorized, ServerBusy, Unreachable, SandboxNotCreated,
        ProtocolMismatch.
        """
        fixed_id = options.get("id") is not None
        fields = {"run_id": self.run_id, "on_lease_end": self._on_lease_end, **options, "image": image}
        fields["id"] = fields.get("id") or new_id()
        try:
            spec = SandboxSpec(**fields)
        except ValidationError as error:
            raise invalid_spec(error) from None
        if spec.lease_s / 3 < self.beat_s:
            self.beat_s = spec.lease_s / 3
            self._beating_in = None  # the heartbeat has to learn of it
        self._making[spec.id] = spec.run_id
        try:
            self.keep_alive()
            made = self._keep(Sandbox(self, create_sandbox(self.exchange, spec, fixed_id=fixed_id)))
            self._made.add(made)
        finally:
            self._making.pop(spec.id, None)
        return made

    def sandbox(self, sandbox_id: str) -> Sandbox:
        """A sandbox that somebody made, this process or another. Its lease stays its run's affair.

        Raises SandboxGone where the server does not know it, LinkLost.
        """
        _check_id("sandbox_id", sandbox_id)
        return self._keep(Sandbox(self, self.sandbox_record(sandbox_id)))

    def sandboxes(self, *, run_id: str | None = None, state: str | None = None) -> list[Sandbox]:
        """The live sandboxes of the server, of one run or of all. `state="all"`: those that are gone, too."""
        _check_id("run_id", run_id)
        query = _query(run_id=run_id, state=state)
        return [self._keep(Sandbox(self, record)) for record in self._read(SandboxList, f"/v1/sandboxes{query}").sandboxes]

    def sandbox_record(self, sandbox_id: str) -> protocol.Sandbox:
        """The server's answer about a sandbox, once it is no longer being created. Raises SandboxGone, LinkLost."""
        timings = self.timings
        while True:
            record = self._read(
                protocol.Sandbox,
                f"/v1/sandboxes/{sandbox_id}?wait={wait_value(timings.poll_slice_s)}",
                wait_s=timings.poll_slice_s,
            )
            if record.state != "creating" or not self._transport.pause(timings.retry_first_s):
                return record

    # -------------------------------------------------------------------------------------------------- executions

    def execution(self, execution_id: str) -> Execution:
        """A command that somebody sent, this process or another. Raises EpochChanged where the server does not know it."""
        _check_id("execution_id", execution_id)
        found = self.executions(id=execution_id, limit=1)
        if not found or found[0].id != execution_id:
            raise EpochChanged(f"The server knows no execution {execution_id}.", execution_id=execution_id)
        return found[0].refresh()

    def executions(self, **filters: str | int | None) -> list[Execution]:
        """The server's executions, newest first, without output: filtered by run_id, sandbox_id, state, id, and limit."""
        unknown = filters.keys() - {"run_id", "sandbox_id", "state", "id", "limit"}
        if unknown:
            raise InvalidSpec(f"No such filter: {', '.join(sorted(unknown))}.")
        query = _query(**filters)
        return [Execution(self, record) for record in self._read(ExecutionList, f"/v1/executions{query}").executions]

    def execute(self, sandbox_id: str, command: str | Sequence[str], **spec: Any) -> ExecuteAnswer:
        """`Sandbox.run` with the answer of POST /execute: output, returncode, exception_info, extra. Raises as `run`."""
        execution = self.sandbox(sandbox_id).run(command, **spec)
        return execute_answer(execution.record, execution.output(), execution.stderr() if execution.streams == "split" else None)

    # --------------------------------------------------------------------------------------------------- the server

    def health(self) -> Health:
        """The server's version, protocol, instance id, engine and capacity. Raises Unreachable, LinkLost."""
        return self._read(Health, "/health")

    def stats(self) -> dict[str, int | float]:
        """Counters since the client was made (`stats.COUNTERS`: sent, completed, timed_out, reattached, not_delivered,
        mismatched, …), and `mean_s`, the mean time of the completed calls in seconds."""
        return self._transport.stats.snapshot()

    @property
    def link(self) -> Link:
        """How the link to the server stands: `link.state`, since, reason, misses, failures, reconnects, instance_id; all of
        one moment: `link.snapshot()`."""
        return self._link

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

    def __repr__(self) -> str:
        return f"<Client of {self.url}, run {self.run_id}>"

    # -------------------------------------------------------------------------------------- for the handles' own use

    def keep_alive(self) -> None:
        """Sees that this process renews the lease of this client's run."""
        if self._beating_in == os.getpid() or self._closed.is_set():
            return
        HEARTBEATS.join(self, self._endpoint, self.timings)
        self._beating_in = os.getpid()
        if self._closed.is_set():  # by another thread, which may have come too early to see this one
            HEARTBEATS.leave(self, self._endpoint)

    @property
    def run_ids(self) -> set[str]:
        """The runs whose leases the heartbeat renews: this client's, and those it has made sandboxes for."""
        made = {sandbox.record.run_id for sandbox in list(self._made) if sandbox.gone is None}
        return {self.run_id, *made, *list(self._making.values())}

    def sandbox_ids(self) -> set[str]:
        return {sandbox.id for sandbox in list(self._made) if sandbox.gone is None}

    def learn_gone(self, gone: dict[str, str]) -> None:
        for sandbox in list(self._sandboxes):
            if sandbox.id in gone:
                sandbox.mark_gone(explain_gone(gone[sandbox.id]))

    def learn_link(self, event: LinkEvent) -> None:
        self._link.handle(event)

    def retire_connections(self) -> None:
        self._transport.rebuild()

    def once(self, model: type[Model], path: str, body: bytes, headers: dict[str, str], about: About) -> Model:
        """A POST that is not sent twice. Raises Unreachable, OutcomeUnknownError, Refused."""
        try:
            return self.exchange.once(model, "POST", path, body, headers, about=about)
        except NotSent as error:
            raise unreachable(self.url, error, 0.0) from error
        except MaybeSent as error:
            raise OutcomeUnknownError(f"POST {path}: no answer came ({error}); it may have been done.") from error

    def _keep(self, sandbox: Sandbox) -> Sandbox:
        self._sandboxes.add(sandbox)
        return sandbox

    def _read(self, model: type[Model], path: str, *, wait_s: float = 0.0) -> Model:
        try:
            return self.exchange.ask(model, "GET", path, budget_s=self.timings.reconnect_budget_s, wait_s=wait_s)
        except Refused as refusal:
            raise refusal.error() from refusal


_process_run: tuple[int, str] | None = None


def process_run_id() -> str:
    """The run that everything of this process belongs to unless told otherwise."""
    global _process_run
    if _process_run is None or _process_run[0] != os.getpid():
        _process_run = (os.getpid(), new_id())
    return _process_run[1]


def _check_id(name: str, value: str | None) -> None:
    if value is not None and not ID_PATTERN.fullmatch(value):
        raise InvalidSpec(f"{name}: 8 to 64 characters of a-z, 0-9, _ and -, and the first is a letter or digit.")


def _query(**filters: str | int | None) -> str:
    given = {name: value for name, value in filters.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
