"""How a request becomes an execution: its row in the journal, and what is in memory of it while it has not ended."""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Any

from remote_env.protocol import ExecutionSpec
from server.journal import ExecutionRow
from server.live import LiveExecution, LiveSandbox
from server.machines import execution as rules
from server.output import LiveOutput
from server.spool import MERGED, SPLIT, Spool
from server.terminal import Terminal
from server.waits import Bell, WaitRoom

_DEADLINE_MARGIN_S = 30.0  # beyond timeout and grace, within which an execution's ending must have come
_SECRET = {"env", "stdin", "stdin_base64"}
_ID = {"id"}
_NOT_PUBLIC = _ID | _SECRET
_SPEC = ExecutionSpec.model_fields
_TIMEOUT_S, _GRACE_S, _OUTPUT_LIMIT = (_SPEC[name].default for name in ("timeout_s", "grace_s", "output_limit_bytes"))


class Intake:
    """Args:
    key: the instance's key for spec hashes.
    """

    def __init__(self, spool: Spool, room: WaitRoom, key: bytes) -> None:
        self._spool = spool
        self._room = room
        self._keyed = hmac.new(key, None, "sha256")
        self._loop = asyncio.get_running_loop()

    def spec_hash(self, spec: ExecutionSpec) -> bytes:
        """Keyed, since it stays when environment values and stdin are wiped."""
        canonical = spec.model_dump_json(exclude=_ID, exclude_defaults=True)
        keyed = self._keyed.copy()
        keyed.update(canonical.encode())
        return keyed.digest()

    def run_row(self, sandbox: LiveSandbox, spec: ExecutionSpec, session: LiveExecution | None) -> ExecutionRow:
        """A command's or a session's row. `session`: the one that the command is of."""
        secrets = None
        if not spec.model_fields_set.isdisjoint(_SECRET):
            secrets = spec.model_dump(include=_SECRET, exclude_defaults=True) or None
        public = spec.model_dump(mode="json", exclude=_NOT_PUBLIC, exclude_defaults=True)
        if session is not None and spec.tty is None and len(session.outputs) == 2:
            public["streams"] = "split"  # its output is its session's, whatever the request says
        return self._row(sandbox, spec.id, spec=public, spec_hash=self.spec_hash(spec), secrets=secrets)

    def fence_row(self, sandbox: LiveSandbox, execution_id: str) -> ExecutionRow:
        """A fence's: it has a number and nothing to run."""
        return self._row(sandbox, execution_id, spec=None, spec_hash=None, secrets=None)

    def _row(
        self, sandbox: LiveSandbox, execution_id: str, *, spec: dict[str, Any] | None, spec_hash: bytes | None,
        secrets: dict[str, Any] | None,
    ) -> ExecutionRow:  # fmt: skip
        assert sandbox.epoch is not None
        return ExecutionRow(
            execution_id, sandbox.id, sandbox.highest + 1, sandbox.epoch, sandbox.run_id, "fence" if spec is None else "run", spec,
            spec_hash, secrets, False, time.time(), None, None, False,
        )  # fmt: skip

    def live(self, sandbox: LiveSandbox, row: ExecutionRow, session: LiveExecution | None, *, fresh: bool) -> LiveExecution:
        """What this server holds of it from now on.

        Args:
            session: the one that the command is of.
            fresh: accepted just now, and not by a server before.
        """
        spec = row.spec or {}
        timeout_s = None if "opens" in spec else spec.get("timeout_s", _TIMEOUT_S)
        grace_s = float(spec.get("grace_s", _GRACE_S))
        limit_s = None if timeout_s is None else float(timeout_s) + grace_s + _DEADLINE_MARGIN_S
        idle_s = spec.get("idle_timeout_s")
        streams = SPLIT if spec.get("streams") == "split" else MERGED
        output_limit = int(spec.get("output_limit_bytes", _OUTPUT_LIMIT))
        on_terminal = "tty" in spec and "opens" not in spec
        live = LiveExecution(
            id=row.id, number=row.number, sandbox=sandbox,
            machine=rules.ExecutionMachine(row.kind, row.cancelling, borrows=session is not None and not on_terminal),
            spec=row.spec, spec_hash=row.spec_hash, secrets=row.secrets, accepted_at=row.accepted_at,
            # Not from `accepted_at`: the wall clock may have jumped while no server ran.
            deadline=None if limit_s is None else self._loop.time() + limit_s,
            limit_s=limit_s,
            outputs=tuple(LiveOutput(stream, self._spool.open(row.id, output_limit, stream)) for stream in streams),
            ended=Bell(self._room), moved=Bell(self._room), activity_every=None if idle_s is None else idle_s / 4,
            session=session, terminal=Terminal(counted=fresh) if on_terminal else None,
        )  # fmt: skip
        if session is not None:
            session.command = live
        return live
