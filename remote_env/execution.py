"""One command that was sent, as its caller sees it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from remote_env import protocol
from remote_env.driving import drive
from remote_env.events import OutputPiece
from remote_env.eventstream import EventStream
from remote_env.execution_base import ExecutionBase

if TYPE_CHECKING:
    from remote_env.client import Client


class Execution(ExecutionBase):
    """A command in a sandbox, running or ended. Threads may share it.

    `record` is the server's latest answer about it; `refresh()` and `wait()` renew it.
    """

    def __init__(self, client: Client, record: protocol.Execution) -> None:
        super().__init__(client.exchange, record)

    @property
    def text(self) -> str:
        """`output()` as UTF-8; what is not UTF-8 is replaced by U+FFFD."""
        return self.output().decode("utf-8", "replace")

    def refresh(self) -> Execution:
        """Asks the server how it stands now. Raises OutcomeUnknownError."""
        return drive(self._refresh())

    def wait(self, timeout: float | None = None) -> Execution:
        """Waits for its end, for ever or for `timeout` seconds.

        Raises TimeoutError (it goes on), OutcomeUnknownError.
        """
        return drive(self._wait(timeout))

    def output(self) -> bytes:
        """The kept bytes of its output (of stdout, where streams are split): all of them once it is over, else what there
        is by now.

        Raises OutputIncomplete, OutcomeUnknownError.
        """
        return drive(self._fetch_output())

    def stderr(self) -> bytes:
        """As `output`, of stderr. Raises InvalidSpec where streams are merged, OutputIncomplete, OutcomeUnknownError."""
        return drive(self._fetch_stderr())

    def save(self, local: str | os.PathLike[str], *, stderr: bool = False) -> None:
        """`output()`, or `stderr()`, of a command that has ended into a local file, a piece at a time: it gets its name once all of it
        is there and has its SHA-256. Raises OutputIncomplete, OutcomeUnknownError, InvalidSpec, OSError."""
        drive(self._save(local, stderr))

    def stream(self, from_: str | int = "start") -> EventStream:
        """Follows it, whether it runs or is over: an iterator of `events`, up to `Ended`.

        Args:
            from_: "start"; "now", which leaves out what it has written so far; or a position: what another stream of the same
                execution had for `position`, or an offset in its output.

        Leaving the loop, or closing the stream, does not cancel the command: `cancel()` does. What its iteration raises is told
        there. Raises InvalidSpec for what is no position.
        """
        return EventStream(self, self._exchange, from_)

    def follow(self) -> Iterator[bytes]:
        """The output (of stdout, where streams are split) from its beginning, as it comes, until the command has ended
        (`record` is then the final one).

        Raises OutputIncomplete when what went by is not what the server kept, OutcomeUnknownError.
        """
        with self.stream() as events:
            for event in events:
                if isinstance(event, OutputPiece) and event.stream != "stderr":
                    yield event.data

    def cancel(self) -> Execution:
        """Has everything the command started ended: SIGTERM, and SIGKILL after its grace. Does not wait for it; may be
        repeated. An end of its own that comes first stays the end. Raises OutcomeUnknownError."""
        return drive(self._cancel())

    def signal(self, number: int) -> Execution:
        """Sends the signal to the command's process group; nothing where it is over. Raises SignalNotSent (it has not started,
        or cannot be reached just now), Unreachable, OutcomeUnknownError (the signal may have been sent)."""
        return drive(self._signal(number))
