"""What a sandbox does with its link, as server/hellos.py does: takes hellos, reconciles them, hands messages on."""

from __future__ import annotations

from dataclasses import replace

from server.machines import execution as execution_rules
from server.machines import sandbox as rules
from server.messages import Hello
from tests.unit.simulation.disk import Journal
from tests.unit.simulation.init import Link, Packet
from tests.unit.simulation.server.executions import LiveSandbox
from tests.unit.simulation.server.sandboxes import Sandboxes


class BadMessage(Exception):
    """The init said what it must not say: its link is closed, and it comes again with a hello."""


class Links(Sandboxes):
    def connect(self, sandbox: LiveSandbox, link: Link) -> None:
        sandbox.incoming.append(link)

    def read(self, sandbox: LiveSandbox) -> str | None:
        """Take the next packet, or the end, of the oldest connection; returns what it was."""
        for link in list(sandbox.incoming):
            if link.to_server:
                packet = link.to_server.popleft()
                try:
                    self._take(sandbox, link, packet)
                except BadMessage:
                    self.close(sandbox, link)
                finally:
                    _let_go(packet)
                return f"{packet.verb} {packet.id}"
            if not link.init_end:
                self.close(sandbox, link)
                return "end of the link"
        return None

    def close(self, sandbox: LiveSandbox, link: Link, *, unheard: bool = True) -> None:
        """The server's end: what is unread in it is void. `unheard`: and nobody is to blame for that."""
        link.server_end = False
        for packet in link.to_server:
            _let_go(packet)
            if packet.id and unheard:
                self.ledger.command(packet.id).said = False
        link.to_server.clear()
        if link in sandbox.incoming:
            sandbox.incoming.remove(link)
        if link is sandbox.link:
            sandbox.link, sandbox.unlinked_at = None, self.clock()

    def _take(self, sandbox: LiveSandbox, link: Link, packet: Packet) -> None:
        try:
            if packet.hello is not None:
                self._hello(sandbox, link, packet.hello, packet)
            elif link is sandbox.link:
                self._message(sandbox, packet)
        except execution_rules.InvalidTransition as error:
            raise BadMessage(str(error)) from None

    def _message(self, sandbox: LiveSandbox, packet: Packet) -> None:
        if packet.verb == "stale":
            if "STALE" not in self.off:
                raise BadMessage(f"number {packet.number} was taken before")
            return
        live = sandbox.executions.get(packet.id)
        if live is None or live.number != packet.number:
            raise BadMessage(f"{packet.verb} of {packet.id}, which this sandbox does not run")
        if packet.verb == "ended":
            self.executions.hear(live, execution_rules.EndingArrived(packet.ending))
        else:
            self.executions.hear(live, execution_rules.Started(), packet.pipes[0][1])

    def _hello(self, sandbox: LiveSandbox, link: Link, hello: Hello, packet: Packet) -> None:
        if sandbox.doomed is not None:
            raise BadMessage(f"its sandbox is given up: {sandbox.doomed}")
        if sandbox.state is rules.State.CREATING:
            self._first(sandbox, link, hello)
        elif sandbox.epoch is None:
            raise BadMessage("its sandbox is being removed before it ever ran")
        else:
            self._again(sandbox, link, hello, packet)

    def _first(self, sandbox: LiveSandbox, link: Link, hello: Hello) -> None:
        """INCARN: the incarnation is committed before the first run is sent."""
        if hello.highest or hello.entries or sandbox.pid is None:
            raise BadMessage("the first hello of a new sandbox knows of commands")
        epoch = hello.incarnation.hex()

        def running(journal: Journal) -> None:
            row = journal.sandboxes[sandbox.id]
            journal.sandboxes[sandbox.id] = replace(row, state=rules.State.RUNNING, epoch=epoch, pid=sandbox.pid)

        self.disk.commit(running)
        sandbox.epoch = epoch
        sandbox.state = rules.after(sandbox.state, rules.Happening.FIRST_HELLO)
        sandbox.link = link

    def _again(self, sandbox: LiveSandbox, link: Link, hello: Hello, packet: Packet) -> None:
        """REHELLO: whatever was thought to be sent is forgotten; the init's table is what counts."""
        assert sandbox.epoch is not None
        executions = self.disk.journal.executions
        rows = {entry.id: executions[entry.id] for entry in hello.entries if entry.id in executions}
        final = {id_: row.number for id_, row in rows.items() if row.final and row.sandbox == sandbox.id and id_ not in sandbox.executions}
        verdict = rules.reconcile(
            epoch=sandbox.epoch, journal_highest=self.disk.journal.highest(None) if "SEQSBX" in self.off else sandbox.highest,
            unfinished=[rules.Known(live.id, live.number) for live in sandbox.executions.values()], final=final, hello=hello,
        )  # fmt: skip
        if isinstance(verdict, rules.GiveUp):
            self.close(sandbox, link)
            self.give_up(sandbox, verdict.reason)
            return
        old, sandbox.link = sandbox.link, link
        if old is not None:
            self.close(sandbox, old)
        pipes = dict(packet.pipes)
        for id_, event in verdict.events:
            live = sandbox.executions.get(id_)
            if live is not None:
                self.executions.hear(live, event, pipes.get(id_))
        for id_ in verdict.acknowledge:
            self.executions.send(sandbox, Packet("ack", id_))
        waiting = [live for live in sandbox.executions.values() if live.machine.state is execution_rules.State.WAITING]
        sandbox.waiting.clear()
        sandbox.waiting.extend(sorted(waiting, key=lambda live: live.number))
        self.executions.pump(sandbox)


def _let_go(packet: Packet) -> None:
    """The read ends in it are closed, but for what has been taken out of it."""
    for _, pipe in packet.pipes:
        pipe.let_go(packet)
