"""One sandbox's executions: carries out what the execution machine says, as server/executions.py does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from remote_env.protocol import Outcome
from server.machines import execution as rules
from server.machines.sandbox import State as SandboxState
from server.messages import Ending, EndingKind
from server.outcomes import outcome_of
from tests.unit.simulation.disk import Disk, ExecutionRow, Final, Journal, SandboxRow
from tests.unit.simulation.init import ROOM, TIMEOUT_S, Link, Packet
from tests.unit.simulation.ledger import broken
from tests.unit.simulation.pipe import Pipe, Reader

GRACE_AND_MARGIN_S = 32.0  # beyond the timeout, by which an execution's ending must have come
EVERYTHING = 1 << 30


class LiveExecution:
    __slots__ = ("deadline", "ending", "handed_over", "id", "machine", "number", "readers", "sandbox", "to_drain")

    def __init__(self, sandbox: LiveSandbox, row: ExecutionRow) -> None:
        self.id, self.number, self.sandbox = row.id, row.number, sandbox
        self.machine = rules.ExecutionMachine(row.kind, row.cancelling)
        self.deadline = row.accepted_at + TIMEOUT_S + GRACE_AND_MARGIN_S
        self.readers: list[Reader] = []
        self.handed_over: Pipe | None = None
        self.ending: Ending | None = None
        self.to_drain: int | None = None  # bytes still to be taken before its final commit


class LiveSandbox:
    __slots__ = ("doomed", "epoch", "executions", "highest", "id", "incoming", "link", "pid", "reason", "state", "unlinked_at", "waiting")

    def __init__(self, row: SandboxRow, highest: int, now: float) -> None:
        self.id, self.state, self.epoch, self.pid, self.reason = row.id, row.state, row.epoch, row.pid, row.reason
        self.highest = highest
        self.executions: dict[str, LiveExecution] = {}
        self.waiting: deque[LiveExecution] = deque()  # in order of their numbers (ORDER)
        self.incoming: list[Link] = []  # connections that are not read to their end, oldest first
        self.link: Link | None = None  # one whose hello was accepted
        self.unlinked_at = now
        self.doomed: str | None = None

    @property
    def takes_work(self) -> bool:
        return self.state is SandboxState.RUNNING and self.doomed is None


class Executions:
    """Args:
    sent: called with every run that is sent; a confused server may say it again.
    """

    def __init__(self, disk: Disk, off: frozenset[str], sent: Callable[[Link, Packet], None]) -> None:
        self.disk, self.off, self._sent = disk, off, sent
        self.live: dict[str, LiveExecution] = {}

    # -------------------------------------------------------------------------------------------- accepting

    def accept(
        self, sandbox: LiveSandbox, id_: str, kind: Literal["run", "fence"], body: str, *, epoch: str, now: float
    ) -> LiveExecution:  # fmt: skip
        """SEQSBX: the row carries the next number of its sandbox."""
        number = 1 + (self.disk.journal.highest(None) if "SEQSBX" in self.off else sandbox.highest)
        row = ExecutionRow(id_, sandbox.id, number, epoch, kind, body, now)

        def insert(journal: Journal) -> None:
            journal.executions[id_] = row

        self.disk.commit(insert)
        sandbox.highest = number
        live = self.restore(sandbox, row)
        self.pump(sandbox)
        return live

    def restore(self, sandbox: LiveSandbox, row: ExecutionRow) -> LiveExecution:
        live = LiveExecution(sandbox, row)
        sandbox.executions[row.id] = self.live[row.id] = live
        sandbox.waiting.append(live)
        return live

    # ------------------------------------------------------------------------------------------- to the init

    def pump(self, sandbox: LiveSandbox) -> None:
        """Send what waits, strictly in order of the numbers, as long as the link takes it (ORDER)."""
        while sandbox.link is not None and len(sandbox.link.to_init) < ROOM and sandbox.waiting:
            live = sandbox.waiting[-1 if "ORDER" in self.off else 0]
            if live.machine.state is rules.State.WAITING:
                self.apply(live, rules.Turn())
                if live.machine.state is rules.State.WAITING:
                    return
            sandbox.waiting.remove(live)

    def send(self, sandbox: LiveSandbox, packet: Packet, room: int = EVERYTHING) -> bool:
        link = sandbox.link
        if link is None or len(link.to_init) >= room:
            return False
        self.disk.tick()
        if link.init_end:
            link.to_init.append(packet)
            if packet.verb == "run":
                self._sent(link, packet)
        self.disk.tick()
        return True

    # ------------------------------------------------------------------------------------------ instructions

    def hear(self, live: LiveExecution, event: rules.Event, pipe: Pipe | None = None) -> None:
        """Apply what a link said; `pipe` is the read end that came with it."""
        live.handed_over = pipe
        self.apply(live, event)
        live.handed_over = None

    def apply(self, live: LiveExecution, event: rules.Event) -> None:
        """Hand the event to the machine and carry out what it says, in order. Raises InvalidTransition."""
        for instruction in live.machine.handle(event):
            if isinstance(instruction, rules.SendRun):
                row = self.disk.journal.executions[live.id]
                if not self.send(live.sandbox, Packet("run", live.id, live.number, row.body), ROOM):
                    self.apply(live, rules.NotSent())
            elif isinstance(instruction, rules.SendSkip):
                self.send(live.sandbox, Packet("skip", live.id, live.number))
            elif isinstance(instruction, rules.SendKill):
                self.send(live.sandbox, Packet("kill", live.id))
            elif isinstance(instruction, rules.SendAck):
                self.send(live.sandbox, Packet("ack", live.id))
            elif isinstance(instruction, rules.AttachOutput):
                self._attach(live, instruction.from_nothing)
            elif isinstance(instruction, rules.TakeOutput):
                self._take_output(live, instruction.ending)
            elif isinstance(instruction, rules.CommitFinal):
                assert live.ending is not None
                self._end(live, self._outcome(live, live.ending))
            elif isinstance(instruction, rules.CommitLost):
                self._end(live, Outcome(kind="lost", reason=instruction.reason, ran=instruction.ran))
            else:
                assert isinstance(instruction, rules.CommitCancel)
                self._commit_cancel(live)

    def _commit_cancel(self, live: LiveExecution) -> None:
        def flag(journal: Journal) -> None:
            journal.executions[live.id] = replace(journal.executions[live.id], cancelling=True)

        self.disk.commit(flag)

    def _attach(self, live: LiveExecution, from_nothing: bool) -> None:
        """ONEREADER: a read end replaces the old one, after its reader has stopped."""
        pipe = live.handed_over
        if from_nothing:
            self.disk.spool.pop(live.id, None)
        if "ONEREADER" not in self.off:
            self._close(live)
        if pipe is not None:
            file = self.disk.file(live.id)
            live.readers.append(Reader(pipe, file, 0 if "LENGTH" in self.off else len(file.content)))

    def _close(self, live: LiveExecution) -> None:
        for reader in live.readers:
            reader.close()
        live.readers.clear()

    def _take_output(self, live: LiveExecution, ending: Ending) -> None:
        """DRAINFIRST, DRAINN: what the pipe holds at the ending is counted once, and taken."""
        live.ending = ending
        live.to_drain = 0 if "DRAINFIRST" in self.off else self._unread(live)

    def _unread(self, live: LiveExecution) -> int:
        return sum(len(reader.pipe.queue) for reader in live.readers[:1])

    def splice(self, live: LiveExecution, reader: int, most: int = 1) -> bool:
        """Its output is read as it comes."""
        if reader >= len(live.readers) or not live.readers[reader].splice(most):
            return False
        if live.to_drain:
            live.to_drain = max(0, live.to_drain - most)
        return True

    def drain(self, live: LiveExecution) -> bool:
        """One step of the last read; at its end the final row is committed and the ending acknowledged."""
        if live.to_drain is None:
            return False
        if live.to_drain:
            live.to_drain -= live.readers[0].splice(1) if live.readers else live.to_drain
        if "DRAINN" in self.off:
            live.to_drain = self._unread(live)  # until it is empty
        if not live.to_drain:
            live.to_drain = None
            self.apply(live, rules.OutputTaken())
        return True

    def _outcome(self, live: LiveExecution, ending: Ending) -> Outcome:
        if ending.kind is EndingKind.SKIPPED and live.machine.kind == "fence":
            return Outcome(kind="not_run", reason="abandoned", ran=False)
        return outcome_of(ending, cancelled_for=None if live.sandbox.takes_work else "sandbox_removed")

    def _end(self, live: LiveExecution, outcome: Outcome) -> None:
        file = self.disk.file(live.id)
        total = len(file.content)
        if "APPEND" in self.off and live.readers:
            total = live.readers[0].place
        final = Final(outcome, total, file.kept(total))

        def end(journal: Journal) -> None:
            row = journal.executions[live.id]
            if row.final is not None:
                broken("P2", f"{live.id} got a second result")
            journal.executions[live.id] = replace(row, final=final)

        self.disk.commit(end)
        self._close(live)
        self.live.pop(live.id, None)
        live.sandbox.executions.pop(live.id, None)

    def lose(self, live: LiveExecution, reason: str) -> None:
        """Its sandbox is gone for good and said nothing of it: keep the output so far, commit `lost`."""
        while live.to_drain is not None:
            self.drain(live)
        if live.machine.state is rules.State.ENDED:
            return
        for reader in live.readers:
            reader.splice(EVERYTHING)
        self.apply(live, rules.SandboxOver(reason))

    def cut(self) -> None:
        """The server is dead: the kernel closes its descriptors."""
        for live in self.live.values():
            self._close(live)
