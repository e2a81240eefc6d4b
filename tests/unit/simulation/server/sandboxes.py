"""Making, watching and ending sandboxes, as server/sandboxes.py and server/leases.py do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from server.machines import execution as execution_rules
from server.machines import sandbox as rules
from server.machines.lease import Term
from server.machines.sandbox import Happening, State
from tests.unit.simulation.disk import Disk, Journal, SandboxRow
from tests.unit.simulation.engine import Engine
from tests.unit.simulation.init import Link, Packet
from tests.unit.simulation.ledger import Ledger
from tests.unit.simulation.server.executions import Executions, LiveExecution, LiveSandbox

LEASE_S = 300.0
UNREACHABLE_S = 600.0
RETENTION_S = 86400.0  # longer than the longest call (KEEP)


class Sandboxes:
    """All sandboxes that are not over, by id.

    Args:
        boot: the machine's boot id.
        clock: the time now, in seconds.
    """

    def __init__(
        self, *, disk: Disk, engine: Engine, ledger: Ledger, off: frozenset[str], boot: int, clock: Callable[[], float],
        sent: Callable[[Link, Packet], None],
    ) -> None:  # fmt: skip
        self.disk, self.engine, self.ledger, self.off, self.clock = disk, engine, ledger, off, clock
        self.executions = Executions(disk, off, sent)
        self.live: dict[str, LiveSandbox] = {}
        self.began = clock()
        self.renewed: dict[str, float] = disk.journal.renewals if "FRESHLEASE" in off else {}
        before = disk.journal.boot
        for row in disk.journal.live_sandboxes():
            self._restore(row, host_restarted=before is not None and before != boot)
        if before != boot:
            disk.commit(lambda journal: setattr(journal, "boot", boot))

    def _restore(self, row: SandboxRow, host_restarted: bool) -> None:
        """Take up a sandbox of an earlier server."""
        sandbox = self.live[row.id] = LiveSandbox(row, self.disk.journal.highest(row.id), self.began)
        unfinished = self.disk.journal.unfinished(row.id)
        for execution in reversed(unfinished) if "SESSIONFIRST" in self.off else unfinished:
            self.executions.restore(sandbox, execution)
        if host_restarted and sandbox.state is State.RUNNING:
            self.give_up(sandbox, "host_restarted")
        elif sandbox.state is State.CREATING:
            sandbox.doomed = "interrupted"

    # --------------------------------------------------------------------------------------------- creating

    def create(self, sandbox_id: str) -> None:
        row = SandboxRow(sandbox_id, State.CREATING)

        def insert(journal: Journal) -> None:
            journal.sandboxes[sandbox_id] = row

        self.disk.commit(insert)
        self.live[sandbox_id] = LiveSandbox(row, self.disk.journal.highest(sandbox_id), self.clock())

    def make(self, sandbox: LiveSandbox) -> bool:
        """Its container, once the engine answers."""
        if sandbox.state is not State.CREATING or sandbox.pid is not None or sandbox.doomed or self.engine.away:
            return False
        self.disk.tick()
        container = self.engine.create(sandbox.id, self.clock())
        self.disk.tick()
        if container is None:
            sandbox.doomed = "its name is taken"
        else:
            sandbox.pid = container.pid
        return True

    # --------------------------------------------------------------------------------------- life and death

    def look(self, sandbox: LiveSandbox) -> bool:
        """Ask the engine about a sandbox without a link: only its word counts, or a long silence (UNREACH)."""
        creating = sandbox.state is State.CREATING and sandbox.pid is not None and sandbox.doomed is None
        if not (creating or sandbox.takes_work) or sandbox.link is not None:
            return False
        alive: bool | None = None
        if not self.engine.away:
            container = self.engine.inspect(sandbox.id)
            alive = container is not None and container.init is not None and container.pid == sandbox.pid
        silent_s = self.clock() - sandbox.unlinked_at
        meant = rules.silence(alive=alive, silent_s=silent_s, unreachable_after_s=UNREACHABLE_S)
        if meant is not None:
            self.give_up(sandbox, meant.reason)
        return meant is not None

    def give_up(self, sandbox: LiveSandbox, reason: str) -> None:
        if sandbox.state is not State.REMOVING and sandbox.doomed is None:
            sandbox.doomed = reason

    def remove(self, sandbox: LiveSandbox, reason: str) -> None:
        """Removal commits first: it fences new work."""
        if sandbox.state is State.REMOVING:
            return
        if "REMOVING" in self.off and not self.engine.away:
            self.engine.remove(sandbox.id)
            self.disk.tick()

        def removing(journal: Journal) -> None:
            journal.sandboxes[sandbox.id] = replace(journal.sandboxes[sandbox.id], state=State.REMOVING, reason=reason)

        self.disk.commit(removing)
        sandbox.state, sandbox.reason = rules.after(sandbox.state, Happening.REMOVAL), reason
        for live in list(sandbox.executions.values()):
            self.executions.apply(live, execution_rules.CancelRequested())

    def finish(self, sandbox: LiveSandbox) -> bool:
        """End a sandbox that is removed, given up or was never made: its container, its last words, its final rows."""
        ends = sandbox.state is State.REMOVING or sandbox.doomed is not None
        if not ends or self.engine.away:
            return False
        self.disk.tick()
        self.engine.remove(sandbox.id)
        self.disk.tick()
        if "LASTWORDS" not in self.off:
            self.last_words(sandbox)
        reason = sandbox.doomed or "sandbox_removed"
        for live in list(sandbox.executions.values()):
            self.executions.lose(live, reason)
        happening = {State.REMOVING: Happening.CONTAINER_REMOVED, State.CREATING: Happening.CREATION_FAILED}
        state = rules.after(sandbox.state, happening.get(sandbox.state, Happening.DEATH))

        def over(journal: Journal) -> None:
            row = replace(journal.sandboxes[sandbox.id], state=state, reason=sandbox.reason or reason, ended_at=self.clock())
            journal.sandboxes[sandbox.id] = row
            if "KEEP" in self.off:
                for id_ in [row.id for row in journal.executions.values() if row.sandbox == sandbox.id]:
                    del journal.executions[id_]

        self.disk.commit(over)
        for link in list(sandbox.incoming):
            self.close(sandbox, link, unheard=link is not sandbox.link)
        del self.live[sandbox.id]
        return True

    def last_words(self, sandbox: LiveSandbox) -> None:
        """Read its link on to the end: an ending may still be in it."""
        raise NotImplementedError

    def close(self, sandbox: LiveSandbox, link: Link, *, unheard: bool = True) -> None:
        raise NotImplementedError

    def sweep(self) -> bool:
        """ORPHAN: containers labelled ours that the journal does not have live are removed."""
        if self.engine.away or "ORPHAN" in self.off:
            return False
        orphans = [sandbox for sandbox in self.engine.containers if sandbox not in self.live]
        for sandbox in orphans:
            self.disk.tick()
            self.engine.remove(sandbox)
        return bool(orphans)

    # --------------------------------------------------------------------------------------- leases, retention

    def renew(self, sandbox_id: str) -> None:
        """A full new term for the run that it belongs to; each sandbox is a run of its own here."""
        self.renewed[sandbox_id] = self.clock()

    def look_at_leases(self) -> None:
        """FRESHLEASE: nobody could renew before this server began."""
        for sandbox in list(self.live.values()):
            busy = max((live.deadline for live in sandbox.executions.values() if live.deadline is not None), default=None)
            renewed_at = self.renewed.get(sandbox.id)
            began = -math.inf if "FRESHLEASE" in self.off and renewed_at is not None else self.began
            if sandbox.state is State.RUNNING and Term(LEASE_S, "wait", renewed_at, began, busy).over(self.clock()):
                self.remove(sandbox, "lease_over")

    def retire(self) -> None:
        """What is beyond retention answers 410 from here on, not 404."""
        before = self.clock() - RETENTION_S
        over = {row.id for row in self.disk.journal.sandboxes.values() if row.ended_at is not None and row.ended_at < before}
        for row in [row for row in self.disk.journal.executions.values() if row.sandbox in over and row.final and not row.expired]:
            self.disk.journal.executions[row.id] = replace(row, final=None, expired=True)
            self.disk.spool.pop(row.id, None)

    def of(self, execution_id: str) -> LiveExecution | None:
        return self.executions.live.get(execution_id)

    def cut(self) -> None:
        """The server is dead: its ends of all links are closed."""
        self.executions.cut()
        for sandbox in self.live.values():
            for link in list(sandbox.incoming):
                self.close(sandbox, link)
