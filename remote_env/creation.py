"""Making and removing a sandbox over a link that may break at any point, without leaving one behind that nobody knows.

A create whose fate is unknown is asked for by its id. Unknown at the server: the id is deleted, which leaves a tombstone,
so that a late copy of the create cannot make a container any more; then another attempt under a new id, as when the
server died in the middle of it.
"""

from __future__ import annotations

import logging
import time

from remote_env.carrier import MaybeSent, NotSent
from remote_env.correlation import About
from remote_env.errors import InvalidSpec, MisuseError, NotRunError, ProtocolMismatch, RemoteEnvError, SandboxNotCreated
from remote_env.exchange import ERRORS, JSON_BODY, Exchange, Refused, dump, unreachable, wait_value
from remote_env.protocol import PROBLEMS, Sandbox, SandboxSpec, new_id

log = logging.getLogger("remote_env")


class _Undelivered(Exception):
    """The create got lost, or the server died while it carried it out; its id is a tombstone now."""


async def create_sandbox(exchange: Exchange, spec: SandboxSpec, *, fixed_id: bool = False, queue_s: float | None = None) -> Sandbox:
    """Makes the sandbox and waits until it runs, image pull included. `fixed_id`: never take another id than the spec's.
    `queue_s`: how long to wait for room, in seconds, in place of `Timings.queue_s`.

    Raises ImageNotFound, InvalidSpec, IdConflict, Unauthorized, ServerBusy, Unreachable, SandboxNotCreated,
    ProtocolMismatch.
    """
    deadline = time.monotonic() + exchange.transport.timings.create_s
    for last in (fixed_id, False, True):
        try:
            sandbox = await _attempt(exchange, spec, deadline, queue_s)
            if sandbox.state == "failed" and (sandbox.reason or "").startswith("interrupted:"):
                raise _Undelivered(sandbox.reason)
        except _Undelivered as lost:
            if last:
                error = SandboxNotCreated(f"The request to make a sandbox got lost: {lost}.", sandbox_id=spec.id)
                error.undelivered = True
                raise error from lost
            spec = spec.model_copy(update={"id": new_id()})
            log.warning("no sandbox was made (%s): making one under a new id, %s", lost, spec.id)
            continue
        except GeneratorExit:  # its event loop is gone: nothing can be awaited any more
            raise
        except BaseException as error:
            # After an IdConflict above all: the sandbox of that id is somebody's.
            if not isinstance(error, (NotRunError, ProtocolMismatch, MisuseError)) or isinstance(error, SandboxNotCreated):
                await forget_sandbox(exchange, spec.id)
            raise
        if sandbox.state != "running":
            raise _creation_error(sandbox)
        return sandbox
    raise AssertionError("unreachable")


async def remove_sandbox(
    exchange: Exchange, sandbox_id: str, *, purge: bool = False, budget_s: float, wait_s: float | None = None
) -> Sandbox | None:
    """Removes the sandbox and waits until it is gone (not where `wait_s` is 0); None when the server does not know it. May be
    repeated.

    Raises Unreachable, LinkLost, ServerBusy, Unauthorized.
    """
    wait_s = exchange.transport.timings.poll_slice_s if wait_s is None else wait_s
    path = f"/v1/sandboxes/{sandbox_id}" + ("?purge=true" if purge else "")
    until = time.monotonic() + budget_s
    backoff = exchange.backoff()
    while True:
        asked_at = time.monotonic()
        try:
            sandbox = await exchange.ask(
                Sandbox,
                "DELETE",
                path,
                None,
                {"Prefer": f"wait={wait_value(wait_s)}"},
                budget_s=budget_s,
                wait_s=wait_s,
            )
        except Refused as refusal:
            if refusal.problem.status in (404, 410):
                return None
            raise refusal.error(sandbox_id=sandbox_id) from refusal
        now = time.monotonic()
        if sandbox.state != "removing" or not wait_s or now >= until:
            return sandbox
        # A server that answers at once, as one does that is about to stop, must not be asked in a busy loop.
        if not await exchange.transport.pause(backoff.next_s() if now - asked_at < 0.5 * wait_s else 0.0):
            return sandbox


async def forget_sandbox(exchange: Exchange, sandbox_id: str, *, wait_s: float = 0.0) -> None:
    """Removes a sandbox on the way out: tried for a short while, else left to its lease. `wait_s`: for its end, at most."""
    try:
        await remove_sandbox(exchange, sandbox_id, budget_s=exchange.transport.timings.farewell_s, wait_s=wait_s)
    except RemoteEnvError as error:
        log.warning("sandbox %s could not be removed (%s): its lease will end it", sandbox_id, error)


async def _attempt(exchange: Exchange, spec: SandboxSpec, deadline: float, queue_s: float | None) -> Sandbox:
    timings = exchange.transport.timings
    path = f"/v1/sandboxes/{spec.id}"

    sandbox = await _post(exchange, spec, deadline, timings.queue_s if queue_s is None else queue_s)
    while sandbox is None or sandbox.state == "creating":
        left = deadline - time.monotonic()
        if left <= 0:
            raise SandboxNotCreated(f"Sandbox {spec.id} was not ready within {timings.create_s:.0f} s.", sandbox_id=spec.id)
        if sandbox is not None and sandbox.progress:
            log.info("sandbox %s: %s", spec.id, sandbox.progress)
        wait_s = min(timings.poll_slice_s, left)
        asked_at = time.monotonic()
        try:
            sandbox = await exchange.ask(
                Sandbox, "GET", f"{path}?wait={wait_value(wait_s)}", budget_s=timings.reconnect_budget_s, wait_s=wait_s
            )
        except Refused as refusal:
            if refusal.problem.status != 404:
                raise refusal.error(sandbox_id=spec.id) from refusal
            await remove_sandbox(exchange, spec.id, budget_s=timings.reconnect_budget_s)
            raise _Undelivered(refusal.problem.detail) from refusal
        except NotRunError as error:
            raise SandboxNotCreated(f"Whether sandbox {spec.id} exists cannot be asked: {error}", sandbox_id=spec.id) from error
        if sandbox.state == "creating" and time.monotonic() - asked_at < 0.5 * wait_s:
            await exchange.transport.pause(timings.retry_first_s)  # a server that answers at once must not be asked in a busy loop
    return sandbox


async def _post(exchange: Exchange, spec: SandboxSpec, deadline: float, queue_s: float) -> Sandbox | None:
    """Sends the create until it is taken; None when its fate is unknown."""
    transport, timings = exchange.transport, exchange.transport.timings
    body = dump(spec)
    began = time.monotonic()
    queue_deadline = min(deadline, began + queue_s)
    backoff = exchange.backoff()
    while True:
        wait_s = timings.poll_slice_s
        headers = {**JSON_BODY, "Prefer": f"wait={wait_value(wait_s)}"}
        try:
            return await exchange.once(Sandbox, "POST", "/v1/sandboxes", body, headers, wait_s=wait_s, about=About(sandbox_id=spec.id))
        except NotSent as error:
            limit = timings.reconnect_budget_s if transport.reached else timings.first_contact_s
            delay = backoff.next_s()
            if time.monotonic() - began + delay > limit or not await transport.pause(delay):
                raise unreachable(transport.endpoint.url, error, time.monotonic() - began) from error
            log.warning("sandbox %s: %s; trying again", spec.id, error)
        except MaybeSent as error:
            log.warning("sandbox %s: the request to make it broke (%s): asking for it by its id", spec.id, error)
            return None
        except Refused as refusal:
            problem = refusal.problem
            if problem.accepted == "unknown":
                return None
            delay = problem.retry_after_s if problem.retry_after_s is not None else backoff.next_s()
            if not problem.retryable or time.monotonic() + delay >= queue_deadline or not await transport.pause(delay):
                raise refusal.error(sandbox_id=spec.id) from refusal
            log.warning("sandbox %s: not taken (%s); trying again in %.1f s", spec.id, refusal, delay)
        transport.stats.add(retries=1)


def _creation_error(sandbox: Sandbox) -> RemoteEnvError:
    reason = sandbox.reason or "no reason given"
    code = reason.partition(":")[0]
    error = ERRORS[code] if code in PROBLEMS else SandboxNotCreated
    if not issubclass(error, InvalidSpec) and error.__name__ != "ImageNotFound":
        error = SandboxNotCreated
    return error(f"Sandbox {sandbox.id} from image {sandbox.image} could not be made ({sandbox.state}): {reason}", sandbox_id=sandbox.id)
