"""What changed in a sandbox against its image, and images made of it. Written once, for both faces of the client."""

from __future__ import annotations

from remote_env.correlation import About
from remote_env.exchange import JSON_BODY, Exchange, Refused, dump, wait_value
from remote_env.filemodels import Change, Changes, Snapshot, SnapshotRequest
from remote_env.protocol import EPOCH_HEADER


async def diff(exchange: Exchange, sandbox_id: str, epoch: str) -> list[Change]:
    """By path. Raises SandboxGone, EpochChanged, ServerBusy, Unreachable, LinkLost."""
    about = About(sandbox_id=sandbox_id, epoch=epoch)
    budget_s = exchange.transport.timings.reconnect_budget_s
    try:
        path = f"/v1/sandboxes/{sandbox_id}/diff"
        return (await exchange.ask(Changes, "GET", path, None, {EPOCH_HEADER: epoch}, budget_s=budget_s, about=about)).changes
    except Refused as refusal:
        raise refusal.error(sandbox_id=sandbox_id) from refusal


async def snapshot(exchange: Exchange, sandbox_id: str, epoch: str, request: SnapshotRequest) -> Snapshot:
    """Takes one and waits for it, however long it takes. The request has an id, so it may be sent again without another one being
    made. Raises as `diff`, and InvalidSpec."""
    timings = exchange.transport.timings
    about = About(sandbox_id=sandbox_id, epoch=epoch)
    headers = {EPOCH_HEADER: epoch, **JSON_BODY, "Prefer": f"wait={wait_value(timings.poll_slice_s)}"}

    def wrong(answer: Snapshot) -> str | None:
        return None if answer.id == request.id else f"asked for snapshot {request.id}, the answer is about {answer.id}"

    while True:
        try:
            taken = await exchange.ask(
                Snapshot, "POST", f"/v1/sandboxes/{sandbox_id}/snapshot", dump(request), headers,
                budget_s=timings.reconnect_budget_s, wait_s=timings.poll_slice_s, check=wrong, about=about,
            )  # fmt: skip
        except Refused as refusal:
            raise refusal.error(sandbox_id=sandbox_id) from refusal
        if taken.state == "ready":
            return taken
        await exchange.transport.pause(timings.retry_first_s)
