"""What a program on a terminal says, read as it comes by a thread of its own, for those who wait for something in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from remote_env.errors import RemoteEnvError
from remote_env.events import Gap, OutputPiece
from remote_env.eventstream import EventStream
from remote_env.expecting import Expecter, Match, Pattern

Found = TypeVar("Found")

_WAITING_LIMIT = 1 << 20  # characters that nobody has taken: the rest is left in the server's spool until somebody looks


class Ended(Exception):
    """The program has ended, and nothing that was looked for is in what is left of its text."""


class Transcript:
    """Reads the stream from the first look on. Threads may share it; they look one after the other.

    Args:
        errors: what becomes of bytes that are not UTF-8, as for `bytes.decode`.
    """

    def __init__(self, stream: EventStream, errors: str = "replace") -> None:
        self._stream = stream
        self._expecter = Expecter(errors)
        self._changed = threading.Condition()
        self._looking = threading.Lock()
        self._looked_at = False
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def expect(self, patterns: Pattern | Sequence[Pattern], timeout_s: float | None) -> Match | None:
        """The match; None when it has not come within that time, in seconds.

        Raises Ended, InvalidSpec (no pattern), what following an execution raises, and UnicodeDecodeError where `errors` says so.
        """
        with self._looking, self._changed:
            expectation = self._expecter.expect(patterns)
            return self._look(expectation.match, timeout_s)

    def read(self, timeout_s: float | None) -> str | None:
        """What has come and nobody has taken; None when nothing has within that time, in seconds. Raises Ended."""
        with self._looking, self._changed:
            return self._look(lambda: self._expecter.take() or None, timeout_s)

    @property
    def text(self) -> str:
        """What nobody has taken."""
        with self._changed:
            return self._expecter.text

    def close(self) -> None:
        """No more is read. The program goes on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._stream.close()

    def _look(self, find: Callable[[], Found | None], timeout_s: float | None) -> Found | None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="remote-env-transcript", daemon=True)
            self._thread.start()
        self._looked_at = True
        self._changed.notify_all()
        try:
            while True:
                found = find()
                if found is not None:
                    return found
                if self._expecter.ended or self._closed:
                    raise Ended
                if self._failure is not None:
                    raise self._failure
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
        finally:
            self._looked_at = False

    # -------------------------------------------------------------------------------------------------- the thread

    def _listen(self) -> None:
        try:
            for event in self._stream:
                with self._changed:
                    while self._expecter.waiting > _WAITING_LIMIT and not self._looked_at and not self._closed:
                        self._changed.wait()
                    if isinstance(event, OutputPiece):
                        self._expecter.feed(event.data)
                    elif isinstance(event, Gap):
                        self._expecter.skip()
                    self._changed.notify_all()
            with self._changed:
                if not self._closed:  # else it was not the program that ended
                    self._expecter.end()
        except (RemoteEnvError, UnicodeError) as error:
            self._failure = error
        except BaseException as error:
            self._failure = RuntimeError(f"what the program says cannot be read any more: {type(error).__name__}: {error}")
            raise
        finally:
            self._stream.close()
            with self._changed:
                self._changed.notify_all()
