"""Finding executions by their ids, alive or ended, and refusing whoever means another one by it."""

from __future__ import annotations

from dataclasses import dataclass

from remote_env.protocol import Execution, ExecutionSpec
from server import answers
from server.correlation import Correlation
from server.executions import Executions
from server.journal import ExecutionRow, Journal
from server.live import LiveExecution
from server.metrics import Metrics, Mismatch
from server.problems import ProblemError
from server.spool import Spool


@dataclass(frozen=True, slots=True)
class Known:
    """An execution that this server knows: alive in memory, or a final row of the journal. Never both, never none."""

    about: Correlation
    live: LiveExecution | None
    row: ExecutionRow | None

    def refuse(self, code: str, detail: str) -> ProblemError:
        """A refusal that is about this execution."""
        return ProblemError(code, f"execution {self.about.execution_id} {detail}", id=self.about.execution_id, about=self.about)


class Lookup:
    """All executions, by id."""

    def __init__(self, executions: Executions, journal: Journal, spool: Spool, metrics: Metrics) -> None:
        self._executions = executions
        self._journal = journal
        self._spool = spool
        self._metrics = metrics

    def known(self, eid: str) -> Known | None:
        """The execution, None where the id is unknown here."""
        live = self._executions.live.get(eid)
        if live is not None:
            return Known(Correlation(eid, live.sandbox.id, live.sandbox.epoch or ""), live, None)
        row = self._journal.execution(eid)
        return None if row is None else Known(Correlation(eid, row.sandbox_id, row.epoch), None, row)

    def find(self, eid: str, epoch: str) -> Known:
        """The execution that a request with this epoch means. Raises ProblemError not_found, epoch_mismatch, gone."""
        known = self.known(eid)
        if known is None:
            raise ProblemError("not_found", f"execution {eid} is unknown here", id=eid)
        self._check_epoch(known, epoch)
        return known

    def check(self, known: Known, sid: str, epoch: str | None, spec: ExecutionSpec) -> None:
        """That a POST of a known id has the same sandbox, epoch and body (a fence has no body: it answers as it is).
        Raises ProblemError epoch_mismatch, gone, id_conflict."""
        self._check_epoch(known, epoch)
        conflict: Mismatch | None = None
        spec_hash = known.live.spec_hash if known.live is not None else known.row.spec_hash if known.row is not None else None
        if known.about.sandbox_id != sid:
            conflict = "sandbox"
        elif spec_hash is not None and spec_hash != self._executions.spec_hash(spec):
            conflict = "body"
        if conflict is not None:
            self._metrics.mismatch(conflict)
            raise ProblemError("id_conflict", f"execution {spec.id} is taken by another request", id=spec.id)

    def _check_epoch(self, known: Known, epoch: str | None) -> None:
        if epoch is not None and epoch != known.about.epoch:
            self._metrics.mismatch("epoch")
            eid = known.about.execution_id
            raise ProblemError("epoch_mismatch", f"execution {eid} belongs to another epoch", id=eid)
        if known.row is not None and known.row.expired:
            raise known.refuse("gone", "is beyond retention")

    def listed(
        self, *, id: str | None, run_id: str | None, sandbox_id: str | None, state: str | None, opens: str | None, limit: int
    ) -> list[Execution]:  # fmt: skip
        """Newest first, without the output's text."""
        if id is not None:
            row = self._journal.execution(id)
            rows = [] if row is None or row.expired else [row]
        else:
            running = {None: None, "running": True, "accepted": True, "ended": False, "abandoned": False}.get(state)
            rows = self._journal.executions(run_id=run_id, sandbox_id=sandbox_id, running=running, opens=opens, limit=limit)
        found = [self._summary(row) for row in rows]
        return [execution for execution in found if state in (None, execution.state) and opens in (None, execution.opens)]

    def _summary(self, row: ExecutionRow) -> Execution:
        live = self._executions.live.get(row.id)
        return answers.live_answer(live) if live is not None else answers.row_answer(row, self._spool, inline=False)
