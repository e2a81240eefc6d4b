"""What every section is given, and what it has to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from scripts.benchmarks.arena import Arena
from scripts.benchmarks.kinds import PEERS

T = TypeVar("T")
Data = dict[str, Any]
"""A section's figures, as they are saved: JSON."""


@dataclass
class Bench:
    """One run: what it works with and how much of it is asked for.

    Args:
        rounds: in which every kind has one turn; None: as many as each section thinks right.
        peers: those that are wanted.
    """

    arena: Arena
    quick: bool = False
    rounds: int | None = None
    seed: int = 1
    peers: frozenset[str] = field(default_factory=lambda: frozenset(PEERS))

    def pick(self, full: T, quick: T) -> T:
        """How much of something: in a full run, in a quick one."""
        return quick if self.quick else full

    def rounds_or(self, full: int, quick: int) -> int:
        return self.rounds or self.pick(full, quick)

    def wants(self, peer: str) -> bool:
        return peer in self.peers


@dataclass(frozen=True)
class Section:
    """One thing that is measured.

    Args:
        name: by which it is asked for.
        title: its heading.
        measure: returns its figures.
        show: what it says of them, as lines of Markdown. `plots` are the file names of its pictures.
    """

    name: str
    title: str
    measure: Callable[[Bench], Data]
    show: Callable[[Data], list[str]]
    plots: tuple[str, ...] = ()
