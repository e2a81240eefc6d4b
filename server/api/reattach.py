"""Tells a wait that goes on from one that begins again after its answer was lost."""

from __future__ import annotations

from remote_env.protocol import Execution
from server.metrics import Metrics

_REMEMBERED = 4096  # executions; a caller that never comes back must not be remembered for ever


class Reattaches:
    """A caller that was answered "not over yet" is expected to ask again. Whoever waits for an execution without having
    been told so by this process's last answer attaches anew: its connection broke, its server was replaced, or it is
    another process. Those are counted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._expected: dict[str, None] = {}

    def asked(self, eid: str) -> None:
        """Somebody waits for this execution (not in the request that started it)."""
        if self._expected.pop(eid, self) is self:
            self._metrics.reattached()

    def answered(self, execution: Execution) -> None:
        """This is about to be answered to somebody who waited or started it."""
        if not execution.over:
            if len(self._expected) >= _REMEMBERED:
                del self._expected[next(iter(self._expected))]
            self._expected[execution.id] = None
