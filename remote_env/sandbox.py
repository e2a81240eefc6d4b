"""One container on the server's machine, as its caller sees it."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from remote_env import protocol
from remote_env.correlation import About
from remote_env.courier import Courier
from remote_env.creation import remove_sandbox
from remote_env.errors import (
    CommandFailed,
    CommandLost,
    CommandNotDelivered,
    EpochChanged,
    InvalidSpec,
    OutcomeUnknownError,
    RemoteEnvError,
    SandboxGone,
)
from remote_env.eventstream import EventStream
from remote_env.exchange import Refused
from remote_env.execution import Execution
from remote_env.listener import Listener, OnOutput
from remote_env.protocol import EPOCH_HEADER, AbandonRequest, ExecutionSpec, new_id

if TYPE_CHECKING:
    from remote_env.client import Client

OnUndelivered = Literal["raise", "redeliver"]
READ_RERUNS = 3  # of a command that is proven to be a read

log = logging.getLogger("remote_env")


class Sandbox:
    """A container that the server made. Commands run in it one beside the other; threads may share it.

    With `with`, it is removed at the end. `record` is the server's latest answer about it.
    """

    def __init__(self, client: Client, record: protocol.Sandbox) -> None:
        self._client = client
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

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = False,
        idempotent: bool | None = None,
        on_undelivered: OnUndelivered | None = None,
        on_output: OnOutput | None = None,
        **spec: Any,
    ) -> Execution:
        """Runs the command at most once and waits for its end. Ctrl-C cancels it.

        Args:
            command: a string for the shell, or an argv list that is run without one.
            check: raise CommandLost or CommandFailed for every end but exit code 0.
            idempotent: True, the command changes nothing; False, treat it as if it did. None: what the client's
                `reads` recognise. A command that changes nothing is run again, as a new execution, when its request or
                its sandbox's answer got lost.
            on_undelivered: "redeliver": when the request got lost and is fenced, send it once more under a new id.
            on_output: called with each `OutputPiece` as it comes, in a thread of its own; nobody waits for it, but for
                `Timings.listener_grace_s` at the end. A command that is run again is heard again, from offset 0. When it
                raises, that is logged and it is not called any more.
            spec: the other fields of `protocol.ExecutionSpec`: workdir, env, user, stdin (str or bytes), timeout_s,
                idle_timeout_s, grace_s, output_limit_bytes, streams ("merged" or "split"), shell, login, make_workdir; and id,
                to send what an earlier process may have sent already: the command still runs at most once, and nothing is
                said of it but what the server knows.

        Raises NotRunError, OutcomeUnknownError, SandboxGone, MisuseError (each with its kinds).
        """

        def send(request: ExecutionSpec, deadline: float) -> protocol.Execution:
            fresh = request.id != spec.get("id")
            if on_output is None:
                return self._send(request, deadline, fresh=fresh)
            return self._send_heard(request, deadline, on_output, fresh)

        execution = Execution(self._client, self._deliver(command, idempotent, on_undelivered, spec, send))
        if check:
            _check(execution)
        return execution

    def start(self, command: str | Sequence[str], **spec: Any) -> Execution:
        """Sends the command and returns as soon as the server has it in its journal. Arguments and errors as `run`."""
        self._require_live(spec)
        request = self._spec(command, spec)
        return Execution(self._client, self._send(request, None, accepted_suffices=True, fresh="id" not in spec))

    def stream(
        self,
        command: str | Sequence[str],
        *,
        idempotent: bool | None = None,
        on_undelivered: OnUndelivered | None = None,
        **spec: Any,
    ) -> EventStream:
        """Sends the command and follows it: an iterator of what happens to it (`events`), the last being `Ended` with the
        `Execution` that `run` would have returned. The command is on its way when this returns.

        Leaving the loop, Ctrl-C in it too, does not cancel the command: `cancel()` of the stream does, and `.execution` is its
        handle. Arguments and errors as `run`; of commands that only read, those are run again whose request got lost, and none
        that has begun. What the iteration raises: see `EventStream`.
        """

        def send(request: ExecutionSpec, deadline: float) -> protocol.Execution:
            return self._send(request, deadline, accepted_suffices=True, fresh=request.id != spec.get("id"))

        return Execution(self._client, self._deliver(command, idempotent, on_undelivered, spec, send)).stream()

    def remove(self, purge: bool = False) -> None:
        """Kills what runs in it and removes the container; results stay at the server for its retention, output too
        unless `purge`. May be repeated. Raises Unreachable, LinkLost."""
        timings = self._exchange.transport.timings
        self.mark_gone("it was removed")
        removed = remove_sandbox(self._exchange, self.id, purge=purge, budget_s=timings.reconnect_budget_s)
        if removed is not None:
            self.record = removed

    def refresh(self) -> Sandbox:
        """Asks the server how it stands now. Raises SandboxGone where the server does not know it, LinkLost."""
        self.record = self._client.sandbox_record(self.id)
        if self.record.state in ("removing", "removed", "dead", "failed"):
            self.mark_gone(self.record.reason or self.record.state)
        return self

    def mark_gone(self, reason: str) -> None:
        """From now on commands are refused here, with SandboxGone and this reason."""
        if self._gone is None:
            self._gone = reason

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<Sandbox {self.id}: {self.record.image}, {self._gone or self.record.state}>"

    # ---------------------------------------------------------------------------------------------------- delivery

    def _deliver(
        self,
        command: str | Sequence[str],
        idempotent: bool | None,
        on_undelivered: OnUndelivered | None,
        options: dict[str, Any],
        send: Callable[[ExecutionSpec, float], protocol.Execution],
    ) -> protocol.Execution:
        self._require_live(options)
        on_undelivered = on_undelivered or self._client.on_undelivered
        transport = self._exchange.transport
        spec = self._spec(command, options)
        deadline = time.monotonic() + transport.timings.call_s(spec.timeout_s)
        backoff = self._exchange.backoff()
        attempts = 1
        while True:
            undelivered: CommandNotDelivered | None = None
            try:
                execution = send(spec, deadline)
            except CommandNotDelivered as error:
                undelivered = error
            else:
                if execution.outcome is None or execution.outcome.kind != "lost" or not self._may_rerun(command, idempotent, attempts):
                    return execution if attempts == 1 else execution.model_copy(update={"attempts": attempts})
                if not self._is_alive():
                    return execution
            if undelivered is not None:
                redeliver = on_undelivered == "redeliver" and attempts == 1
                if not redeliver and not self._may_rerun(command, idempotent, attempts):
                    raise undelivered
            delay = backoff.next_s()
            if time.monotonic() + delay >= deadline or not transport.pause(delay):
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

    def _may_rerun(self, command: str | Sequence[str], idempotent: bool | None, attempts: int) -> bool:
        if attempts > READ_RERUNS:
            return False
        return self._client.reads.is_read(command) if idempotent is None else idempotent

    def _is_alive(self) -> bool:
        epoch = self.epoch
        try:
            self.refresh()
        except RemoteEnvError as error:
            log.warning("sandbox %s: %s", self.id, error)
            return False
        return self.record.state == "running" and self.epoch == epoch

    def _send(
        self, spec: ExecutionSpec, deadline: float | None, *, accepted_suffices: bool = False, fresh: bool = True
    ) -> protocol.Execution:
        self._client.keep_alive()
        courier = Courier(self._exchange, self.id, self.epoch)
        try:
            return courier.run(spec, deadline=deadline, accepted_suffices=accepted_suffices, fresh=fresh)
        except (SandboxGone, EpochChanged) as error:
            self.mark_gone(str(error))
            error.sandbox_id = self.id
            raise
        except RemoteEnvError as error:
            error.sandbox_id = self.id
            raise
        except BaseException:  # Ctrl-C above all: nobody will wait for this command any more
            self._call_off(spec.id)
            raise

    def _send_heard(self, spec: ExecutionSpec, deadline: float, on_output: OnOutput, fresh: bool) -> protocol.Execution:
        """`_send`, with somebody who is told of the output. The result comes as it always does; the listener only reads."""
        execution = Execution(self._client, self._send(spec, deadline, accepted_suffices=True, fresh=fresh))
        listener: Listener | None = None
        try:
            listener = Listener(EventStream(execution, self._exchange, counted=False), on_output)
            if not execution.over:
                self._await(execution, deadline)
        except BaseException as error:
            if listener is not None:
                listener.stop()
            if isinstance(error, RemoteEnvError):
                error.sandbox_id = self.id
            else:  # Ctrl-C above all
                self._call_off(execution.id)
            raise
        listener.conclude(execution.record, self._exchange.transport.timings.listener_grace_s)
        return execution.record

    def _await(self, execution: Execution, deadline: float) -> None:
        """Waits for its end. Raises OutcomeUnknownError, also when the deadline comes first."""
        try:
            execution.wait(max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise OutcomeUnknownError(
                f"Execution {execution.id} has not ended within the call's deadline. It is not cancelled: ask for it by its id, do not "
                "send it again.",
                execution_id=execution.id,
            ) from error

    def _call_off(self, execution_id: str) -> None:
        """Cancels the command; where the server does not know it yet, fences its id. For a short while only."""
        budget_s = self._exchange.transport.timings.farewell_s
        headers = {EPOCH_HEADER: self.epoch, "Content-Type": "application/json"}
        path = f"/v1/executions/{execution_id}"
        about = About(execution_id, self.id, self.epoch)
        fence = AbandonRequest(sandbox_id=self.id).model_dump_json().encode()
        log.warning("execution %s in sandbox %s: interrupted: cancelling it", execution_id, self.id)
        try:
            try:
                self._exchange.ask(protocol.Execution, "POST", f"{path}/cancel", b"", headers, budget_s=budget_s, about=about)
            except Refused as refusal:
                if refusal.problem.status != 404:
                    raise
                self._exchange.ask(protocol.Execution, "POST", f"{path}/abandon", fence, headers, budget_s=budget_s, about=about)
        except (RemoteEnvError, Refused) as error:
            log.warning("execution %s in sandbox %s could not be cancelled: %s", execution_id, self.id, error)

    def _require_live(self, spec: Mapping[str, Any]) -> None:
        if self._gone is not None and "id" not in spec:  # of a given id, which may have been sent before, only the server can tell
            raise SandboxGone(f"Sandbox {self.id} is gone: {self._gone}. This command did not run. Make a new sandbox.", sandbox_id=self.id)

    def _spec(self, command: str | Sequence[str], options: dict[str, Any]) -> ExecutionSpec:
        fields: dict[str, Any] = {"id": new_id(), **options}
        if isinstance(command, str):
            fields["command"] = command
        elif isinstance(command, (list, tuple)):
            fields["argv"] = tuple(command)
        else:
            raise InvalidSpec(f"A command is a string or a list of strings, not {type(command).__name__}. Nothing was sent.")
        if isinstance(fields.get("stdin"), (bytes, bytearray)):
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


def _check(execution: Execution) -> None:
    outcome = execution.outcome
    if outcome is None or (outcome.kind == "exited" and outcome.code == 0):
        return
    about = {"execution_id": execution.id, "sandbox_id": execution.sandbox_id}
    if outcome.kind == "lost":
        raise CommandLost(f"Execution {execution.id} was lost ({outcome.reason}); ran: {outcome.ran}.", **about)
    detail = ", ".join(f"{name} {value}" for name, value in outcome if name not in ("kind", "ran") and value is not None)
    raise CommandFailed(f"Execution {execution.id} {outcome.kind.replace('_', ' ')}" + (f" ({detail})." if detail else "."), **about)
