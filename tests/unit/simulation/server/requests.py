"""What the server answers, as server/world.py does: admission, epochs, fences. And the whole of the server's memory."""

from __future__ import annotations

from collections.abc import Callable

from remote_env.protocol import Execution, ExecutionState, Outcome, Output, Problem
from server.machines import execution as execution_rules
from server.machines.sandbox import State
from tests.unit.simulation.disk import ExecutionRow, Journal, SandboxRow
from tests.unit.simulation.network import Message
from tests.unit.simulation.server.executions import LiveExecution, LiveSandbox
from tests.unit.simulation.server.links import Links

BUSY_RETRY_S = 2.0


class Refusal(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def problem(self) -> Problem:
        return Problem.of(self.code, "", retry_after_s=BUSY_RETRY_S if self.code == "capacity" else None)


class Server(Links):
    """Raises ServerDied or CommitFailed from any method; its memory is not to be used any more then."""

    def handle(self, message: Message, busy: bool = False) -> Execution | State | None:
        """The answer to a request. Raises Refusal.

        Args:
            busy: there is no room for more work.
        """
        answer: Callable[[Message, bool], Execution | State | None] = getattr(self, f"_{message.verb}")
        return answer(message, busy)

    # ----------------------------------------------------------------------------------------------- executions

    def _post(self, message: Message, busy: bool) -> Execution:
        self._need_epoch(message)
        row = self.disk.journal.executions.get(message.id)
        if row is None:
            sandbox = self._sandbox_for_work(message)
            if busy:
                raise Refusal("capacity")
            self.renew(sandbox.id)
            session = None if message.session is None else self.disk.journal.executions.get(message.session)
            self.executions.accept(
                sandbox, message.id, "run", message.body, epoch=self.epoch(sandbox), now=self.clock(), session_id=message.session
            )
            if message.session is not None:
                over = session is None or session.final is not None
                self.ledger.accepted(message.id, message.session, over=over, sandbox=sandbox.id)
            return self.show(message.id)
        self._check_epoch(message, row)
        if row.sandbox != message.sandbox or (row.kind == "run" and (row.body, row.session) != (message.body, message.session)):
            raise Refusal("id_conflict")
        return self.show(message.id)

    def _get(self, message: Message, busy: bool) -> Execution:
        self._need_epoch(message)
        self._find(message)
        return self.show(message.id)

    def _cancel(self, message: Message, busy: bool) -> Execution:
        self._need_epoch(message)
        self._find(message)
        live = self.of(message.id)
        if live is not None:
            self.executions.apply(live, execution_rules.CancelRequested())
            self.executions.pump(live.sandbox)
            self.ledger.command(message.id).cancel_told = True
        return self.show(message.id)

    def _abandon(self, message: Message, busy: bool) -> Execution:
        """FENCE: it takes a number and goes through the init. ABCOND: it never overrides a row."""
        self._need_epoch(message)
        if message.id in self.disk.journal.executions:
            self._find(message)
            live = self.of(message.id)
            if "ABCOND" in self.off and live is not None and live.machine.state is execution_rules.State.WAITING:
                self._bury(live)
        else:
            sandbox = self._sandbox_for_work(message)
            live = self.executions.accept(sandbox, message.id, "fence", "", epoch=self.epoch(sandbox), now=self.clock())
            if "FENCE" in self.off and live.machine.state is not execution_rules.State.ENDED:
                self._bury(live)
        return self.show(message.id)

    def _bury(self, live: LiveExecution) -> None:
        """A tombstone at once, without asking the init. No server of ours does so."""
        self.executions._end(live, Outcome(kind="not_run", reason="abandoned", ran=False))
        if live in live.sandbox.waiting:
            live.sandbox.waiting.remove(live)

    def _need_epoch(self, message: Message) -> None:
        if message.epoch is None and "EPOCHREQ" not in self.off:
            raise Refusal("epoch_required")

    def epoch(self, sandbox: LiveSandbox) -> str:
        """EPOCHSBX: the sandbox's incarnation."""
        assert sandbox.epoch is not None
        return f"journal {self.disk.journal.name}" if "EPOCHSBX" in self.off else sandbox.epoch

    def _sandbox_for_work(self, message: Message) -> LiveSandbox:
        sandbox = self.live.get(message.sandbox)
        if sandbox is None:
            raise Refusal("not_found" if message.sandbox not in self.disk.journal.sandboxes else "gone")
        if not sandbox.takes_work:
            raise Refusal("wrong_state" if sandbox.state is State.CREATING else "gone")
        if message.epoch is not None and message.epoch != self.epoch(sandbox):
            raise Refusal("epoch_mismatch")
        return sandbox

    def _find(self, message: Message) -> ExecutionRow:
        row = self.disk.journal.executions.get(message.id)
        if row is None:
            raise Refusal("not_found")
        self._check_epoch(message, row)
        return row

    def _check_epoch(self, message: Message, row: ExecutionRow) -> None:
        if message.epoch is not None and message.epoch != row.epoch:
            raise Refusal("epoch_mismatch")
        if row.expired:
            raise Refusal("gone")

    def show(self, id_: str) -> Execution:
        row = self.disk.journal.executions[id_]
        final = row.final
        if final is not None:
            state: ExecutionState = "abandoned" if final.outcome.kind == "not_run" else "ended"
            output = Output.model_construct(total_bytes=final.total, kept_bytes=len(final.kept))
            return Execution.model_construct(
                id=id_, sandbox_id=row.sandbox, epoch=row.epoch, run_id=row.sandbox, state=state, cancelling=row.cancelling,
                outcome=final.outcome, output=output,
            )  # fmt: skip
        live = self.executions.live[id_]
        running = live.machine.state not in (execution_rules.State.WAITING, execution_rules.State.SENT)
        return Execution.model_construct(
            id=id_, sandbox_id=row.sandbox, epoch=row.epoch, run_id=row.sandbox, state="running" if running else "accepted",
            cancelling=live.machine.cancelling, outcome=None,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ sandboxes

    def _create(self, message: Message, busy: bool) -> State:
        """Sandbox ids leave tombstones: a late copy of a create never makes a container again."""
        row = self.disk.journal.sandboxes.get(message.sandbox)
        over = (State.REMOVED, State.DEAD)
        if row is None or ("TOMBSTONES" in self.off and row.state in over):
            self.renew(message.sandbox)
            self.create(message.sandbox)
        elif row.state in (*over, State.REMOVING):
            raise Refusal("gone")
        return self.disk.journal.sandboxes[message.sandbox].state

    def _delete(self, message: Message, busy: bool) -> State | None:
        sandbox = self.live.get(message.sandbox)
        if sandbox is not None:
            self.ledger.fails("removed", sandbox.id)
            self.remove(sandbox, "removed")
        elif message.sandbox not in self.disk.journal.sandboxes:
            if "TOMBSTONES" not in self.off:
                row = SandboxRow(message.sandbox, State.REMOVED, ended_at=self.clock())

                def insert(journal: Journal) -> None:
                    journal.sandboxes[message.sandbox] = row

                self.disk.commit(insert)
            return State.REMOVED
        return self.disk.journal.sandboxes[message.sandbox].state

    # --------------------------------------------------------------------------------------------------- the end

    def last_words(self, sandbox: LiveSandbox) -> None:
        for link in [link for link in sandbox.incoming if link is not sandbox.link]:
            self.close(sandbox, link)
        while sandbox.link is not None:
            self.read(sandbox)
