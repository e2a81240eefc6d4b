"""Carries out what `delivery` decides: does the requests, reports how each ended, waits where it says so."""

from __future__ import annotations

import logging
import time

from remote_env.carrier import MaybeSent, NotSent
from remote_env.correlation import About
from remote_env.delivery import (
    Abandon,
    AnotherServer,
    Answered,
    Broken,
    Delivery,
    Event,
    Failed,
    Finished,
    Get,
    NothingSent,
    RefusedBy,
    Request,
    Step,
)
from remote_env.errors import EpochChanged, ProtocolMismatch
from remote_env.exchange import JSON_BODY, Exchange, Mismatch, Refused, dump, dump_fields, wait_value
from remote_env.protocol import EPOCH_HEADER, Execution, ExecutionSpec
from remote_env.trace import trace, tracing

log = logging.getLogger("remote_env")


class Courier:
    """Brings executions to one sandbox, in one of its lives (`epoch`), and their ends back."""

    def __init__(self, exchange: Exchange, sandbox_id: str, epoch: str) -> None:
        self._exchange = exchange
        self._transport = exchange.transport
        self._sandbox_id = sandbox_id
        self._epoch = epoch
        self._epoch_header = {EPOCH_HEADER: epoch}

    async def run(
        self, spec: ExecutionSpec, *, deadline: float | None = None, accepted_suffices: bool = False, fresh: bool = True
    ) -> Execution:
        """Delivers the command and waits for its end, or only for its acceptance. `deadline` on the monotonic clock;
        None gives the call what `Timings.call_s` says. `fresh`: its id was made for this call.

        Raises NotRunError (its kinds), OutcomeUnknownError (its kinds), SandboxGone, MisuseError.
        """
        if deadline is None:
            deadline = time.monotonic() + self._transport.timings.call_s(spec.timeout_s)
        # Of what others wait for to begin, its start is worth a moment: a session's shell.
        accepted_wait_s = self._transport.timings.poll_slice_s if spec.opens is not None else 0.0
        delivery = self._delivery(
            spec.id, deadline, accepted_suffices=accepted_suffices, accepted_wait_s=accepted_wait_s, fresh=fresh
        )  # fmt: skip
        self._transport.stats.add(sent=1)
        return await self._carry_out(delivery, dump(spec))

    async def wait(self, execution_id: str, timeout_s: float | None = None) -> Execution:
        """Waits for the end of an execution that the server knows.

        Raises TimeoutError after `timeout_s` seconds (the command goes on), OutcomeUnknownError.
        """
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        delivery = self._delivery(execution_id, deadline, known=True)
        try:
            return await self._carry_out(delivery, b"")
        except Exception as error:
            if delivery.expired:
                raise TimeoutError(f"execution {execution_id} has not ended within {timeout_s} s; it goes on") from error
            raise

    def _delivery(
        self,
        execution_id: str,
        deadline: float,
        *,
        accepted_suffices: bool = False,
        accepted_wait_s: float = 0.0,
        known: bool = False,
        fresh: bool = True,
    ) -> Delivery:
        def note(sentence: str | None, counter: str | None) -> None:
            if sentence is not None:
                log.warning("execution %s in sandbox %s: %s", execution_id, self._sandbox_id, sentence)
            if counter is not None:
                self._transport.stats.add(**{counter: 1})

        return Delivery(
            execution_id,
            now=time.monotonic(),
            deadline=deadline,
            timings=self._transport.timings,
            backoff=self._exchange.backoff(),
            url=self._transport.endpoint.url,
            reached=self._transport.reached,
            accepted_suffices=accepted_suffices,
            accepted_wait_s=accepted_wait_s,
            known=known,
            fresh=fresh,
            note=note,
        )

    async def _carry_out(self, delivery: Delivery, body: bytes) -> Execution:
        began = time.monotonic()
        request = delivery.begin(began)
        while True:
            if request.after_s > 0 and not await self._transport.pause(request.after_s):
                raise delivery.give_up(time.monotonic(), "the client was closed").error
            event = await self._perform(request, delivery.execution_id, body)
            step = delivery.handle(event)
            if tracing("delivery"):
                trace("delivery", "%s: %s -> %s -> %s", delivery.execution_id, request, _brief(event), _brief(step))
            if isinstance(step, Finished):
                if step.execution.over:
                    self._transport.stats.complete(time.monotonic() - began)
                return step.execution
            if isinstance(step, Failed):
                if not (delivery.known and delivery.expired):  # a wait that timed out gives nothing up
                    log.warning("execution %s in sandbox %s: given up: %s", delivery.execution_id, self._sandbox_id, step.error)
                raise step.error
            request = step

    async def _perform(self, request: Request, execution_id: str, body: bytes) -> Event:
        wait_s = request.wait_s
        wait = wait_value(wait_s)
        if isinstance(request, Get):
            return await self._event("GET", f"/v1/executions/{execution_id}?wait={wait}", None, self._epoch_header, wait_s, execution_id)
        path = f"/v1/sandboxes/{self._sandbox_id}/executions"
        if isinstance(request, Abandon):
            path, body = f"/v1/executions/{execution_id}/abandon", dump_fields(sandbox_id=self._sandbox_id)
        headers = {**self._epoch_header, **JSON_BODY, "Prefer": f"wait={wait}"}
        return await self._event("POST", path, body, headers, wait_s, execution_id)

    async def _event(self, method: str, path: str, body: bytes | None, headers: dict[str, str], wait_s: float, execution_id: str) -> Event:
        about = About(execution_id, self._sandbox_id, self._epoch)
        try:
            execution = await self._exchange.once(Execution, method, path, body, headers, wait_s=wait_s, about=about)
        except NotSent as error:
            return NothingSent(time.monotonic(), str(error))
        except MaybeSent as error:
            return Broken(time.monotonic(), str(error), mismatched=isinstance(error, Mismatch))
        except EpochChanged as error:
            return AnotherServer(time.monotonic(), str(error))
        except Refused as refusal:
            return RefusedBy(time.monotonic(), refusal.problem)
        except ProtocolMismatch as error:
            return Broken(time.monotonic(), str(error), hopeless=True)
        return Answered(time.monotonic(), execution)


def _brief(thing: Event | Step) -> str:
    """For a trace: what it is and what it says of the execution, none of its output or its command."""
    if isinstance(thing, (Answered, Finished)):
        return f"{type(thing).__name__}({thing.execution.state})"
    if isinstance(thing, RefusedBy):
        return f"RefusedBy({thing.problem.status} {thing.problem.code})"
    if isinstance(thing, Failed):
        return f"Failed({type(thing.error).__name__})"
    if isinstance(thing, (Broken, NothingSent, AnotherServer)):
        return f"{type(thing).__name__}({thing.reason})"
    return str(thing)
