"""A client of one server: what both faces know of it, and how they ask it."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlencode

from pydantic import ValidationError

from remote_env import protocol
from remote_env.carrier import Carrier
from remote_env.creation import create_sandbox
from remote_env.errors import EpochChanged, InvalidSpec
from remote_env.exchange import Exchange, Model, Refused, explain_gone, wait_value
from remote_env.execution_base import ExecutionBase
from remote_env.heartbeat import HEARTBEATS
from remote_env.idempotency import ReadCommands
from remote_env.link import Link, OnDisconnected, OnReconnected
from remote_env.linkstate import LinkEvent
from remote_env.protocol import ID_PATTERN, ExecutionList, Health, SandboxList, SandboxSpec, new_id
from remote_env.sandbox_base import OnUndelivered, SandboxBase, invalid_spec
from remote_env.timings import Timings
from remote_env.trace import enable_traces

SandboxT = TypeVar("SandboxT", bound=SandboxBase)
ExecutionT = TypeVar("ExecutionT", bound=ExecutionBase)
Handle = TypeVar("Handle")
OnLeaseEnd = Literal["wait", "kill"]
EXECUTION_FILTERS = frozenset({"run_id", "sandbox_id", "state", "id", "limit", "opens"})


class ClientBase(ABC, Generic[SandboxT, ExecutionT]):
    """What its handles and its process's heartbeat need of it."""

    def __init__(
        self,
        carrier: Carrier,
        *,
        run_id: str | None,
        on_lease_end: OnLeaseEnd,
        on_undelivered: OnUndelivered,
        reads: ReadCommands | None,
        on_disconnected: OnDisconnected | None,
        on_reconnected: OnReconnected | None,
    ) -> None:
        enable_traces()
        check_id("run_id", run_id)
        if on_undelivered not in ("raise", "redeliver"):
            raise InvalidSpec('on_undelivered is "raise" or "redeliver".')
        self._carrier = carrier
        self._endpoint = carrier.endpoint
        self._link = Link(carrier.timings.heartbeat_misses, on_disconnected, on_reconnected)
        self.exchange = Exchange(carrier, on_first_answer=self._link.first_answer)
        self.run_id = run_id or process_run_id()
        self.on_undelivered: OnUndelivered = on_undelivered
        self.reads = reads or ReadCommands.default()
        self._on_lease_end = on_lease_end
        self.beat_s = self.timings.heartbeat_s
        self._sandboxes: weakref.WeakSet[SandboxT] = weakref.WeakSet()
        self._made: weakref.WeakSet[SandboxT] = weakref.WeakSet()  # by this client: it keeps their runs alive
        self._making: dict[str, str] = {}  # sandbox id → run id, of those that are being made
        self._closed = threading.Event()
        self._beating_in: int | None = None  # the process whose heartbeat renews this client's run

    @property
    def url(self) -> str:
        return self._endpoint.url

    @property
    def timings(self) -> Timings:
        return self._carrier.timings

    @property
    def link(self) -> Link:
        """How the link to the server stands: `link.state`, since, reason, misses, failures, reconnects, instance_id; all of
        one moment: `link.snapshot()`."""
        return self._link

    def stats(self) -> dict[str, int | float]:
        """Counters since the client was made (`stats.COUNTERS`: sent, completed, timed_out, reattached, not_delivered,
        mismatched, …), and `mean_s`, the mean time of the completed calls in seconds."""
        return self._carrier.stats.snapshot()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.url}, run {self.run_id}>"

    # -------------------------------------------------------------------------------------------- asking the server

    @abstractmethod
    def _sandbox(self, record: protocol.Sandbox) -> SandboxT:
        """A handle of this face."""

    @abstractmethod
    def _execution(self, record: protocol.Execution) -> ExecutionT:
        """A handle of this face."""

    async def _create_sandbox(self, image: str, options: dict[str, Any], queue_s: float | None = None) -> SandboxT:
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
            made = self._keep(self._sandbox(await create_sandbox(self.exchange, spec, fixed_id=fixed_id, queue_s=queue_s)))
            self._made.add(made)
        finally:
            self._making.pop(spec.id, None)
        return made

    async def _find_sandbox(self, sandbox_id: str) -> SandboxT:
        check_id("sandbox_id", sandbox_id)
        return self._keep(self._sandbox(await self.ask_sandbox(sandbox_id)))

    async def _list_sandboxes(self, run_id: str | None, state: str | None) -> list[SandboxT]:
        check_id("run_id", run_id)
        listed = await self._read(SandboxList, f"/v1/sandboxes{_query(run_id=run_id, state=state)}")
        return [self._keep(self._sandbox(record)) for record in listed.sandboxes]

    async def ask_sandbox(self, sandbox_id: str) -> protocol.Sandbox:
        """The server's answer about a sandbox, once it is no longer being created. Raises SandboxGone, LinkLost."""
        timings = self.timings
        while True:
            record = await self._read(
                protocol.Sandbox,
                f"/v1/sandboxes/{sandbox_id}?wait={wait_value(timings.poll_slice_s)}",
                wait_s=timings.poll_slice_s,
            )
            if record.state != "creating" or not await self._carrier.pause(timings.retry_first_s):
                return record

    async def _find_execution(self, execution_id: str) -> ExecutionT:
        check_id("execution_id", execution_id)
        found = await self._list_executions({"id": execution_id, "limit": 1})
        if not found or found[0].id != execution_id:
            raise EpochChanged(f"The server knows no execution {execution_id}.", execution_id=execution_id)
        return await found[0]._refresh()

    async def _list_executions(self, filters: dict[str, str | int | None]) -> list[ExecutionT]:
        unknown = filters.keys() - EXECUTION_FILTERS
        if unknown:
            raise InvalidSpec(f"No such filter: {', '.join(sorted(unknown))}.")
        listed = await self._read(ExecutionList, f"/v1/executions{_query(**filters)}")
        return [self._execution(record) for record in listed.executions]

    async def _health(self) -> Health:
        return await self._read(Health, "/health")

    async def _read(self, model: type[Model], path: str, *, wait_s: float = 0.0) -> Model:
        try:
            return await self.exchange.ask(model, "GET", path, budget_s=self.timings.reconnect_budget_s, wait_s=wait_s)
        except Refused as refusal:
            raise refusal.error() from refusal

    # -------------------------------------------------------------- for the handles and the heartbeat, not for users

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
        made = {sandbox.record.run_id for sandbox in _living(self._made) if sandbox.gone is None}
        return {self.run_id, *made, *list(self._making.values())}

    def sandbox_ids(self) -> set[str]:
        return {sandbox.id for sandbox in _living(self._made) if sandbox.gone is None}

    def learn_gone(self, gone: dict[str, str]) -> None:
        for sandbox in _living(self._sandboxes):
            if sandbox.id in gone:
                sandbox.mark_gone(explain_gone(gone[sandbox.id]))

    def learn_link(self, event: LinkEvent) -> None:
        self._link.handle(event)

    def retire_connections(self) -> None:
        self._carrier.rebuild()

    def _keep(self, sandbox: SandboxT) -> SandboxT:
        self._sandboxes.add(sandbox)
        return sandbox


def _living(handles: Iterable[Handle]) -> list[Handle]:
    """Those that are there now. For the heartbeat's thread: others make and forget handles meanwhile."""
    while True:
        try:
            return list(handles)
        except RuntimeError:  # one was added while they were counted
            continue


_process_run: tuple[int, str] | None = None


def process_run_id() -> str:
    """The run that everything of this process belongs to unless told otherwise."""
    global _process_run
    if _process_run is None or _process_run[0] != os.getpid():
        _process_run = (os.getpid(), new_id())
    return _process_run[1]


def check_id(name: str, value: str | None) -> None:
    """Raises InvalidSpec for what is no id."""
    if value is not None and not ID_PATTERN.fullmatch(value):
        raise InvalidSpec(f"{name}: 8 to 64 characters of a-z, 0-9, _ and -, and the first is a letter or digit.")


def _query(**filters: str | int | None) -> str:
    given = {name: value for name, value in filters.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
