"""All parts together: one world in which every step is somebody's choice, and what happens when nothing fails any more."""

from __future__ import annotations

from collections.abc import Callable

from remote_env import delivery
from remote_env.protocol import Execution, Problem
from server.machines import execution as execution_rules
from server.machines.sandbox import State
from server.problems import ProblemError
from tests.unit.simulation.bodies import FLOOD, NEVER_END, SESSION
from tests.unit.simulation.clients import OPEN, Call, Clients
from tests.unit.simulation.disk import CommitFailed, Disk, ServerDied
from tests.unit.simulation.engine import Container, Engine
from tests.unit.simulation.init import TIMEOUT_S, Init, Link, Packet
from tests.unit.simulation.ledger import Ledger, broken
from tests.unit.simulation.network import Message
from tests.unit.simulation.server.executions import LiveSandbox
from tests.unit.simulation.server.requests import Refusal, Server

LONG_S = 10.0  # within which an init that can connect has done so
ROUNDS = 60  # in which everything must have ended after the last fault


class World:
    """Begins with one sandbox that runs and is linked, and a caller who knows its epoch.

    Args:
        off: names of rules that nobody keeps.
    """

    def __init__(self, off: frozenset[str] = frozenset()) -> None:
        self.off = off
        self.now = 0.0
        self.boot = 1
        self.ledger = Ledger()
        self.disk = Disk(off)
        self.ledger.busy = self.disk.busy
        self.engine = Engine(self.ledger, off)
        self.clients = Clients(self.ledger, self.disk, off)
        self.network: list[Message] = []
        self.asleep = False  # nobody renews a lease
        self.sent: list[tuple[Link, Packet]] = []  # every run that was ever sent
        self.links = 0
        self.server: Server | None = None
        self.settled_at: float | None = None
        self.start_server()
        self.make_sandbox("s0")
        self.sent.clear()

    def make_sandbox(self, sandbox: str) -> None:
        self.arrives(Message(sandbox, "create", "", sandbox))
        assert self.server is not None
        live = self.server.live[sandbox]
        self.server.make(live)
        self.connect(sandbox)
        self.server.read(live)
        self.clients.epochs[sandbox] = self.server.epoch(live)

    # ------------------------------------------------------------------------------------------------ the server

    def start_server(self) -> None:
        self.disk.crash_in = None
        try:
            self.server = Server(
                disk=self.disk, engine=self.engine, ledger=self.ledger, off=self.off, boot=self.boot, clock=lambda: self.now,
                sent=lambda link, packet: self.sent.append((link, packet)),
            )  # fmt: skip
        except CommitFailed:
            return
        self._serve(self.server.look_at_leases)

    def server_dies(self) -> None:
        """What it has sent outlives it: an init may read on."""
        server, self.server = self.server, None
        self.disk.crash_in = self.disk.next_commit_fails = None
        if server is not None:
            server.cut()
            for command in self.ledger.commands.values():
                command.said = False  # who has not written it down has not heard it

    def _serve(self, work: Callable[[], object]) -> object:
        """Let the server do something; it may die of it. Returns what the work returned, or ServerDied."""
        try:
            return work()
        except (ServerDied, CommitFailed):
            self.server_dies()
            return ServerDied
        except execution_rules.InvalidTransition as error:
            broken("table", str(error))

    def of_server(self, sandbox: str) -> LiveSandbox | None:
        return None if self.server is None else self.server.live.get(sandbox)

    def serve(self, sandbox: str, work: Callable[[Server, LiveSandbox], object]) -> object:
        """Let the server do something about a sandbox that it knows; None where it does not."""
        server, live = self.server, self.of_server(sandbox)
        if server is None or live is None:
            return None
        return self._serve(lambda: work(server, live))

    # ------------------------------------------------------------------------------------------------ requests

    def arrives(self, message: Message, *, answer: bool = True, busy: bool = False, mixed: str | None = None) -> None:
        """One copy of a request reaches the server. `answer`: so does its answer the caller; `mixed`: with another one's."""
        server = self.server
        assert server is not None
        caller = message.caller
        try:
            said: Execution | State | Problem | None = server.handle(message, busy)
            if mixed is not None and mixed in self.disk.journal.executions:
                said = server.show(mixed)
        except Refusal as refusal:
            said = refusal.problem()
        except ProblemError as error:
            said = error.problem
        except CommitFailed:
            said = Problem.of("commit_failed", "")
            self.server_dies()
        except ServerDied:
            answer = False
            self.server_dies()
        except execution_rules.InvalidTransition as error:
            broken("table", str(error))
        if answer and message.verb == "delete" and _is_gone(said):
            self.ledger.removed.add(message.sandbox)
        if caller is None or caller.waits_for is not message:
            return
        if not answer:
            self.clients.happens(caller, delivery.Broken(self.now, "no answer came"))
        elif isinstance(said, Problem):
            self.clients.refused(caller, said, self.now)
        else:
            assert isinstance(said, Execution)
            self.clients.answered(caller, said, self.now)

    def request(self, call: Call) -> bool:
        """The caller makes its next request, when it is time for it."""
        if call.next is None:
            return False
        self.pass_time(max(0.0, call.due - self.now))
        message = call.message()
        if self.server is None:
            self.clients.happens(call, delivery.NothingSent(self.now, "connection refused"))
        else:
            self.network.append(message)
        return True

    def cancel(self, id_: str, sandbox: str, epoch: str) -> None:
        """Somebody asks for the end of a command, or of a session."""
        self.ledger.command(id_).cancel_asked = True
        self.arrives(Message(id_, "cancel", id_, sandbox, epoch))

    def close_session(self, call: Call) -> None:
        """Its caller closes it, and waits for its end."""
        assert call.epoch is not None
        self.cancel(call.id, call.sandbox, call.epoch)
        self.follow(call)

    def follow(self, call: Call) -> None:
        """The caller of a session that is open waits for its end."""
        self.clients.calls[call.id] = Call(call.id, call.sandbox, call.epoch, call.body, self.now, fresh=False, known=True)

    # ------------------------------------------------------------------------------------------------ the inits

    def container(self, sandbox: str) -> Container | None:
        return self.engine.containers.get(sandbox)

    def init(self, sandbox: str) -> Init | None:
        container = self.container(sandbox)
        return None if container is None else container.init

    def connect(self, sandbox: str) -> bool:
        """An init without a link, or whose link is dead, comes to whoever listens."""
        container, live = self.container(sandbox), self.of_server(sandbox)
        if container is None or container.init is None or container.wedged or live is None or self.server is None:
            return False
        init = container.init
        if init.link is not None and init.link.server_end:
            return False
        self.links += 1
        self.server.connect(live, init.connect(f"link {self.links}"))
        return True

    def _read_all(self, sandbox: str) -> None:
        while self.serve(sandbox, lambda server, live: server.read(live)):
            pass

    def init_reads(self, sandbox: str, old: bool = False) -> str | None:
        init = self.init(sandbox)
        what = None if init is None else init.read(old)
        if what is not None:
            self.serve(sandbox, lambda server, live: server.executions.pump(live))
        return what

    # ---------------------------------------------------------------------------------------------------- time

    def pass_time(self, seconds: float) -> None:
        """Everybody's clocks go on; heartbeats and what the server looks at regularly go with them."""
        if not seconds:
            return
        if seconds > LONG_S:
            for sandbox in list(self.engine.containers):
                self._read_all(sandbox)
                self.connect(sandbox)
                self._read_all(sandbox)
        self.now += seconds
        for container in list(self.engine.containers.values()):
            init = container.init
            served = self.server is not None and init is not None and init.link is not None and init.link.server_end
            if init is not None and init.tick(self.now, served):
                self.engine.kill(container)
                self.ledger.fails("container", container.sandbox)
        server = self.server
        if server is not None:
            if not self.asleep:
                for sandbox in server.live:
                    server.renew(sandbox)
            elif any(live.state is State.RUNNING for live in server.live.values()):
                for sandbox in server.live:
                    self.ledger.fails("removed", sandbox)  # nobody spoke for it: it may go
            self._serve(server.look_at_leases)
            if self.server is server:
                server.retire()

    # ------------------------------------------------------------------------------------------------- promises

    def check(self) -> None:
        """What must hold at every moment, beside what the ledger is told as it happens."""
        server = self.server
        if server is None:
            return
        busy: dict[str, str] = {}
        for row in self.disk.journal.executions.values():
            if row.final is not None or row.expired:
                continue
            if row.id not in server.executions.live:
                broken("P6", f"{row.id} is accepted and nobody looks after it")
            if row.session is not None and busy.setdefault(row.session, row.id) != row.id:
                broken("P8", f"{row.id} and {busy[row.session]} are both accepted for {row.session}")

    def settle(self) -> None:
        """No more faults. Everything must come to its end now, late copies included; and once nobody speaks for the
        sandboxes any more, nothing may be left of them."""
        self.settled_at = self.now
        self.asleep = self.engine.away = False
        self.disk.crash_in = self.disk.next_commit_fails = None
        for number in range(ROUNDS):
            self._round()
            self._close_sessions()
            self.check()
            self.pass_time(5.0 if number < 10 else 40.0)
            if self.unsettled() is None:
                break
        else:
            broken("P6", f"{self.unsettled()}, though nothing fails any more")
        self._no_cancel_is_forgotten()
        self.asleep = True
        for _ in range(6):
            self.pass_time(200.0)
            self._round()
            if not self.engine.containers:
                return
        broken("P6", f"{sorted(self.engine.containers)}: nobody speaks for it any more, and it runs for ever")

    def _round(self) -> None:
        """Everybody does once what there is to do; the clock goes on a little, or far where all wait for it."""
        if self.server is None:
            self.start_server()
        for message in list(self.network):
            self.network.remove(message)
            if self.server is not None:
                self.arrives(message)
        for sandbox in sorted(self.engine.containers):
            self._round_inside(sandbox)
        server = self.server
        assert server is not None
        for sandbox, live in list(server.live.items()):
            self._serve(lambda live=live: server.make(live))  # type: ignore[misc]
            self._read_all(sandbox)
            for execution in list(live.executions.values()):
                self._drain(execution.id)
            server.look(live)
            self._serve(lambda live=live: server.finish(live))  # type: ignore[misc]
        self._serve(server.sweep)
        for call in list(self.clients.calls.values()):
            self.request(call)

    def _close_sessions(self) -> None:
        """Once all their commands are told. One whose end was asked for before comes to it by itself, unless a journal that was
        set back has forgotten that."""
        if any(call.told is None and call.body != SESSION for call in self.clients.calls.values()):
            return
        for call in list(self.clients.calls.values()):
            if call.told == OPEN:
                (self.close_session if self._unfinished(call.id) else self.follow)(call)
        for row in list(self.disk.journal.executions.values()):
            if not row.opens or row.final is not None or row.expired:
                continue
            if not row.cancelling and (not self.ledger.command(row.id).cancel_told or "journal" in self.ledger.failures(row.sandbox)):
                self.cancel(row.id, row.sandbox, row.epoch)

    def _round_inside(self, sandbox: str) -> None:
        self.connect(sandbox)
        init = self.init(sandbox)
        if init is None:
            return
        if init.link is not None:
            init.link.stopped = False
        while self.init_reads(sandbox, old=True) or self.init_reads(sandbox):
            pass
        for held in (*init.running(), *init.parents()):
            init.writes(held)
            if held.running and held.body not in NEVER_END:
                init.exits(held, 0)

    def _drain(self, id_: str) -> None:
        """To the end, if it has one: what was left behind writes on all the time."""
        for _ in range(20):
            server = self.server
            live = None if server is None else server.of(id_)
            if server is None or live is None or not self._serve(lambda: server.executions.drain(live)):  # noqa: B023
                return
            init = self.init(live.sandbox.id)
            for held in init.parents() if init is not None else ():
                if held.id == id_ and held.body == FLOOD:
                    init.writes(held)  # type: ignore[union-attr]

    def unsettled(self) -> str | None:
        """What has not come to its end."""
        for call in self.clients.calls.values():
            if call.told in (None, OPEN):
                return f"{call.id}'s call never ends"
        for row in self.disk.journal.executions.values():
            if row.final is None and not row.expired:
                return f"{row.id} never ends"
        for sandbox in self.engine.containers:
            live, init = self.of_server(sandbox), self.init(sandbox)
            if live is None:
                return f"{sandbox}'s container belongs to nobody"
            if init is not None and init.table:
                return f"the init of {sandbox} holds {sorted(init.table)}"
        return None

    def _unfinished(self, id_: str) -> bool:
        row = self.disk.journal.executions.get(id_)
        return row is not None and row.final is None and not row.expired

    def _no_cancel_is_forgotten(self) -> None:
        """None that was answered: long after the last fault, its command has not run into its timeout all the same."""
        assert self.settled_at is not None
        for command in self.ledger.commands.values():
            late = command.ended_at is not None and command.ended_at > self.settled_at + TIMEOUT_S / 2
            row = self.disk.journal.executions.get(command.id)
            if not (command.cancel_told and late) or row is None or row.final is None:
                continue
            if row.final.outcome.kind == "timed_out" and "journal" not in self.ledger.failures(row.sandbox):
                broken("P4", f"a cancel of {command.id} was answered and then forgotten: it ran into its timeout")


def _is_gone(answer: Execution | State | Problem | None) -> bool:
    """Whether a DELETE was answered so that the caller knows: there is no such sandbox any more."""
    return answer is State.REMOVED or (isinstance(answer, Problem) and answer.code == "gone")
