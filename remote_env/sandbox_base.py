"""One container on the server's machine: what both faces know of it, and how commands are delivered to it."""

from __future__ import annotations

import base64
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import ValidationError
from typing_extensions import Self

from remote_env import longstdin, protocol
from remote_env.correlation import About
from remote_env.courier import Courier
from remote_env.creation import remove_sandbox
from remote_env.errors import (
    CommandFailed,
    CommandLost,
    CommandNotDelivered,
    EpochChanged,
    InvalidSpec,
    NotRunError,
    OutcomeUnknownError,
    RemoteEnvError,
    SandboxGone,
)
from remote_env.exchange import Refused
from remote_env.execution_base import ExecutionBase
from remote_env.filemodels import Change, Snapshot, SnapshotRequest
from remote_env.files import Files
from remote_env.protocol import EPOCH_HEADER, AbandonRequest, ExecutionSpec, new_id
from remote_env.snapshots import diff, snapshot

if TYPE_CHECKING:
    from remote_env.client_base import ClientBase

OnUndelivered = Literal["raise", "redeliver"]
READ_RERUNS = 3  # of a command that is proven to be a read

log = logging.getLogger("remote_env")


class Hearing(Protocol):
    """Somebody who is told of a command's output while it runs."""

    async def conclude(self, record: protocol.Execution, grace_s: float) -> None:
        """The command has ended so. Gives them `grace_s` seconds to hear the rest; they hear nothing after that."""

    def stop(self) -> None:
        """They hear nothing any more."""


class SandboxBase(ABC):
    """`record` is the server's latest answer about it."""

    def __init__(self, client: ClientBase[Any, Any], record: protocol.Sandbox) -> None:
        self._base = client
        self._exchange = client.exchange
        self._gone: str | None = None
        self.record = record
        if record.state in ("removing", "removed", "dead", "failed"):
            self.mark_gone(record.reason or record.state)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def epoch(self) -> str:
        """Which of the container's lives this is; commands are meant for this one alone."""
        return self.record.epoch or ""

    @property
    def container_id(self) -> str | None:
        """The engine's own id of the container."""
        return self.record.container_id

    @property
    def gone(self) -> str | None:
        """Why no command can be sent to it any more, as far as this process knows; None while it lives."""
        return self._gone

    @property
    def files(self) -> Files:
        """Its files, as coroutines. Raises SandboxGone where it is known to be gone."""
        self._require_live({}, "Nothing was done")
        self._base.keep_alive()
        return Files(self._exchange, self.id, self.epoch, self.mark_gone)

    def mark_gone(self, reason: str) -> None:
        """From now on commands are refused here, with SandboxGone and this reason."""
        if self._gone is None:
            self._gone = reason

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.record.image}, {self._gone or self.record.state}>"

    # ---------------------------------------------------------------------------------------------------- delivery

    async def _run(
        self,
        command: str | Sequence[str],
        idempotent: bool | None,
        on_undelivered: OnUndelivered | None,
        hear: Callable[[ExecutionBase], Hearing] | None,
        check: bool,
        options: dict[str, Any],
    ) -> protocol.Execution:
        """The command's end. `hear`: makes the one who is told of its output."""

        async def send(request: ExecutionSpec, deadline: float) -> protocol.Execution:
            fresh = request.id != options.get("id")
            if hear is None:
                return await self._send(request, deadline, fresh=fresh)
            return await self._send_heard(request, deadline, hear, fresh)

        record = await self._deliver(command, idempotent, on_undelivered, options, send)
        if check:
            require_success(record)
        return record

    async def _start(self, command: str | Sequence[str], options: dict[str, Any]) -> protocol.Execution:
        """Its acceptance."""

        async def send(request: ExecutionSpec) -> protocol.Execution:
            return await self._send(request, None, accepted_suffices=True, fresh="id" not in options)

        self._require_live(options)
        return await self._with_stdin(self._spec(command, options), options, send)

    async def _begin(
        self, command: str | Sequence[str] | None, idempotent: bool | None, on_undelivered: OnUndelivered | None, options: dict[str, Any]
    ) -> protocol.Execution:
        """Its acceptance, as `_run` sees to it: for one who follows it from then on."""

        async def send(request: ExecutionSpec, deadline: float) -> protocol.Execution:
            return await self._send(request, deadline, accepted_suffices=True, fresh=request.id != options.get("id"))

        return await self._deliver(command, idempotent, on_undelivered, options, send)

    async def _remove(self, purge: bool) -> None:
        self.mark_gone("it was removed")
        budget_s = self._exchange.transport.timings.reconnect_budget_s
        removed = await remove_sandbox(self._exchange, self.id, purge=purge, budget_s=budget_s)
        if removed is not None:
            self.record = removed

    async def _diff(self) -> list[Change]:
        self._require_live({}, "Nothing was done")
        return await diff(self._exchange, self.id, self.epoch)

    async def _snapshot(self, image: str) -> Snapshot:
        self._require_live({}, "Nothing was done")
        self._base.keep_alive()
        try:
            request = SnapshotRequest(image=image, id=new_id())
        except ValidationError as error:
            raise invalid_spec(error) from None
        return await snapshot(self._exchange, self.id, self.epoch, request)

    async def _refresh(self) -> Self:
        self.record = await self._base.ask_sandbox(self.id)
        if self.record.state in ("removing", "removed", "dead", "failed"):
            self.mark_gone(self.record.reason or self.record.state)
        return self

    @abstractmethod
    def _execution(self, record: protocol.Execution) -> ExecutionBase:
        """A handle of this face."""

    async def _deliver(
        self,
        command: str | Sequence[str] | None,
        idempotent: bool | None,
        on_undelivered: OnUndelivered | None,
        options: dict[str, Any],
        send: Callable[[ExecutionSpec, float], Awaitable[protocol.Execution]],
    ) -> protocol.Execution:
        self._require_live(options)

        async def deliver(spec: ExecutionSpec) -> protocol.Execution:
            return await self._deliver_spec(spec, command, idempotent, on_undelivered or self._base.on_undelivered, send)

        return await self._with_stdin(self._spec(command, options), options, deliver)

    async def _with_stdin(
        self, spec: ExecutionSpec, options: dict[str, Any], send: Callable[[ExecutionSpec], Awaitable[protocol.Execution]]
    ) -> protocol.Execution:
        """What `send` brings, with a standard input of any length."""
        stdin = options.get("stdin")
        if not longstdin.is_long(stdin):
            return await send(spec)
        spec = await longstdin.lay_down(self.files, stdin, spec)
        try:
            record = await send(spec)
        except NotRunError:
            await longstdin.take_up(lambda: self.files, spec)
            raise
        # Nobody has opened it where the command did not run, or had run before this call.
        if record.outcome is not None and (record.outcome.ran is False or "id" in options):
            await longstdin.take_up(lambda: self.files, spec)
        return record

    async def _deliver_spec(
        self,
        spec: ExecutionSpec,
        command: str | Sequence[str] | None,
        idempotent: bool | None,
        on_undelivered: OnUndelivered,
        send: Callable[[ExecutionSpec, float], Awaitable[protocol.Execution]],
    ) -> protocol.Execution:
        transport = self._exchange.transport
        deadline = time.monotonic() + transport.timings.call_s(spec.timeout_s)
        backoff = self._exchange.backoff()
        attempts = 1
        while True:
            undelivered: CommandNotDelivered | None = None
            try:
                execution = await send(spec, deadline)
            except CommandNotDelivered as error:
                undelivered = error
            else:
                lost = execution.outcome is not None and execution.outcome.kind == "lost"
                # What removes its standard input once it is open would find none the second time.
                if not lost or spec.stdin_unlink or not self._may_rerun(command, idempotent, attempts):
                    return execution if attempts == 1 else execution.model_copy(update={"attempts": attempts})
                if not await self._is_alive():
                    return execution
            if undelivered is not None:
                redeliver = on_undelivered == "redeliver" and attempts == 1
                if not redeliver and not self._may_rerun(command, idempotent, attempts):
                    raise undelivered
            delay = backoff.next_s()
            if time.monotonic() + delay >= deadline or not await transport.pause(delay):
                if undelivered is not None:
                    raise undelivered
                return execution
            attempts += 1
            lost_id, spec = spec.id, spec.model_copy(update={"id": new_id()})
            log.warning(
                "execution %s in sandbox %s was %s: %s, as %s",
                lost_id,
                self.id,
                "lost" if undelivered is None else "not delivered",
                "sent once more" if undelivered is not None else "it only reads, so it is run again",
                spec.id,
            )
            transport.stats.add(redelivered=1)

    def _may_rerun(self, command: str | Sequence[str] | None, idempotent: bool | None, attempts: int) -> bool:
        if attempts > READ_RERUNS:
            return False
        if idempotent is None:
            return command is not None and self._base.reads.is_read(command)
        return idempotent

    async def _is_alive(self) -> bool:
        epoch = self.epoch
        try:
            await self._refresh()
        except RemoteEnvError as error:
            log.warning("sandbox %s: %s", self.id, error)
            return False
        return self.record.state == "running" and self.epoch == epoch

    async def _send(
        self, spec: ExecutionSpec, deadline: float | None, *, accepted_suffices: bool = False, fresh: bool = True
    ) -> protocol.Execution:
        self._base.keep_alive()
        courier = Courier(self._exchange, self.id, self.epoch)
        try:
            return await courier.run(spec, deadline=deadline, accepted_suffices=accepted_suffices, fresh=fresh)
        except (SandboxGone, EpochChanged) as error:
            self.mark_gone(str(error))
            error.sandbox_id = self.id
            raise
        except RemoteEnvError as error:
            error.sandbox_id = self.id
            raise
        except GeneratorExit:  # its event loop is gone: nothing can be awaited any more
            raise
        except BaseException:  # Ctrl-C, or its task is cancelled: nobody will wait for this command any more
            await self._call_off(spec.id)
            raise

    async def _send_heard(
        self, spec: ExecutionSpec, deadline: float, hear: Callable[[ExecutionBase], Hearing], fresh: bool
    ) -> protocol.Execution:
        """`_send`, with somebody who is told of the output. The result comes as it always does; the listener only reads."""
        execution = self._execution(await self._send(spec, deadline, accepted_suffices=True, fresh=fresh))
        listener: Hearing | None = None
        try:
            listener = hear(execution)
            if not execution.over:
                await self._await(execution, deadline)
        except BaseException as error:
            if listener is not None:
                listener.stop()
            if isinstance(error, RemoteEnvError):
                error.sandbox_id = self.id
            elif not isinstance(error, GeneratorExit):  # as in `_send`
                await self._call_off(execution.id)
            raise
        await listener.conclude(execution.record, self._exchange.transport.timings.listener_grace_s)
        return execution.record

    async def _await(self, execution: ExecutionBase, deadline: float) -> None:
        """Waits for its end. Raises OutcomeUnknownError, also when the deadline comes first."""
        try:
            await execution._wait(max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise OutcomeUnknownError(
                f"Execution {execution.id} has not ended within the call's deadline. It is not cancelled: ask for it by its id, do not "
                "send it again.",
                execution_id=execution.id,
            ) from error

    async def _call_off(self, execution_id: str) -> None:
        """Cancels the command; where the server does not know it yet, fences its id. For a short while only."""
        budget_s = self._exchange.transport.timings.farewell_s
        headers = {EPOCH_HEADER: self.epoch, "Content-Type": "application/json"}
        path = f"/v1/executions/{execution_id}"
        about = About(execution_id, self.id, self.epoch)
        fence = AbandonRequest(sandbox_id=self.id).model_dump_json().encode()
        log.warning("execution %s in sandbox %s: interrupted: cancelling it", execution_id, self.id)
        ask = partial(self._exchange.ask, protocol.Execution, "POST", headers=headers, budget_s=budget_s, read_s=budget_s, about=about)
        try:
            try:
                await ask(f"{path}/cancel", b"")
            except Refused as refusal:
                if refusal.problem.status != 404:
                    raise
                await ask(f"{path}/abandon", fence)
        except (RemoteEnvError, Refused) as error:
            log.warning("execution %s in sandbox %s could not be cancelled: %s", execution_id, self.id, error)

    def _require_live(self, spec: Mapping[str, Any], fate: str = "This command did not run") -> None:
        if self._gone is not None and "id" not in spec:  # of a given id, which may have been sent before, only the server can tell
            raise SandboxGone(f"Sandbox {self.id} is gone: {self._gone}. {fate}. Make a new sandbox.", sandbox_id=self.id)

    def _spec(self, command: str | Sequence[str] | None, options: dict[str, Any]) -> ExecutionSpec:
        """`command` None: `options` say what it opens."""
        fields: dict[str, Any] = {"id": new_id(), **options}
        if command is None and "opens" in fields:
            pass
        elif isinstance(command, str):
            fields["command"] = command
        elif isinstance(command, (list, tuple)):
            fields["argv"] = tuple(command)
        else:
            raise InvalidSpec(f"A command is a string or a list of strings, not {type(command).__name__}. Nothing was sent.")
        if longstdin.is_long(fields.get("stdin")):
            del fields["stdin"]
            fields |= longstdin.in_place_of(fields["id"])
        elif isinstance(fields.get("stdin"), (bytes, bytearray)):
            fields["stdin_base64"] = base64.b64encode(fields.pop("stdin")).decode()
        try:
            return ExecutionSpec(**fields)
        except ValidationError as error:
            raise invalid_spec(error) from None


def invalid_spec(error: ValidationError) -> InvalidSpec:
    """Names each wrong field; repeats no value, for it may be a secret."""
    problems = "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'the request'}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_url=False, include_input=False)
    )
    return InvalidSpec(f"{problems}. Nothing was sent.")


def require_success(execution: protocol.Execution) -> None:
    """Raises CommandLost or CommandFailed for every end but exit code 0."""
    outcome = execution.outcome
    if outcome is None or (outcome.kind == "exited" and outcome.code == 0):
        return
    about = {"execution_id": execution.id, "sandbox_id": execution.sandbox_id}
    if outcome.kind == "lost":
        raise CommandLost(f"Execution {execution.id} was lost ({outcome.reason}); ran: {outcome.ran}.", **about)
    detail = ", ".join(f"{name} {value}" for name, value in outcome if name not in ("kind", "ran") and value is not None)
    raise CommandFailed(f"Execution {execution.id} {outcome.kind.replace('_', ' ')}" + (f" ({detail})." if detail else "."), **about)
