"""A small world: the journal's rows, the real execution machines and hello rules, a link that breaks, a model init.

Everything that has a will of its own is a step: the init takes one packet, the server takes one packet, a command ends,
the link breaks, the server dies (also between two instructions), a copy of a POST arrives late. After each step the
promises are checked; they are broken by raising `BrokenPromise`, with the history that led there.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from server.machines import execution as rules
from server.machines import sandbox as sandbox_rules
from server.machines.execution import ExecutionMachine, State
from server.messages import Ending, EndingKind, Entry, Hello

EPOCH = b"incarnation 0001"
ROOM = 3  # packets that a link holds before it takes no more runs


class BrokenPromise(AssertionError):
    """One of protocol.md's promises does not hold."""


class ServerDied(Exception):
    """kill -9 between two instructions."""


@dataclass(frozen=True)
class Row:
    number: int
    kind: Literal["run", "fence"]
    cancelling: bool = False
    final: tuple[str, object] | None = None  # ("ended", Ending) or ("lost", reason)


@dataclass(frozen=True)
class Packet:
    verb: str  # run skip kill ack | hello started ended stale
    id: str = ""
    number: int = 0
    ending: Ending | None = None
    hello: Hello | None = None


@dataclass
class Link:
    to_init: deque[Packet] = field(default_factory=deque)
    to_server: deque[Packet] = field(default_factory=deque)
    broken: bool = False
    stopped: bool = False  # the init does not read just now


class ModelInit:
    """Takes runs and skips in order, refuses numbers that it has taken, keeps each ending until its ack.

    Args:
        refuse: REFUSE is kept. Off only to see that its absence is noticed.
    """

    def __init__(self, refuse: bool = True) -> None:
        self.refuse = refuse
        self.highest = 0
        self.table: dict[str, Entry] = {}
        self.started: Counter[str] = Counter()
        self.truth: dict[str, Ending] = {}
        self.stale = 0

    def hello(self) -> Hello:
        return Hello(1, EPOCH, bytes(16), self.highest, 0, tuple(self.table.values()))

    def take(self, packet: Packet) -> list[Packet]:
        if packet.verb in ("run", "skip"):
            if self.refuse and packet.number <= self.highest:
                self.stale += 1
                return [Packet("stale", packet.id, packet.number)]
            self.highest = max(self.highest, packet.number)
            self.table[packet.id] = Entry(packet.id, packet.number, 1, None)
            if packet.verb == "skip":
                return self.end(packet.id, Ending(EndingKind.SKIPPED))
            self.started[packet.id] += 1
            return [Packet("started", packet.id, packet.number)]
        if packet.verb == "kill" and packet.id in self.running():
            return self.end(packet.id, Ending(EndingKind.EXITED, status=9))
        if packet.verb == "ack":
            del self.table[packet.id]
        return []

    def running(self) -> list[str]:
        return [id_ for id_, entry in self.table.items() if entry.ending is None]

    def end(self, id_: str, ending: Ending) -> list[Packet]:
        self.truth[id_] = ending
        self.table[id_] = replace(self.table[id_], ending=ending)
        return [Packet("ended", id_, self.table[id_].number, ending)]


class Server:
    """What `executions.py` and `hellos.py` do with a machine's instructions, one at a time. Its memory dies with it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.machines = {id_: ExecutionMachine(row.kind, row.cancelling) for id_, row in world.journal.items() if row.final is None}
        self.endings: dict[str, Ending] = {}
        self.draining: list[str] = []
        self.link: Link | None = None  # one whose hello was accepted

    def apply(self, id_: str, event: rules.Event) -> None:
        machine = self.machines[id_]
        for instruction in machine.handle(event):
            self.world.tick()
            row = self.world.journal[id_]
            if isinstance(instruction, rules.SendRun):
                if not self.send(Packet("run", id_, row.number)):
                    self.apply(id_, rules.NotSent())
            elif isinstance(instruction, rules.SendSkip):
                self.send(Packet("skip", id_, row.number), queue=True)
            elif isinstance(instruction, rules.SendKill):
                self.send(Packet("kill", id_), queue=True)
            elif isinstance(instruction, rules.SendAck):
                self.send(Packet("ack", id_), queue=True)
            elif isinstance(instruction, rules.TakeOutput):
                self.endings[id_] = instruction.ending
                self.draining.append(id_)
            elif isinstance(instruction, rules.CommitCancel):
                self.world.journal[id_] = replace(row, cancelling=True)
            elif isinstance(instruction, rules.CommitFinal):
                self.world.commit_final(id_, ("ended", self.endings[id_]))
            elif isinstance(instruction, rules.CommitLost):
                self.world.commit_final(id_, ("lost", instruction.reason))
        if machine.state is State.ENDED:
            self.machines.pop(id_, None)

    def send(self, packet: Packet, queue: bool = False) -> bool:
        if self.link is None or self.link.broken or (len(self.link.to_init) >= ROOM and not queue):
            return False
        self.link.to_init.append(packet)
        return True

    def pump(self) -> None:
        """ORDER: strictly by number, as long as the link takes it."""
        for id_ in sorted(self.machines, key=lambda id_: self.world.journal[id_].number):
            if self.link is None or self.link.broken:
                return
            if self.machines[id_].state is State.WAITING:
                self.apply(id_, rules.Turn())
                if self.machines[id_].state is State.WAITING:
                    return

    def take(self, link: Link, packet: Packet) -> None:
        if packet.hello is not None:
            self.reconcile(link, packet.hello)
        elif link is not self.link:
            return
        elif packet.verb == "started":
            self.apply(packet.id, rules.Started())
        elif packet.verb == "ended":
            self.apply(packet.id, rules.EndingArrived(packet.ending))
        else:
            self.world.broken("REFUSE was needed", f"{packet.id} was sent twice")

    def reconcile(self, link: Link, hello: Hello) -> None:
        journal = self.world.journal
        final = {entry.id: journal[entry.id].number for entry in hello.entries if entry.id in journal and journal[entry.id].final}
        unfinished = [sandbox_rules.Known(id_, journal[id_].number) for id_ in self.machines]
        verdict = sandbox_rules.reconcile(
            epoch=EPOCH.hex(), journal_highest=self.world.numbers, unfinished=unfinished, final=final, hello=hello
        )
        if isinstance(verdict, sandbox_rules.GiveUp):
            self.world.give_up(verdict.reason)
            return
        if self.link is not None:
            self.link.to_server.clear()
        self.link = link
        for id_, event in verdict.events:
            self.apply(id_, event)
        for id_ in verdict.acknowledge:
            self.send(Packet("ack", id_), queue=True)
        self.pump()


class World:
    """Args:
    seed: replays the same history.
    refuse: see ModelInit.
    may_die: the container may be killed; only then may anything be lost.
    """

    def __init__(self, seed: int, *, refuse: bool = True, may_die: bool = False) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.may_die = may_die
        self.journal: dict[str, Row] = {}
        self.init: ModelInit | None = ModelInit(refuse)
        self.counts = self.init
        self.links: list[Link] = []
        self.newest: Link | None = None  # the init's one link
        self.server: Server | None = Server(self)
        self.crash_in: int | None = None
        self.dead_for: str | None = None
        self.posted: set[str] = set()
        self.history: list[str] = []

    @property
    def numbers(self) -> int:
        return max((row.number for row in self.journal.values()), default=0)

    # ------------------------------------------------------------------------------------------------ promises

    def broken(self, promise: str, what: str) -> None:
        raise BrokenPromise(f"broke {promise}: {what}; seed {self.seed}: {' → '.join(self.history[-60:])}")

    def commit_final(self, id_: str, final: tuple[str, object]) -> None:
        if self.journal[id_].final is not None:
            self.broken("P2", f"{id_} got a second result")
        if final[0] == "lost" and self.init is not None:
            self.broken("P5", f"{id_} is lost ({final[1]}) and nothing failed")
        if final[0] == "ended" and final[1] != self.counts.truth.get(id_):
            self.broken("P2", f"{id_}'s result is not what the init saw")
        self.journal[id_] = replace(self.journal[id_], final=final)

    def give_up(self, reason: str) -> None:
        self.broken("P5", f"the sandbox was given up ({reason}) and nothing failed")

    def check(self) -> None:
        for id_, count in self.counts.started.items():
            if count > 1:
                self.broken("P1 (at most once)", f"{id_} was started {count} times")
        for id_, row in self.journal.items():
            skipped = row.final is not None and row.final[0] == "ended" and row.final[1] == Ending(EndingKind.SKIPPED)
            if skipped and self.counts.started[id_]:
                self.broken("P3", f"{id_} was declared never to run, and ran")
            if row.kind == "fence" and self.counts.started[id_]:
                self.broken("P3", f"{id_} was abandoned before it was known, and ran")
            if row.final is None and self.server is not None and id_ not in self.server.machines:
                self.broken("P6", f"nobody looks after {id_}")
        if self.counts.stale:
            self.broken("ORDER", "a number was sent twice")

    # --------------------------------------------------------------------------------------------------- steps

    def tick(self) -> None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                raise ServerDied

    def post(self) -> None:
        """A POST, a late copy of one, or an abandon: the first that commits the id decides what it is."""
        if self.server is None or self.init is None:
            return
        fresh = f"e{len(self.posted):03}"
        id_ = self.random.choice([*sorted(self.posted)[-3:], fresh, fresh])
        self.posted.add(id_)
        if id_ in self.journal:
            return
        kind: Literal["run", "fence"] = "fence" if self.random.random() < 0.2 else "run"
        self.journal[id_] = Row(self.numbers + 1, kind)
        self.tick()
        self.server.machines[id_] = ExecutionMachine(kind)
        self.server.pump()

    def cancel(self) -> None:
        if self.server is not None and self.server.machines:
            id_ = self.random.choice(sorted(self.server.machines))
            self.server.apply(id_, rules.CancelRequested())
            self.server.pump()

    def init_takes(self) -> None:
        link = self.newest
        if self.init is not None and link is not None and not link.stopped and link.to_init:
            link.to_server.extend(self.init.take(link.to_init.popleft()))
            if self.server is not None:
                self.server.pump()

    def command_ends(self) -> None:
        if self.init is not None and self.init.running():
            said = self.init.end(self.random.choice(self.init.running()), Ending(EndingKind.EXITED, status=self.random.randrange(256) << 8))
            if self.newest is not None and not self.newest.broken:
                self.newest.to_server.extend(said)

    def server_takes(self) -> None:
        # Oldest first: connections are taken in order, and the init closes one before it makes the next.
        link = next((link for link in self.links if link.to_server), None)
        if self.server is not None and link is not None:
            self.server.take(link, link.to_server.popleft())

    def output_taken(self) -> None:
        if self.server is not None and self.server.draining:
            id_ = self.server.draining.pop(self.random.randrange(len(self.server.draining)))
            self.server.apply(id_, rules.OutputTaken())

    def link_breaks(self) -> None:
        """What the init has not read is void; what it said may still be read by the server."""
        if self.newest is not None:
            self.newest.broken = True
            self.newest.to_init.clear()
            if self.server is not None and self.server.link is self.newest and self.random.random() < 0.5:
                self.newest.to_server.clear()
                self.server.link = None
            self.newest = None

    def init_connects(self) -> None:
        """ONELINK: the old socket is closed before the table for the next hello is written."""
        if self.init is not None and self.server is not None and (self.newest is None or self.newest.broken):
            self.newest = Link()
            self.newest.to_server.append(Packet("hello", hello=self.init.hello()))
            self.links.append(self.newest)

    def init_stops_or_goes_on(self) -> None:
        if self.newest is not None:
            self.newest.stopped = not self.newest.stopped

    def server_dies(self) -> None:
        self.server, self.crash_in = None, None  # what it has sent outlives it: the init may read on
        for link in self.links:
            link.broken = True
        self.links = []

    def server_dies_soon(self) -> None:
        self.crash_in = self.random.randrange(4)

    def server_starts(self) -> None:
        if self.server is None:
            self.server = Server(self)

    def container_dies(self) -> None:
        """Its last words are still read (the queue of its link); then what has no ending is lost."""
        if not self.may_die or self.init is None or self.server is None or self.random.random() > 0.02:
            return
        self.init = None
        self.bury()

    def bury(self) -> None:
        if self.server is None:
            return
        while any(link.to_server for link in self.links):
            self.server_takes()
        while self.server.draining:
            self.output_taken()
        for id_ in sorted(self.server.machines):
            self.server.apply(id_, rules.SandboxOver("sandbox_died"))

    def step(self) -> None:
        steps: list[Callable[[], None]] = [
            self.post, self.post, self.cancel, self.init_takes, self.init_takes, self.init_takes, self.command_ends,
            self.server_takes, self.server_takes, self.server_takes, self.output_taken, self.output_taken, self.link_breaks,
            self.init_connects, self.init_connects, self.init_stops_or_goes_on, self.server_dies, self.server_dies_soon,
            self.server_starts, self.server_starts, self.container_dies,
        ]  # fmt: skip
        chosen = self.random.choice(steps)  # faults are rarer than work, or nothing would ever get far
        if chosen in (self.link_breaks, self.server_dies, self.server_dies_soon) and self.random.random() < 0.6:
            return
        self.do(chosen)

    def do(self, step: Callable[[], None]) -> None:
        self.history.append(step.__name__)
        try:
            step()
        except ServerDied:
            self.server_dies()
        except rules.InvalidTransition as error:
            self.broken("the table", str(error))
        self.check()

    def settle(self) -> None:
        """No more faults: everything accepted must now come to its end (P6), the init holds nothing any more."""
        self.crash_in = None
        self.do(self.server_starts)
        if self.newest is not None and self.newest.stopped:
            self.do(self.init_stops_or_goes_on)
        for _ in range(20 * (len(self.journal) + 5)):
            if self.init is None:
                self.do(self.bury)
            for step in (self.init_connects, self.server_takes, self.init_takes, self.output_taken, self.command_ends):
                self.do(step)
            if all(row.final for row in self.journal.values()) and (self.init is None or not self.init.table):
                break
        unfinished = [id_ for id_, row in self.journal.items() if row.final is None]
        if unfinished:
            self.broken("P6", f"{unfinished} never ended")
        if self.init is not None and self.init.table:
            self.broken("P6", f"the init holds {sorted(self.init.table)} for ever")
        for id_, row in self.journal.items():
            assert row.final is not None
            if row.final[0] == "ended" and row.kind == "run" and not row.cancelling and not self.counts.started[id_]:
                self.broken("P4", f"{id_} ended and never ran")


def run(seed: int, steps: int = 150, **world: bool) -> World:  # raises BrokenPromise
    simulated = World(seed, **world)
    for _ in range(steps):
        simulated.step()
    simulated.settle()
    return simulated
