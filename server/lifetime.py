"""Whether the server goes on, stops, or has to start itself again."""

from __future__ import annotations

from collections.abc import Callable

RETRY_AFTER_STOP_S = 1.0  # a server that is being replaced is back about then


class Lifetime:
    """One life of the server's process. Used on the event loop only.

    Attributes:
        stopping: no new request is taken any more.
        restart_reason: why the server has to start itself again, None where it does not.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.restart_reason: str | None = None
        self._on_stop: list[Callable[[], None]] = []

    def on_stop(self, call: Callable[[], None]) -> None:
        """Have `call` called once, when the server begins to stop; at once when it has."""
        if self.stopping:
            call()
        else:
            self._on_stop.append(call)

    def stop(self) -> None:
        """Take no new request from now on."""
        if not self.stopping:
            self.stopping = True
            for call in self._on_stop:
                call()

    def restart(self, reason: str) -> None:
        """Stop and start again in the same process: what memory holds can no longer be trusted (a failed commit). A server
        that was told to stop does not start again."""
        if not self.stopping:
            self.restart_reason = reason
        self.stop()
