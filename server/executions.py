"""Executions: carries out what the execution machine says. Journal first, then the link, then whoever waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from remote_env.protocol import ExecutionSpec, Outcome
from server import messages
from server.descriptors import close_all
from server.failpoints import failpoint
from server.intake import Intake
from server.journal import ExecutionRow, Journal
from server.live import LiveExecution, LiveSandbox
from server.machines import execution as rules
from server.messages import Ended, Ending, EndingFlag, EndingKind, Stale, Started
from server.metrics import Metrics
from server.outcomes import outcome_of
from server.output import FACTS
from server.problems import ProblemError
from server.runs import run_message
from server.sessions import check_link, session_for
from server.spool import Spool
from server.waits import WaitRoom
from server.wiping import Wiping

log = logging.getLogger("server.executions")

_PURGE_STEP = 200  # executions whose output goes before others get their turn


class _Linger(NamedTuple):
    """How long output is waited for after an ending: until its end, for so many seconds at most, or until none has come for so
    many."""

    most_s: float
    quiet_s: float | None


# What a terminal was given last may still be on its way through the kernel when its program's end is reported already.
_TERMINAL_LINGER = _Linger(most_s=0.5, quiet_s=0.02)


class Executions:
    """All executions that have not ended, by id; the others are in the journal.

    Args:
        key: the instance's key for spec hashes.
        on_fatal: called with a failed commit: what is in memory may no longer be what is in the journal.
    """

    def __init__(
        self, journal: Journal, spool: Spool, metrics: Metrics, room: WaitRoom, *, key: bytes, drain_grace_s: float,
        on_fatal: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        self.live: dict[str, LiveExecution] = {}
        self._journal = journal
        self._spool = spool
        self._metrics = metrics
        self._drain_grace_s = drain_grace_s
        self.on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._intake = Intake(spool, room, key)
        self.wiping = Wiping(lambda ids: self._commit(journal.wipe_secrets, ids))

    def sessions(self) -> int:
        """How many of them are a session's shell."""
        return sum(live.opens_session for live in self.live.values())

    # -------------------------------------------------------------------------------------------- accepting

    def spec_hash(self, spec: ExecutionSpec) -> bytes:
        """See `Intake.spec_hash`."""
        return self._intake.spec_hash(spec)

    def accept(self, sandbox: LiveSandbox, spec: ExecutionSpec) -> LiveExecution:
        """Commit a new execution and send it when its turn comes. Raises ProblemError invalid, session_ended, session_busy,
        commit_failed."""
        check_link(sandbox, spec)
        session = None if spec.session is None else session_for(sandbox, spec, self.live, self._journal)
        return self._accept(sandbox, self._intake.run_row(sandbox, spec, session), session, spec)

    def fence(self, sandbox: LiveSandbox, execution_id: str) -> LiveExecution:
        """Abandon an id that is unknown here: a request like a run, that takes a number and never runs (FENCE)."""
        return self._accept(sandbox, self._intake.fence_row(sandbox, execution_id), None, None)

    def _accept(
        self, sandbox: LiveSandbox, row: ExecutionRow, session: LiveExecution | None, request: ExecutionSpec | None
    ) -> LiveExecution:  # fmt: skip
        try:
            self._journal.accept(row)
        except Exception as error:
            self.on_fatal(error)
            raise ProblemError("commit_failed", f"whether {row.id} was accepted is unknown: {error}", id=row.id) from error
        sandbox.highest = row.number
        live = self._take_in(sandbox, row, session, fresh=True)
        if request is None or row.spec is None or row.spec.get("streams", "merged") == request.streams:
            live.request = request
        self._metrics.execution_accepted()
        self.pump(sandbox)
        return live

    def restore(self, sandbox: LiveSandbox, row: ExecutionRow) -> LiveExecution:
        """Take up an unfinished row of an earlier server; the next hello says where it is. In the order of their numbers: a
        session comes before its commands."""
        session = self.live.get((row.spec or {}).get("session", ""))
        live = self._take_in(sandbox, row, session, fresh=False)
        if session is not None and live.machine.borrows:
            self.apply(session, rules.Lent(take=False))
        return live

    def _take_in(self, sandbox: LiveSandbox, row: ExecutionRow, session: LiveExecution | None, *, fresh: bool) -> LiveExecution:
        live = self._intake.live(sandbox, row, session, fresh=fresh)
        sandbox.executions[row.id] = live
        sandbox.waiting.append(live)
        sandbox.idle.clear()
        self.live[row.id] = live
        return live

    # ------------------------------------------------------------------------------------------ to the init

    def pump(self, sandbox: LiveSandbox) -> None:
        """Send what waits, strictly in order of the numbers, as long as the link takes it (ORDER)."""
        link = sandbox.link
        while link is not None and link.ready and sandbox.waiting:
            live = sandbox.waiting[0]
            if live.machine.state is rules.State.WAITING:
                self.apply(live, rules.Turn())
                if live.machine.state is rules.State.WAITING:
                    return
            sandbox.waiting.popleft()

    def _send_run(self, live: LiveExecution) -> None:
        link = live.sandbox.link
        spec = live.request or ExecutionSpec.model_validate({"id": live.id, **(live.spec or {}), **(live.secrets or {})})
        run, stdin = run_message(spec, live.number, live.sandbox.spec, live.sandbox.link_version, live.sandbox.env)
        if link is None or not link.send_run(run, stdin):
            self.apply(live, rules.NotSent())
        else:
            failpoint("after_send")

    # ---------------------------------------------------------------------------------------- from the init

    def message(self, sandbox: LiveSandbox, message: messages.FromInit, pipes: Sequence[int]) -> None:
        """Carry out what the init says about one execution; `pipes`, read ends, belong to it from here on.

        Raises BadMessage for what the init must not say.
        """
        try:
            live, event = self._interpret(sandbox, message, pipes)
        except messages.BadMessage:
            close_all(pipes)
            raise
        try:
            self.hear(live, event, pipes)
        except rules.InvalidTransition as error:
            raise messages.BadMessage(str(error)) from None
        if isinstance(message, Started):
            failpoint("after_started")

    def _interpret(self, sandbox: LiveSandbox, message: messages.FromInit, pipes: Sequence[int]) -> tuple[LiveExecution, rules.Event]:
        if isinstance(message, Stale):
            raise messages.BadMessage(f"number {message.number} was taken before: another server sent to this init")
        assert isinstance(message, Started | Ended)
        live = sandbox.executions.get(message.id)
        if live is None or live.number != message.number:
            raise messages.BadMessage(f"{type(message).__name__} of {message.id!r}, which this sandbox does not run")
        if isinstance(message, Ended):
            return live, rules.EndingArrived(message.ending)
        if not live.fits(pipes):
            raise messages.BadMessage(f"{message.id} came with {len(pipes)} read ends, it has {len(live.outputs)}, or of another kind")
        live.started_at = message.started_ns / 1e9
        self._metrics.started(max(0.0, live.started_at - live.accepted_at))
        return live, rules.Started()

    def hear(self, live: LiveExecution, event: rules.Event, pipes: Sequence[int]) -> None:
        """Apply what a link said; `pipes` are the read ends that came with it, one for each output or none, and belong to the
        execution now."""
        live.handed_over = tuple(pipes)
        try:
            self.apply(live, event)
        finally:
            close_all(live.handed_over)
            live.handed_over = ()

    # ---------------------------------------------------------------------------------------- instructions

    def apply(self, live: LiveExecution, event: rules.Event) -> None:
        """Hand the event to the machine and carry out what it says, in order. Raises InvalidTransition."""
        for instruction in live.machine.handle(event):
            if isinstance(instruction, rules.SendRun):
                self._send_run(live)
            elif isinstance(instruction, rules.AttachOutput):
                self._attach(live, instruction.from_nothing)
            elif isinstance(instruction, rules.TakeOutput):
                self._take_output(live, instruction.ending)
            elif isinstance(instruction, rules.CommitFinal):
                assert live.ending is not None
                self._end(live, self._outcome(live, live.ending), live.ending)
            elif isinstance(instruction, rules.CommitLost):
                self._end(live, Outcome(kind="lost", reason=instruction.reason, ran=instruction.ran), None)
            elif isinstance(instruction, rules.CommitCancel):
                self._commit(self._journal.cancel, live.id)
            elif isinstance(instruction, rules.BorrowOutput | rules.GiveBackOutput):
                self._tell_session(live, rules.Lent() if isinstance(instruction, rules.BorrowOutput) else rules.GivenBack())
            elif isinstance(instruction, rules.PauseOutput):
                for output in live.outputs:
                    output.pause(instruction.take)
                live.moved.ring()
            elif isinstance(instruction, rules.ResumeOutput):
                for output in live.outputs:
                    output.resume()
            else:
                self._send(live, instruction)

    def _send(self, live: LiveExecution, instruction: rules.Instruction) -> None:
        link = live.sandbox.link
        if link is None:
            return  # after the next hello the machine says it again
        if isinstance(instruction, rules.SendAck):
            link.ack(live.id)
        elif isinstance(instruction, rules.SendKill):
            link.send(messages.kill(live.id))
        elif isinstance(instruction, rules.SendSkip):
            link.send(messages.skip(live.number, live.id))

    def _tell_session(self, live: LiveExecution, event: rules.Lent | rules.GivenBack) -> None:
        if live.session is not None and live.session.machine.state is not rules.State.ENDED:
            self.apply(live.session, event)

    def _attach(self, live: LiveExecution, from_nothing: bool) -> None:
        live.moved.ring()  # it has started, or was taken up again
        live.request = None
        for output in live.outputs:
            output.detach()
            if from_nothing:
                output.spool_file.clear()  # what lies there is of a journal that was lost
        if not live.handed_over:
            return
        if live.started_at is not None and live.deadline is not None and live.limit_s is not None:
            # Its clocks run from here; it may have waited for its turn.
            live.deadline = max(live.deadline, self._loop.time() + min(0.0, live.started_at - time.time()) + live.limit_s)
        pipes, live.handed_over = live.handed_over, ()
        if live.terminal is not None:
            live.terminal.attach(pipes[0])
        for output, pipe in zip(live.outputs, pipes, strict=True):
            output.attach(pipe, lambda: self._on_output(live), self.on_fatal, paused=live.machine.lent)
        if live.secrets is not None:  # it has started, so they are of no more use here
            live.secrets = None
            self.wiping.soon(live.id)

    def _on_output(self, live: LiveExecution) -> None:
        live.moved.ring()
        if live.activity_every is not None and live.sandbox.link is not None:
            now = self._loop.time()
            if now - live.activity_sent >= live.activity_every:
                live.activity_sent = now
                live.sandbox.link.send(messages.activity(live.id))

    def _take_output(self, live: LiveExecution, ending: Ending) -> None:
        failpoint("before_output_taken")
        live.ending = ending
        read = any(output.reader is not None for output in live.outputs)
        if read and (linger := self._linger(live, ending)):
            live.drain = self._loop.create_task(self._take_slowly(live, linger))
        elif self._finish_output(live):
            self.apply(live, rules.OutputTaken())
        else:
            live.drain = self._loop.create_task(self._take_slowly(live, None))

    def _linger(self, live: LiveExecution, ending: Ending) -> _Linger | None:
        """How long more of the output is waited for."""
        if live.terminal is not None:
            return _TERMINAL_LINGER
        if live.session is None and ending.flags & EndingFlag.OUTPUT_OPEN:
            return _Linger(self._drain_grace_s, None)
        return None  # what jobs of a session say after its command is for the session

    async def _take_slowly(self, live: LiveExecution, linger: _Linger | None) -> None:
        """`linger` None: the output is taken already, only its sha256 is missing."""
        try:
            await self._settle_output(live, linger)
            self.apply(live, rules.OutputTaken())
        except Exception as error:
            # The ending cannot be finished in this process. It waits in the init, so another start can finish it.
            self.on_fatal(error)
            raise

    async def _settle_output(self, live: LiveExecution, linger: _Linger | None) -> None:
        """Take what descendants still say for so long, then what the pipes hold, and add up what is kept."""
        if linger is not None:
            await asyncio.gather(*(output.linger(linger.most_s, linger.quiet_s) for output in live.outputs))
            self._finish_output(live)
        assert live.final is not None
        for output in live.outputs:
            await output.add_digest(live.final[FACTS[output.stream]])

    def _finish_output(self, live: LiveExecution) -> bool:
        """Take what the pipes hold, close them and the files. False: a sha256 is still to be computed, off the event loop."""
        if live.terminal is not None:
            live.terminal.detach()
        live.final = {FACTS[output.stream]: output.finish() for output in live.outputs}
        return all(facts["sha256"] is not None for facts in live.final.values())

    def _outcome(self, live: LiveExecution, ending: Ending) -> Outcome:
        if ending.kind is EndingKind.SKIPPED and live.machine.kind == "fence":
            return Outcome(kind="not_run", reason="abandoned", ran=False)
        closed = live.session is not None and live.session.machine.cancelling and not live.machine.cancelling
        reason = "sandbox_removed" if not live.sandbox.takes_work else "session_closed" if closed else None
        return outcome_of(ending, cancelled_for=reason, session_closed=closed)

    def _end(self, live: LiveExecution, outcome: Outcome, ending: Ending | None) -> None:
        """Commit the final row, then tell whoever waits."""
        failpoint("after_output_taken")
        assert live.final is not None
        ended_at = time.time() if ending is None or not ending.ended_ns else ending.ended_ns / 1e9
        final = dict(live.final)
        final["outcome"] = outcome.model_dump(exclude_defaults=True)
        if ending is not None:
            if ending.started_ns and ending.kind is not EndingKind.SKIPPED:  # what was skipped was taken, and never started
                live.started_at = ending.started_ns / 1e9
            for output in live.outputs:
                final[FACTS[output.stream]]["open"] = bool(ending.flags & EndingFlag.OUTPUT_OPEN)
            # A session's command has no process of its own that could be waited for: what nobody has measured is null.
            own = live.session is None
            final["cpu_s"] = ending.cpu_us / 1e6 if own or ending.flags & EndingFlag.CPU_COUNTED else None
            final["max_rss_bytes"] = ending.max_rss_bytes if own else None
            final["oom_kills"] = ending.oom_kills
            final["waited_s"] = ending.waited_ms / 1e3
            if ending.flags & EndingFlag.SESSION_OVER:
                final["session_over"] = True
        final["started_at"] = live.started_at
        self._commit(self._journal.end, live.id, final, ended_at)
        live.final, live.ended_at = final, ended_at
        if live.secrets is not None:
            live.secrets, self.wiping.wiped = None, True
        sandbox = live.sandbox
        self.live.pop(live.id, None)
        sandbox.executions.pop(live.id, None)
        if live.session is not None:
            live.session.command = None
        if not sandbox.executions:
            sandbox.idle.set()
        live.ended.ring()
        live.moved.ring()
        elapsed = ended_at - live.accepted_at
        self._metrics.ended(outcome.kind, elapsed, live.total_bytes, outcome.clock)
        log.info(
            "execution ended",
            extra={
                "execution_id": live.id, "sandbox_id": sandbox.id, "outcome": outcome.kind, "code": outcome.code,
                "reason": outcome.reason, "elapsed_s": round(elapsed, 4), "output_bytes": live.total_bytes,
            },
        )  # fmt: skip

    def _commit(self, write: Callable[..., None], *args: Any) -> None:
        try:
            write(*args)
        except Exception as error:
            self.on_fatal(error)
            raise

    # --------------------------------------------------------------------------------------------- the rest

    async def lose(self, live: LiveExecution, reason: str) -> None:
        """Its sandbox is gone for good and said nothing of it: keep the output so far, commit `lost`. A session's command goes
        before its session: what their pipe holds is its."""
        if live.command is not None:
            await self.lose(live.command, reason)
        if live.drain is not None:
            await live.drain
        if live.machine.state is rules.State.ENDED:
            return
        await self._settle_output(live, _Linger(self._drain_grace_s, None))
        self.apply(live, rules.SandboxOver(reason))

    def send_signal(self, live: LiveExecution, signum: int) -> bool:
        """False: it does not run, or there is no link to its init just now."""
        if not live.hears_signals:
            return False
        assert live.sandbox.link is not None
        live.sandbox.link.send(messages.signal(live.id, signum))
        return True

    async def purge(self, sandbox_id: str) -> None:
        """Drop the output of a sandbox's ended executions now; the rows stay (KEEP)."""
        for count, execution_id in enumerate(self._journal.kept(sandbox_id), 1):
            self._spool.remove(execution_id)
            if count % _PURGE_STEP == 0:
                await asyncio.sleep(0)

    def close(self) -> None:
        """Before the journal is closed: nothing is written afterwards."""
        self.wiping.close()
