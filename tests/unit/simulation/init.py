"""A sandbox's PID 1 as a model, and its link. What it must do is in the protocol: REFUSE, ONELINK, KEEPEND, AFTERLIFE.

A session is a shell with one pipe, which its commands write to as well: one after the other, each until its own end.
"""

from __future__ import annotations

import errno
import math
from collections import deque
from dataclasses import dataclass, replace

from server.messages import Cause, Ending, EndingFlag, EndingKind, Entry, Hello, Stage
from tests.unit.simulation.bodies import DAEMON, LEAVE_CHILDREN, LEAVING, LEFT_BYTES, SESSION, STUBBORN
from tests.unit.simulation.ledger import Ledger, broken
from tests.unit.simulation.pipe import Pipe

ROOM = 3  # packets that a link holds before it takes no more runs
TIMEOUT_S = 100.0  # of every command; the init's business alone
DAY_S = 86400.0  # an init that had no server for so long ends its sandbox


@dataclass(frozen=True, eq=False)
class Packet:
    """Read ends in it are held by it as long as it is in a queue."""

    verb: str  # run skip kill ack | hello started ended stale
    id: str = ""
    number: int = 0
    body: str = ""
    session: str | None = None
    ending: Ending | None = None
    hello: Hello | None = None
    pipes: tuple[tuple[str, Pipe], ...] = ()


class Link:
    """A connection between an init and a server; either end can be gone before the other notices."""

    __slots__ = ("init_end", "name", "server_end", "stopped", "to_init", "to_server")

    def __init__(self, name: str) -> None:
        self.name = name
        self.to_init: deque[Packet] = deque()
        self.to_server: deque[Packet] = deque()
        self.init_end = self.server_end = True
        self.stopped = False  # the init does not read just now


class Held:
    """A line of the init's table: what runs, or has an ending that is not acknowledged. A session has a `command` until that is
    acknowledged."""

    __slots__ = ("body", "child", "command", "deadline", "ending", "id", "left", "number", "pipe", "session")

    def __init__(self, id_: str, number: int, body: str, pipe: Pipe | None, deadline: float) -> None:
        self.id, self.number, self.body, self.pipe, self.deadline = id_, number, body, pipe, deadline
        self.ending: Ending | None = None
        self.child = False  # something it left behind is alive
        self.left = LEFT_BYTES
        self.session: Held | None = None  # the one that it is a command of
        self.command: Held | None = None

    @property
    def running(self) -> bool:
        return self.ending is None


class Init:
    """Args:
    incarnation: which one this is; its epoch is made of it.
    off: names of rules that it does not keep.
    """

    def __init__(self, sandbox: str, incarnation: int, ledger: Ledger, off: frozenset[str], now: float) -> None:
        self.sandbox = sandbox
        self.incarnation = f"incarnation {incarnation:04}".encode()
        self.ledger = ledger
        self.off = off
        self.highest = 0
        self.table: dict[str, Held] = {}
        self.behind: list[Held] = []  # acknowledged and forgotten; what they left behind lives on
        self.link: Link | None = None
        self.old: list[Link] = []  # ONELINK off: older links that are still read
        self.served_at = now
        self.now = now

    # ---------------------------------------------------------------------------------------------- its link

    def connect(self, name: str) -> Link:
        """ONELINK: the old socket is closed, with all that is unread in it, before the table is written."""
        if self.link is not None:
            self.link.init_end = False
            if "ONELINK" in self.off:
                self.old.append(self.link)
            else:
                self.link.to_init.clear()
        self.link = Link(name)
        entries = tuple(Entry(held.id, held.number, 0, held.ending) for held in self.table.values())
        hello = Hello(1, self.incarnation, bytes(16), self.highest, 0, entries)
        pipes = tuple((held.id, held.pipe) for held in self.table.values() if held.pipe is not None)
        self.say([Packet("hello", hello=hello, pipes=pipes)])
        return self.link

    def lose_link(self) -> None:
        """Its own end is closed: what it has not read is void, unless ONELINK is off."""
        if self.link is not None:
            self.link.init_end = False
            if "ONELINK" in self.off:
                self.old.append(self.link)
            else:
                self.link.to_init.clear()
            self.link = None

    def read(self, old: bool = False) -> str | None:
        """Take one packet; returns what it was, None where there is none."""
        link = next((each for each in self.old if each.to_init), None) if old else self.link
        if link is None or not link.to_init or (link.stopped and not old):
            return None
        packet = link.to_init.popleft()
        self.say(self.take(packet))
        return f"{packet.verb} {packet.id}"

    def say(self, packets: list[Packet]) -> None:
        link = self.link
        if link is not None and link.server_end:
            for packet in packets:
                link.to_server.append(packet)
                for _, pipe in packet.pipes:
                    pipe.hold(packet)

    def take(self, packet: Packet) -> list[Packet]:
        if packet.verb in ("run", "skip"):
            if packet.number <= self.highest and "REFUSE" not in self.off:
                return [Packet("stale", packet.id, packet.number)]
            self.highest = max(self.highest, packet.number)
            if packet.verb == "skip":
                self.table[packet.id] = Held(packet.id, packet.number, "", None, 0)
                return self.end(self.table[packet.id], Ending(EndingKind.SKIPPED))
            return self._run(packet)
        known = self.table.get(packet.id)
        if packet.verb == "kill" and known is not None and known.running:
            return self._cut_short(known, Cause.CANCEL)
        if packet.verb == "ack" and known is not None and not known.running:
            self.forget(known)
        return []

    # ------------------------------------------------------------------------------------------- its commands

    def _run(self, packet: Packet) -> list[Packet]:
        shell = None if packet.session is None else self.table.get(packet.session)
        deadline = math.inf if packet.body == SESSION else self.now + TIMEOUT_S
        held = self.table[packet.id] = Held(packet.id, packet.number, packet.body, None, deadline)
        if packet.session is not None:
            error = self._refuses(shell)
            if shell is None or error:
                return self.end(held, Ending(EndingKind.FAILED_TO_START, stage=Stage.SESSION, status=error))
            held.session, shell.command = shell, held
        held.pipe = Pipe() if shell is None or shell.pipe is None else shell.pipe
        held.pipe.hold(self)
        self.ledger.started(packet.id, packet.body, packet.session)
        self.writes(held)  # every command says something at once
        return [Packet("started", packet.id, packet.number, pipes=((packet.id, held.pipe),))]

    def _refuses(self, shell: Held | None) -> int:
        """Why a session takes no command, as an errno; 0: it does."""
        if shell is None:
            return errno.ENOENT
        if not shell.running and "SHELLGONE" not in self.off:
            return errno.ESRCH
        return errno.EBUSY if shell.command is not None else 0

    def _cut_short(self, held: Held, cause: Cause) -> list[Packet]:
        """By a kill or a timeout. A shell that cannot be brought to end its command ends with it."""
        shell = held.session
        if held.body == SESSION or (shell is not None and held.body == STUBBORN):
            for child in self.parents():
                child.child = child.child and child.session is not (shell or held)
        if shell is None or held.body != STUBBORN or not shell.running:
            return self.end(held, _killed(cause))
        killed = _killed(cause)
        said = self.end(held, replace(killed, flags=killed.flags | EndingFlag.SESSION_OVER))
        return said + self.end(shell, Ending(EndingKind.EXITED, status=9, flags=EndingFlag.KILLED_BY_US))

    def shell_dies(self, shell: Held, status: int) -> None:
        self.say(self.end(shell, Ending(EndingKind.EXITED, status=status)))

    def running(self) -> list[Held]:
        return [held for held in self.table.values() if held.running]

    def parents(self) -> list[Held]:
        """What has left something behind that is alive."""
        return [held for held in (*self.table.values(), *self.behind) if held.child]

    def end(self, held: Held, ending: Ending) -> list[Packet]:
        """KEEPEND: the read end is kept until the ack. A shell's end is its command's as well, and that is told first."""
        said: list[Packet] = []
        if held.command is not None and held.command.running and "BOTHEND" not in self.off:
            said = self.end(held.command, replace(ending, flags=ending.flags | EndingFlag.SESSION_OVER))
        held.ending = ending
        if ending.kind is EndingKind.EXITED:
            held.child = held.body in LEAVE_CHILDREN and not ending.flags & EndingFlag.KILLED_BY_US
        self.ledger.ended(held.id, ending, self.now)
        if held.pipe is not None and "KEEPEND" in self.off:
            held.pipe.let_go(self)
        if self.link is not None and self.link.server_end:
            self.ledger.command(held.id).said = True
        return [*said, Packet("ended", held.id, held.number, ending=ending)]

    def exits(self, held: Held, code: int) -> None:
        flags = EndingFlag.OUTPUT_OPEN if held.body in LEAVE_CHILDREN else EndingFlag(0)
        if held.body == LEAVING and held.session is not None:
            self.shell_dies(held.session, code << 8)
            return
        self.say(self.end(held, Ending(EndingKind.EXITED, status=code << 8, flags=flags)))

    def kill_all(self) -> None:
        """`kill -9 -1` inside: the running commands and all that was left behind; not this init."""
        for held in self.running():
            if held.running:
                self.say(self.end(held, Ending(EndingKind.EXITED, status=9, flags=EndingFlag.RUNNER_KILLED)))
        for held in self.parents():
            held.child = False

    def forget(self, held: Held) -> None:
        """AFTERLIFE: after the ack its runner reads and throws away, so that what was left behind can go on writing."""
        del self.table[held.id]
        if held.session is not None and held.session.command is held:
            held.session.command = None
        if held.pipe is not None:
            children = held.session is None and (held.child or any(child.session is held for child in self.parents()))
            if children and "AFTERLIFE" not in self.off:
                held.pipe.hold("runner")
            held.pipe.let_go(self)
        if held.child:
            self.behind.append(held)

    def writes(self, held: Held) -> bool:
        """Its command, or what that left behind, writes one byte; False where it has to wait. What a session's shell writes is
        of something in the background that it began with."""
        pipe = held.pipe
        if pipe is None or not (held.running or held.child):
            return False
        if held.child and held.body == DAEMON and not held.left:
            return False
        if not pipe.holders:
            broken("P7", f"what {held.id} left behind was killed by SIGPIPE: nobody reads its output any more")
        if "runner" in pipe.holders:
            pipe.queue.clear()
        if pipe.full:
            return False
        command = self.ledger.command(held.id)
        if held.session is not None or held.body == SESSION:
            byte = self.ledger.says((held.session or held).id, held.id if held.session is not None and held.running else None)
        else:
            byte = command.written
        pipe.queue.append(byte)
        command.written += 1
        held.left -= not held.running
        return True

    def tick(self, now: float, served: bool) -> bool:
        """Its clocks. True: it ends its sandbox, since no server has come for a day."""
        self.now = now
        if served:
            self.served_at = now
        if "INITCLOCK" not in self.off or served:  # off: the server keeps the clock, and its word is needed
            for held in self.running():
                if held.running and now >= held.deadline:
                    self.say(self._cut_short(held, Cause.TOTAL))
        for held in self.running():
            if now >= held.deadline:
                broken("P6", f"{held.id} runs beyond its timeout: nobody is there to end it")
        return now - self.served_at > DAY_S


def _killed(cause: Cause) -> Ending:
    return Ending(EndingKind.EXITED, cause=cause, status=9, flags=EndingFlag.KILLED_BY_US)
