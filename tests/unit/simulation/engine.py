"""Containers, and an engine that can be away. A sandbox has one container at a time: its name is the sandbox's."""

from __future__ import annotations

from tests.unit.simulation.init import Init
from tests.unit.simulation.ledger import Ledger


class EngineAway(Exception):
    """It does not answer."""


class Container:
    __slots__ = ("init", "number", "pid", "sandbox", "wedged")

    def __init__(self, sandbox: str, number: int) -> None:
        self.sandbox, self.number = sandbox, number
        self.init: Init | None = None  # None: it does not run
        self.pid = 0
        self.wedged = False  # its init can connect no more


class Engine:
    """Every container is labelled ours. Methods that a server calls raise EngineAway while the engine is away."""

    def __init__(self, ledger: Ledger, off: frozenset[str]) -> None:
        self.ledger, self.off = ledger, off
        self.containers: dict[str, Container] = {}
        self.away = False
        self._containers = self._inits = 0

    def _answer(self) -> None:
        if self.away:
            raise EngineAway

    def create(self, sandbox: str, now: float) -> Container | None:
        """A container that runs; None where its name is taken."""
        self._answer()
        if sandbox in self.containers:
            return None
        self._containers += 1
        container = self.containers[sandbox] = Container(sandbox, self._containers)
        self.start(container, now)
        return container

    def start(self, container: Container, now: float) -> None:
        self._inits += 1
        self.ledger.container_started(container.sandbox)
        container.pid = self._inits
        container.init = Init(container.sandbox, self._inits, self.ledger, self.off, now)

    def inspect(self, sandbox: str) -> Container | None:
        self._answer()
        return self.containers.get(sandbox)

    def remove(self, sandbox: str) -> None:
        self._answer()
        container = self.containers.pop(sandbox, None)
        if container is not None:
            self.kill(container)

    def kill(self, container: Container) -> None:
        """All in it is dead. What its init has said can still be read."""
        init, container.init = container.init, None
        if init is None:
            return
        if init.link is not None:
            init.link.init_end = False
            init.link.to_init.clear()
        for held in (*init.table.values(), *init.behind):
            held.child = False
            if held.pipe is not None:
                held.pipe.let_go(init)
