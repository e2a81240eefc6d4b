"""What a row of the matrix is, and the list of all rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tests.faults.matrix.arena import Arena

Part = Literal["transport", "network", "server", "journal", "clock", "sandbox", "engine"]
Told = Literal["not run", "unknown", "lost", "cut off"]

FULL_COMMANDS = 200
SHORT_COMMANDS = 16


@dataclass(frozen=True)
class Row:
    """One way in which things break.

    Args:
        name: short, for the command line.
        title: what breaks, for people.
        injected: how it is done.
        allows: what a caller may be told in place of a result. "not run" is always an honest answer only where it is
            listed; "unknown" and "lost" are failures of the promise where they are not. "cut off": a result whose output
            ends before its end, and says so.
        commands: of the full run, at least; `short`: of the version in the test suite.
        peers: whether other clients stand beside ours in this row.
        peer_commands: how many the others get; None: as many.
        engine: the row needs an engine of its own, which it hurts.
        own_count: each call's right number of runs is checked by the row itself (`Arena.expect_runs`).
    """

    name: str
    title: str
    injected: str
    part: Part
    run: Callable[[Arena], None] = field(repr=False)
    allows: frozenset[Told] = frozenset()
    commands: int = FULL_COMMANDS
    short: int = SHORT_COMMANDS
    peers: bool = False
    engine: Literal["shared", "private", "private, no live-restore"] = "shared"
    peer_commands: int | None = None


ROWS: dict[str, Row] = {}


def row(
    name: str,
    title: str,
    injected: str,
    part: Part,
    *,
    allows: tuple[Told, ...] = (),
    commands: int = FULL_COMMANDS,
    short: int = SHORT_COMMANDS,
    peers: bool = False,
    engine: Literal["shared", "private", "private, no live-restore"] = "shared",
    peer_commands: int | None = None,
) -> Callable[[Callable[[Arena], None]], Callable[[Arena], None]]:
    """Adds the decorated function to the matrix: it gets an arena, breaks something in it, and drives its commands."""

    def add(run: Callable[[Arena], None]) -> Callable[[Arena], None]:
        assert name not in ROWS, f"there are two rows called {name}"
        ROWS[name] = Row(name, title, injected, part, run, frozenset(allows), commands, short, peers, engine, peer_commands)
        return run

    return add
