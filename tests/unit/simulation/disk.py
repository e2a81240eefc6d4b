"""What outlives a server: the journal and the spool. A commit is one step; a server can die before and after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from remote_env.protocol import Outcome
from server.machines.sandbox import LIVE, State
from tests.unit.simulation.bodies import SESSION
from tests.unit.simulation.pipe import SpoolFile


class ServerDied(Exception):
    """kill -9 between two instructions."""


class CommitFailed(Exception):
    """The disk refused; whether the commit took effect is unknown. The server starts again from what the journal says."""


@dataclass(frozen=True)
class SandboxRow:
    id: str
    state: State
    epoch: str | None = None
    pid: int | None = None  # of its init, as the engine has it
    reason: str | None = None
    ended_at: float | None = None


@dataclass(frozen=True)
class Final:
    """A final row. `kept` stands for the kept bytes' sha256: what they are is in the spool alone."""

    outcome: Outcome
    total: int
    kept: tuple[int | None, ...]


@dataclass(frozen=True)
class ExecutionRow:
    id: str
    sandbox: str
    number: int
    epoch: str
    kind: Literal["run", "fence"]
    body: str
    accepted_at: float
    cancelling: bool = False
    final: Final | None = None
    expired: bool = False
    session: str | None = None  # the one that it is a command of

    @property
    def opens(self) -> bool:
        """Whether it is a session."""
        return self.kind == "run" and self.body == SESSION


@dataclass
class Journal:
    """The rows. `name` changes with every new journal; `boot` is the machine's boot that it was last used in."""

    name: int
    boot: int | None = None
    sandboxes: dict[str, SandboxRow] = field(default_factory=dict)
    executions: dict[str, ExecutionRow] = field(default_factory=dict)
    renewals: dict[str, float] = field(default_factory=dict)  # FRESHLEASE off: terms outlive the server

    def copy(self) -> Journal:
        return Journal(self.name, self.boot, dict(self.sandboxes), dict(self.executions), dict(self.renewals))

    def live_sandboxes(self) -> list[SandboxRow]:
        return [row for row in self.sandboxes.values() if row.state in LIVE]

    def unfinished(self, sandbox: str) -> list[ExecutionRow]:
        return [row for row in self.executions.values() if row.sandbox == sandbox and row.final is None and not row.expired]

    def highest(self, sandbox: str | None) -> int:
        """The highest number of that sandbox; of all of them for `None` (SEQSBX off)."""
        return max((row.number for row in self.executions.values() if sandbox in (None, row.sandbox)), default=0)


class Disk:
    """Args:
    off: names of rules that are not kept.
    """

    def __init__(self, off: frozenset[str]) -> None:
        self.off = off
        self.journal = Journal(1)
        self.journals = 1  # how many there have been
        self.copied = self.journal.copy()  # the first copy is of the beginning, before there was any sandbox
        self.spool: dict[str, SpoolFile] = {}
        self.crash_in: int | None = None  # a server dies after so many more instructions
        self.next_commit_fails: Literal["with effect", "without effect"] | None = None

    def tick(self) -> None:
        """A server's next instruction; it may be its last."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.crash_in = None
                raise ServerDied

    def commit(self, change: Callable[[Journal], None]) -> None:
        self.tick()
        fails, self.next_commit_fails = self.next_commit_fails, None
        if fails != "without effect":
            change(self.journal)
        if fails is not None:
            raise CommitFailed
        self.tick()

    def busy(self, session: str) -> bool:
        """Whether a command of it has not ended."""
        return any(row.session == session and row.final is None for row in self.journal.executions.values())

    def wipe(self) -> None:
        self.journals += 1
        self.journal = Journal(self.journals)

    def file(self, id_: str) -> SpoolFile:
        found = self.spool.get(id_)
        if found is None:
            found = self.spool[id_] = SpoolFile(ring="APPEND" in self.off)
        return found
