"""`on_output`: somebody is told of a command's output while it runs, and the command never waits for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from remote_env import protocol
from remote_env.errors import RemoteEnvError
from remote_env.events import OutputPiece
from remote_env.eventstream import EventStream

OnOutput = Callable[[OutputPiece], object]

log = logging.getLogger("remote_env")


class Listener:
    """Reads the stream and calls `on_output`, both in a thread of its own: what a slow listener has not heard waits in the
    server's spool, but for the one piece that it is busy with.

    An exception of `on_output` is logged once and ends the listening, nothing else.
    """

    def __init__(self, stream: EventStream, on_output: OnOutput) -> None:
        self._stream = stream
        self._on_output = on_output
        self._deaf = False
        self._heard = 0  # bytes
        self._thread = threading.Thread(target=self._listen, name="remote-env-listener", daemon=True)
        self._thread.start()

    async def conclude(self, record: protocol.Execution, grace_s: float) -> None:
        """The command has ended so. Gives the listener `grace_s` seconds to hear the rest; it hears nothing after that."""
        self._stream.conclude(record)
        self._thread.join(grace_s)
        if self._thread.is_alive():
            log.warning(
                "execution %s in sandbox %s: on_output is slow: its result is returned, %d bytes of its output were told of",
                record.id, record.sandbox_id, self._heard,
            )  # fmt: skip
        self.stop()

    def stop(self) -> None:
        """It hears nothing any more. The call that it may be busy with is not waited for."""
        self._deaf = True
        self._stream.close()

    def _listen(self) -> None:
        execution = self._stream.execution
        try:
            for event in self._stream:
                if self._deaf:
                    return
                if isinstance(event, OutputPiece) and not self._tell(event):
                    return
        except RemoteEnvError as error:
            # The call itself tells of it where it matters there.
            log.warning("execution %s in sandbox %s: on_output hears no more: %s", execution.id, execution.sandbox_id, error)
        finally:
            self._stream.close()

    def _tell(self, piece: OutputPiece) -> bool:
        """Whether more is wanted."""
        try:
            self._on_output(piece)
        except BaseException:
            execution = self._stream.execution
            log.exception("execution %s in sandbox %s: on_output failed and is not called again", execution.id, execution.sandbox_id)
            return False
        self._heard += len(piece.data)
        return True
