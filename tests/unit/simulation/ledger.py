"""What really happened, and the promises that it is held against.

The ledger is told every start, every ending and every answer by the simulated world. It knows more than any part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from server.messages import Ending
from tests.unit.simulation.talks import Talk

PROMISES = {
    "P1": "At-most-once",
    "P2": "True-results",
    "P3": "Never-ran-means-never",
    "P4": "Nothing-lost",
    "P5": "Lost-only-where-something-failed",
    "P6": "Everything-ends",
    "P7": "What-is-left-behind-lives-on",  # the design's word about background processes
    "P8": "One-command-at-a-time-in-a-session-that-lives",
    "table": "The-tables-know-what-comes",
}


class BrokenPromise(AssertionError):
    """A promise does not hold. `promise` is its number."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"broke {promise} {PROMISES[promise]}: {what}")
        self.promise = promise


def broken(promise: str, what: str) -> NoReturn:
    raise BrokenPromise(promise, what)


@dataclass
class Command:
    """The truth about one id."""

    id: str
    starts: int = 0
    body: str | None = None  # what was started
    ending: Ending | None = None
    ended_at: float | None = None
    written: int = 0  # bytes, by itself and what it left behind
    own_bytes: int = 0  # bytes until it ended
    said: bool = False  # its ending is in the queue of a link that the server reads
    never: str | None = None  # who was told that it did not run and never will
    cancel_asked: bool = False
    cancel_told: bool = False
    spoilt: bool = False  # what was kept of its output has been damaged on disk
    session: str | None = None  # the one that it was started in


@dataclass
class Ledger:
    """Everything, by execution id; and what has failed, for whom (`None`: for everybody)."""

    commands: dict[str, Command] = field(default_factory=dict)
    failed: dict[str | None, set[str]] = field(default_factory=lambda: {None: set()})
    removed: set[str] = field(default_factory=set)  # sandboxes whose end a client was told of
    talks: dict[str, Talk] = field(default_factory=dict)  # of each session
    busy: Callable[[str], bool] = lambda session: False  # whether the journal has a command of it that has not ended

    def command(self, id_: str) -> Command:
        known = self.commands.get(id_)
        if known is None:
            known = self.commands[id_] = Command(id_)
        return known

    def fails(self, what: str, sandbox: str | None = None) -> None:
        self.failed.setdefault(sandbox, set()).add(what)

    def failures(self, sandbox: str) -> set[str]:
        return self.failed[None] | self.failed.get(sandbox, set())

    # --------------------------------------------------------------------------------------------- inside

    def started(self, id_: str, body: str, session: str | None = None) -> None:
        command = self.command(id_)
        if session is not None:
            self._in_session(id_, session)
            command.session = session
        command.starts += 1
        if command.starts > 1:
            broken("P1", f"command {id_} started {command.starts} times")
        command.body = body
        if command.never is not None:
            broken("P3", f"{command.never} was told that {id_} did not run and never will; it started")

    def _in_session(self, id_: str, session: str) -> None:
        if self.command(session).ending is not None:
            broken("P8", f"{id_} runs in {session}, which is over")
        for other in self._running_in(session):
            broken("P8", f"{id_} runs in {session}, beside {other}")

    def _running_in(self, session: str) -> list[str]:
        return [each.id for each in self.commands.values() if each.session == session and each.starts and each.ending is None]

    def accepted(self, id_: str, session: str, *, over: bool, sandbox: str) -> None:
        """A command was let in. `over`: the journal has the session's end."""
        if over:
            broken("P8", f"{id_} was accepted for {session}, whose end is committed")
        if self.command(session).cancel_told and "journal" not in self.failures(sandbox):
            broken("P8", f"{id_} was accepted for {session} after the answer that it is being closed")

    def talk(self, session: str) -> Talk:
        return self.talks.setdefault(session, Talk())

    def says(self, session: str, author: str | None) -> int:
        """A byte is written to a session's pipe, by a command of it or by what runs in the background (None)."""
        return self.talk(session).says(author, between=author is None and not self.busy(session))

    def ended(self, id_: str, ending: Ending, now: float) -> None:
        command = self.command(id_)
        command.ending, command.ended_at, command.own_bytes = ending, now, command.written
        if id_ in self.talks:
            self.talks[id_].ends()
            for left in self._running_in(id_):
                broken("P8", f"{id_} is over, and {left} runs on in it")

    def container_started(self, sandbox: str) -> None:
        if sandbox in self.removed and "journal" not in self.failures(sandbox):
            broken("P6", f"the client was told that {sandbox} is removed; it has a container again, which nobody asked for")

    def never_ran(self, id_: str, who: str) -> None:
        command = self.command(id_)
        if command.starts:
            broken("P3", f"{who} was told that {id_} did not run and never will; it had started")
        command.never = who
