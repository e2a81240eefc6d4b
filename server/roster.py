"""The sandboxes that are not over, to be found by what is known of one: its id, its run, its container."""

from __future__ import annotations

from collections.abc import Iterable

from server.live import LiveSandbox


class Roster:
    """All of them by id are in `live`."""

    def __init__(self) -> None:
        self.live: dict[str, LiveSandbox] = {}
        self._of_run: dict[str, dict[str, LiveSandbox]] = {}
        self._of_container: dict[str, LiveSandbox] = {}

    def add(self, sandbox: LiveSandbox) -> None:
        self.live[sandbox.id] = sandbox
        self._of_run.setdefault(sandbox.run_id, {})[sandbox.id] = sandbox
        if sandbox.container_id is not None:
            self._of_container[sandbox.container_id] = sandbox

    def has_container(self, sandbox: LiveSandbox, container_id: str) -> None:
        """The container is this sandbox's from here on."""
        sandbox.container_id = container_id
        self._of_container[container_id] = sandbox

    def drop(self, sandbox: LiveSandbox) -> None:
        self.live.pop(sandbox.id, None)
        self._of_container.pop(sandbox.container_id or "", None)
        run = self._of_run.get(sandbox.run_id, {})
        run.pop(sandbox.id, None)
        if not run:
            self._of_run.pop(sandbox.run_id, None)

    def of_run(self, run_id: str) -> Iterable[LiveSandbox]:
        return self._of_run.get(run_id, {}).values()

    def of_container(self, container_id: str) -> LiveSandbox | None:
        return self._of_container.get(container_id)

    @property
    def memory_bytes(self) -> int:
        """What all of them may use."""
        return sum(sandbox.memory_bytes for sandbox in self.live.values())
