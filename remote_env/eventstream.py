"""What happens to one execution, as an iterator."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from remote_env import protocol
from remote_env.driving import drive
from remote_env.events import Ended, Event
from remote_env.exchange import Exchange
from remote_env.following import Following

if TYPE_CHECKING:
    from remote_env.execution import Execution

_CLOSED_CHECK_S = 0.25  # while it waits to connect again: how soon it notices that the client was closed


class EventStream(Following):
    """An iterator of `Accepted`, `Started`, `OutputPiece` and `Gap`, and at last `Ended`; one thread iterates.

    Broken connections are mended behind it: no byte comes twice, and none is missing that no `Gap` tells of. It takes no
    more than a piece from the server ahead of its reader, and the command waits for neither.

    Closing it, as `with` does at its end, or leaving the loop does not cancel the command. `cancel()` does, and what is written
    until its end still comes. Iterating raises LinkLost (the server stayed away for the whole reconnect budget),
    EpochChanged and other kinds of OutcomeUnknownError, OutputIncomplete (what went by is not what the server kept), InvalidSpec
    (no such position), ProtocolMismatch.
    """

    def __init__(self, execution: Execution, exchange: Exchange, from_: str | int = "start", *, counted: bool = True) -> None:
        """`counted`: in the client's statistics, where it is this stream that brings the execution's end."""
        super().__init__(exchange, execution.record, from_, counted=counted)
        self.execution = execution
        self._reading = threading.Lock()  # held by the thread that is in __next__
        self._woken = threading.Event()

    def cancel(self) -> None:
        """Has the command ended, as `Execution.cancel`; the stream goes on to its end. Raises OutcomeUnknownError."""
        self.execution.cancel()

    def close(self) -> None:
        """Ends the iteration, in another thread, too; the command goes on. May be repeated."""
        self._closed = True
        self._wake()
        if self._reading.acquire(blocking=False):  # else the thread that reads cleans up
            try:
                self._hang_up()
            finally:
                self._reading.release()

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event:
        with self._reading:
            event = drive(self._next_event())
        if event is None:
            raise StopIteration
        return Ended(self.execution.learn(event)) if isinstance(event, protocol.Execution) else event

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if self.__dict__.get("_reply") is not None:
            self._hang_up()

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._transport.closed and (left := until - time.monotonic()) > 0:
            if self._woken.wait(min(left, _CLOSED_CHECK_S)):
                return

    def _signal_woken(self, woken: bool) -> None:
        if woken:
            self._woken.set()
        else:
            self._woken.clear()
