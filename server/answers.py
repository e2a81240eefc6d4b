"""What is known of an execution or a sandbox, in the shapes of the wire."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from remote_env.protocol import INLINE_LIMIT, Execution, Output, Sandbox
from server.journal import ExecutionRow, SandboxRow
from server.live import LiveExecution, LiveSandbox
from server.machines.execution import State
from server.output import FACTS
from server.spool import MERGED, SPLIT, Kept, Spool, Stream, read


def streams_of(final: Mapping[str, Any]) -> tuple[Stream, ...]:
    """The streams of an ended execution, as its final row has them."""
    return SPLIT if FACTS["stderr"] in final else MERGED


def kept_of(final: Mapping[str, Any], stream: Stream) -> Kept:
    facts = final[FACTS[stream]]
    return Kept(facts["total"], facts["head"], facts["tail"], facts["truncated"])


def _output(spool: Spool, execution_id: str, final: Mapping[str, Any], stream: Stream, inline: bool) -> dict[str, Any]:
    """The fields of an `Output`."""
    kept, facts = kept_of(final, stream), final[FACTS[stream]]
    fields: dict[str, Any] = {
        "total_bytes": kept.total, "kept_bytes": kept.size, "sha256": facts["sha256"], "truncated": kept.truncated,
        "gap": kept.gap, "output_open": facts.get("open", False),
    }  # fmt: skip
    if not kept.size:
        fields |= {"text": "", "encoding": "utf-8"}
    elif inline and kept.size <= INLINE_LIMIT:
        try:
            fields |= _shown(read(spool.path(execution_id, stream), kept, 0, kept.size))
        except FileNotFoundError:
            fields["purged"] = True
    return fields


def _shown(content: bytes) -> dict[str, str]:
    try:
        return {"text": content.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode(), "encoding": "base64"}


def live_answer(live: LiveExecution) -> Execution:
    """An execution that has not ended."""
    running = live.machine.state in (State.RUNNING, State.HELD, State.DRAINING)
    sandbox = live.sandbox
    so_far = [Output(total_bytes=output.spool_file.total) for output in live.outputs]
    return Execution(
        id=live.id, sandbox_id=sandbox.id, epoch=sandbox.epoch or "", run_id=sandbox.run_id,
        state="running" if running else "accepted", cancelling=live.machine.cancelling, **_kind(live.spec),
        streams="split" if len(so_far) == 2 else "merged", output=so_far[0], stderr=so_far[1] if len(so_far) == 2 else None,
        accepted_at=_time(live.accepted_at), started_at=_time(live.started_at),
    )  # fmt: skip


def ended_answer(live: LiveExecution, spool: Spool) -> Execution:
    """An execution that ended while this server watched."""
    assert live.final is not None
    return _ended(
        spool, live.spec, live.final, live.id, live.sandbox.id, live.sandbox.epoch or "", live.sandbox.run_id, live.accepted_at,
        live.ended_at, live.machine.cancelling, True,
    )  # fmt: skip


def row_answer(row: ExecutionRow, spool: Spool, inline: bool = True) -> Execution:
    """An execution whose row is final."""
    assert row.final is not None
    return _ended(
        spool, row.spec, row.final, row.id, row.sandbox_id, row.epoch, row.run_id, row.accepted_at, row.ended_at, row.cancelling, inline
    )  # fmt: skip


def _ended(
    spool: Spool, spec: Mapping[str, Any] | None, final: Mapping[str, Any], execution_id: str, sandbox_id: str, epoch: str,
    run_id: str, accepted_at: float, ended_at: float | None, cancelling: bool, inline: bool,
) -> Execution:  # fmt: skip
    outcome = final["outcome"]
    outputs = [_output(spool, execution_id, final, stream, inline) for stream in streams_of(final)]
    fields = {
        "id": execution_id, "sandbox_id": sandbox_id, "epoch": epoch, "run_id": run_id,
        "state": "abandoned" if outcome["kind"] == "not_run" else "ended", "cancelling": cancelling, "outcome": outcome,
        **_kind(spec), "session_over": final.get("session_over", False),
        "streams": "split" if len(outputs) == 2 else "merged", "output": outputs[0], "stderr": outputs[1] if len(outputs) == 2 else None,
        "accepted_at": _time(accepted_at),
        "started_at": _time(final.get("started_at")), "ended_at": _time(ended_at), "waited_for_server_s": final.get("waited_s", 0.0),
        "cpu_s": final.get("cpu_s"), "max_rss_bytes": final.get("max_rss_bytes"), "oom_kills": final.get("oom_kills", 0),
    }  # fmt: skip
    return Execution.model_validate(fields)  # models within models in one go: half the time of one after the other


def _kind(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """What sets it apart from a command by itself."""
    if spec is None or not ("session" in spec or "opens" in spec or "tty" in spec):
        return {}
    return {"opens": spec.get("opens"), "session": spec.get("session"), "tty": "tty" in spec}


def sandbox_answer(sandbox: LiveSandbox, lease_expires_at: float | None) -> Sandbox:
    """A sandbox that is not over."""
    return Sandbox(
        id=sandbox.id, run_id=sandbox.run_id, image=sandbox.image, state=sandbox.state.value, reason=sandbox.reason,
        epoch=sandbox.epoch, container_id=sandbox.container_id, workdir=sandbox.spec.get("workdir"),
        user=sandbox.spec.get("user"), labels=sandbox.spec.get("labels", {}), created_at=_time(sandbox.created_at),
        lease_s=sandbox.spec.get("lease_s"), lease_expires_at=_time(lease_expires_at), running=len(sandbox.executions),
        progress=sandbox.progress,
    )  # fmt: skip


def sandbox_row_answer(row: SandboxRow) -> Sandbox:
    """A sandbox that is over: its tombstone."""
    return Sandbox(
        id=row.id, run_id=row.run_id, image=row.image, state=row.state, reason=row.reason, epoch=row.epoch,
        container_id=row.container_id, workdir=row.spec.get("workdir"), user=row.spec.get("user"),
        labels=row.spec.get("labels", {}), created_at=_time(row.created_at), lease_s=row.spec.get("lease_s"),
    )  # fmt: skip


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
