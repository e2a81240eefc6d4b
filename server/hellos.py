"""What a sandbox does with its link: takes hellos, reconciles them with the journal, hands messages to executions."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from server import messages
from server.descriptors import close_all
from server.executions import Executions
from server.failpoints import failpoint
from server.journal import Journal
from server.link import Link
from server.live import LiveSandbox
from server.machines import execution as execution_rules
from server.machines import sandbox as rules
from server.messages import BadMessage, FromInit, Hello

log = logging.getLogger("server.hellos")


class LifeCycle(Protocol):
    """What the link of a sandbox makes necessary for the sandbox itself."""

    def running(self, sandbox: LiveSandbox) -> None:
        """INCARN: its init said hello for the first time. Its incarnation is in the journal when this returns."""

    def look_at(self, sandbox: LiveSandbox) -> None:
        """Its link is down or odd: ask the engine whether it lives."""

    def give_up(self, sandbox: LiveSandbox, reason: str) -> None:
        """It cannot be trusted to be the one in the journal."""


class SandboxLink:
    """The owner of one sandbox's links (see :class:`server.link.Owner`)."""

    def __init__(
        self, sandbox: LiveSandbox, executions: Executions, journal: Journal, life_cycle: LifeCycle, orphan_after_s: float
    ) -> None:
        self._sandbox = sandbox
        self._executions = executions
        self._journal = journal
        self._life_cycle = life_cycle
        self._orphan_ms = int(orphan_after_s * 1000)

    def hand_over(self, sandbox: LiveSandbox, life_cycle: LifeCycle) -> None:
        """The links are another sandbox's from here on: it has got the container."""
        self._sandbox = sandbox
        self._life_cycle = life_cycle

    def expected_pid(self) -> int | None:
        return self._sandbox.container_pid

    def known_secret(self) -> bytes | None:
        return self._sandbox.secret

    def on_hello(self, link: Link, hello: Hello, pipes: dict[str, tuple[int, ...]]) -> None:
        try:
            if self._sandbox.doomed is not None:
                raise BadMessage(f"its sandbox is given up: {self._sandbox.doomed}")
            if self._sandbox.state is rules.State.CREATING and self._sandbox.epoch is None:
                self._first(link, hello)
            elif self._sandbox.epoch is None:
                raise BadMessage("its sandbox is being removed before it ever ran")
            else:
                self._again(link, hello, pipes)
        except execution_rules.InvalidTransition as error:
            raise BadMessage(str(error)) from None
        except BadMessage:
            raise
        except Exception as error:
            link.close("the server failed")
            self._executions.on_fatal(error)
        finally:
            for read_ends in pipes.values():
                close_all(read_ends)

    def _first(self, link: Link, hello: Hello) -> None:
        sandbox = self._sandbox
        if hello.highest or hello.entries or sandbox.container_pid is None:
            raise BadMessage("the first hello of a new sandbox knows of commands")
        sandbox.epoch, sandbox.secret = hello.incarnation.hex(), hello.secret
        self._life_cycle.running(sandbox)
        sandbox.state = rules.after(sandbox.state, rules.Happening.FIRST_HELLO)
        self._take(link)

    def _again(self, link: Link, hello: Hello, pipes: dict[str, tuple[int, ...]]) -> None:
        """REHELLO: whatever was thought to be sent is forgotten; the init's table is what counts."""
        sandbox = self._sandbox
        assert sandbox.epoch is not None
        unfinished = [rules.Known(live.id, live.number) for live in sandbox.executions.values()]
        verdict = rules.reconcile(
            epoch=sandbox.epoch, journal_highest=sandbox.highest, unfinished=unfinished, final=self._final(hello), hello=hello
        )
        if isinstance(verdict, rules.GiveUp):
            log.error("sandbox given up", extra={"sandbox_id": sandbox.id, "reason": verdict.reason})
            link.close(verdict.reason)
            self._life_cycle.give_up(sandbox, verdict.reason)
            return
        for execution_id, read_ends in pipes.items():
            live = sandbox.executions.get(execution_id)
            if live is not None and not live.fits(read_ends):
                raise BadMessage(f"{len(read_ends)} read ends for {execution_id}, which has {len(live.outputs)}, or of another kind")
        self._take(link)
        started = {entry.id: entry.started_ns / 1e9 for entry in hello.entries if entry.started_ns}
        for execution_id, event in verdict.events:
            live = sandbox.executions.get(execution_id)
            if live is not None:  # a drain may have ended it just now
                live.started_at = live.started_at or started.get(execution_id)
                self._executions.hear(live, event, pipes.pop(execution_id, ()))
        for execution_id in verdict.acknowledge:
            link.send(messages.ack(execution_id))
        waiting = (live for live in sandbox.executions.values() if live.machine.state is execution_rules.State.WAITING)
        sandbox.waiting.clear()
        sandbox.waiting.extend(sorted(waiting, key=lambda live: live.number))
        failpoint("after_hello_reconciled")
        self._executions.pump(sandbox)

    def _final(self, hello: Hello) -> dict[str, int]:
        """Of what the hello lists: the executions of this sandbox whose row is final, with their numbers."""
        final = {}
        for entry in hello.entries:
            if entry.id not in self._sandbox.executions:
                row = self._journal.execution(entry.id)
                if row is not None and row.ended_at is not None and row.sandbox_id == self._sandbox.id:
                    final[entry.id] = row.number
        return final

    def _take(self, link: Link) -> None:
        sandbox = self._sandbox
        old, sandbox.link = sandbox.link, link
        if old is not None:
            old.close("its init has a new link")
        link.welcome(self._orphan_ms)
        sandbox.linked.set()
        log.info("link up", extra={"sandbox_id": sandbox.id, "link_version": link.version})

    def on_message(self, link: Link, message: FromInit, pipes: tuple[int, ...]) -> None:
        if link is not self._sandbox.link:
            close_all(pipes)
            return
        try:
            self._executions.message(self._sandbox, message, pipes)
        except BadMessage:
            raise
        except Exception as error:
            # A commit or the spool failed in the middle of it. The init keeps what it said until another start.
            link.close("the server failed")
            self._executions.on_fatal(error)

    def on_ready(self, link: Link) -> None:
        if link is self._sandbox.link:
            self._executions.pump(self._sandbox)

    def on_down(self, link: Link) -> None:
        sandbox = self._sandbox
        if link is not sandbox.link:
            return
        sandbox.link = None
        sandbox.linked.clear()
        sandbox.unlinked_at = asyncio.get_running_loop().time()
        if sandbox.state in rules.LIVE:
            log.warning("link down", extra={"sandbox_id": sandbox.id})
            self._life_cycle.look_at(sandbox)

    def on_stranger(self, pid: int) -> None:
        log.warning("a stranger on the link", extra={"sandbox_id": self._sandbox.id, "pid": pid})
        self._life_cycle.look_at(self._sandbox)
