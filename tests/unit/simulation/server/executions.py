"""One sandbox's executions: carries out what the execution machine says, as server/executions.py does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, cast

from remote_env.protocol import ExecutionSpec, Outcome
from server import sessions
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
    """Args:
    session: the one that it is a command of.
    """

    __slots__ = (
        "command", "deadline", "ending", "handed_over", "id", "machine", "number", "opens_session", "paused", "readers", "sandbox",
        "session", "to_drain",
    )  # fmt: skip
    spec: Mapping[str, Any] = {}
    outputs = ("merged",)

    def __init__(self, sandbox: LiveSandbox, row: ExecutionRow, session: LiveExecution | None) -> None:
        self.id, self.number, self.sandbox = row.id, row.number, sandbox
        self.machine = rules.ExecutionMachine(row.kind, row.cancelling, borrows=session is not None)
        self.opens_session = row.opens
        self.deadline = None if row.opens else row.accepted_at + TIMEOUT_S + GRACE_AND_MARGIN_S
        self.session = session
        self.command: LiveExecution | None = None  # of a session: the one that has not ended
        self.paused = False  # a command of it reads its pipe
        self.readers: list[Reader] = []
        self.handed_over: Pipe | None = None
        self.ending: Ending | None = None
        self.to_drain: int | None = None  # bytes still to be taken before its final commit


class SessionRows:
    """The journal, as the server's own rule about sessions reads it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def execution(self, id_: str) -> SimpleNamespace | None:
        row = self._journal.executions.get(id_)
        if row is None:
            return None
        final = None if row.final is None else {"outcome": row.final.outcome.model_dump()}
        return SimpleNamespace(sandbox_id=row.sandbox, spec={"opens": "session"} if row.opens else {}, final=final)


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
        self, sandbox: LiveSandbox, id_: str, kind: Literal["run", "fence"], body: str, *, epoch: str, now: float,
        session_id: str | None = None,
    ) -> LiveExecution:  # fmt: skip
        """SEQSBX: the row carries the next number of its sandbox. Raises ProblemError where the session does not take it now."""
        session = None if session_id is None else self._session_for(sandbox, id_, session_id)
        number = 1 + (self.disk.journal.highest(None) if "SEQSBX" in self.off else sandbox.highest)
        row = ExecutionRow(id_, sandbox.id, number, epoch, kind, body, now, session=session_id)

        def insert(journal: Journal) -> None:
            journal.executions[id_] = row

        self.disk.commit(insert)
        sandbox.highest = number
        live = self._take_in(sandbox, row, session)
        self.pump(sandbox)
        return live

    def _session_for(self, sandbox: LiveSandbox, id_: str, session: str) -> LiveExecution:
        """The server's own decision."""
        spec = ExecutionSpec.model_construct(id=id_, session=session, tty=None, streams="merged")
        found = sessions.session_for(cast(Any, sandbox), spec, cast(Any, self.live), cast(Any, SessionRows(self.disk.journal)))
        return cast(LiveExecution, found)

    def restore(self, sandbox: LiveSandbox, row: ExecutionRow) -> None:
        """Take up an unfinished row of an earlier server, in the order of their numbers: a session comes before its commands."""
        session = None if row.session is None else self.live.get(row.session)
        self._take_in(sandbox, row, session)
        if session is not None and "LENTAGAIN" not in self.off:
            self.apply(session, rules.Lent(take=False))

    def _take_in(self, sandbox: LiveSandbox, row: ExecutionRow, session: LiveExecution | None) -> LiveExecution:
        live = LiveExecution(sandbox, row, session)
        if session is not None:
            session.command = live
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
                if not self.send(live.sandbox, Packet("run", live.id, live.number, row.body, row.session), ROOM):
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
            elif isinstance(instruction, rules.CommitCancel):
                self._commit_cancel(live)
            else:
                self._hand_over(live, instruction)

    def _hand_over(self, live: LiveExecution, instruction: rules.Instruction) -> None:
        """A session's pipe has one reader: its own, or the one of the command that runs in it (ONEREADER)."""
        if isinstance(instruction, rules.PauseOutput):
            if instruction.take and live.readers:
                live.readers[0].splice(self._unread(live))
            live.paused = "READSON" not in self.off
        elif isinstance(instruction, rules.ResumeOutput):
            live.paused = False
        else:
            assert isinstance(instruction, rules.BorrowOutput | rules.GiveBackOutput)
            if live.session is not None and live.session.machine.state is not rules.State.ENDED:
                self.apply(live.session, rules.Lent() if isinstance(instruction, rules.BorrowOutput) else rules.GivenBack())

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
            live.paused = live.machine.lent and "STILLLENT" not in self.off

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
        if live.paused or reader >= len(live.readers) or not live.readers[reader].splice(most):
            return False
        if live.to_drain:
            live.to_drain = max(0, live.to_drain - most)
        return True

    def drain(self, live: LiveExecution) -> bool:
        """One step of the last read; at its end the final row is committed and the ending acknowledged."""
        if live.to_drain is None:
            return False
        if live.to_drain:
            taken = live.readers[0].splice(1) if live.readers else 0
            live.to_drain = live.to_drain - 1 if taken else 0  # nothing more is there
        if "DRAINN" in self.off:
            live.to_drain = self._unread(live)  # until it is empty
        if not live.to_drain:
            live.to_drain = None
            self.apply(live, rules.OutputTaken())
        return True

    def _outcome(self, live: LiveExecution, ending: Ending) -> Outcome:
        if ending.kind is EndingKind.SKIPPED and live.machine.kind == "fence":
            return Outcome(kind="not_run", reason="abandoned", ran=False)
        closed = live.session is not None and live.session.machine.cancelling and not live.machine.cancelling
        reason = "sandbox_removed" if not live.sandbox.takes_work else "session_closed" if closed else None
        return outcome_of(ending, cancelled_for=reason, session_closed=closed)

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
        if live.session is not None:
            live.session.command = None

    def lose(self, live: LiveExecution, reason: str) -> None:
        """Its sandbox is gone for good and said nothing of it: keep the output so far, commit `lost`. A session's command goes
        before its session: what their pipe holds is its."""
        if live.command is not None and "LASTOFSESSION" not in self.off:
            self.lose(live.command, reason)
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
