"""What a program on a terminal says, read as it comes, for those who wait for something in it."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from remote_env.errors import MisuseError, RemoteEnvError
from remote_env.events import Gap, OutputPiece
from remote_env.eventstream import EventStream
from remote_env.expecting import Expecter, Match, Pattern
from remote_env.forks import tell_in_child

Found = TypeVar("Found")

_WAITING_LIMIT = 1 << 20  # characters that nobody has taken: the rest is left in the server's spool until somebody looks


class Ended(Exception):
    """The program has ended, and nothing that was looked for is in what is left of its text."""


class TranscriptBase(ABC):
    """What both faces know of it. Each has its own way to read beside those who look, and to wait for that.

    Args:
        errors: what becomes of bytes that are not UTF-8, as for `bytes.decode`.
    """

    def __init__(self, errors: str) -> None:
        self._expecter = Expecter(errors)
        self._looked_at = False
        self._failure: Exception | None = None
        self._closed = False

    async def expect(self, patterns: Pattern | Sequence[Pattern], timeout_s: float | None) -> Match | None:
        """The match; None when it has not come within that time, in seconds.

        Raises Ended, InvalidSpec (no pattern), what following an execution raises, and UnicodeDecodeError where `errors` says so.
        """
        return await self._look(lambda: self._expecter.expect(patterns).match, timeout_s)

    async def read(self, timeout_s: float | None) -> str | None:
        """What has come and nobody has taken; None when nothing has within that time, in seconds. Raises Ended."""
        return await self._look(lambda: lambda: self._expecter.take() or None, timeout_s)

    @property
    @abstractmethod
    def text(self) -> str:
        """What nobody has taken."""

    @abstractmethod
    def close(self) -> None:
        """No more is read. The program goes on."""

    @abstractmethod
    async def _look(self, begin: Callable[[], Callable[[], Found | None]], timeout_s: float | None) -> Found | None:
        """What is found, as soon as it has come; whoever else looks waits for that. `begin` makes what is asked at each change."""

    def _see(self, find: Callable[[], Found | None]) -> Found | None:
        """What is there now. Raises Ended, and why no more will come."""
        found = find()
        if found is None and (self._expecter.ended or self._closed):
            raise Ended
        if found is None and self._failure is not None:
            raise self._failure
        return found

    @property
    def _full(self) -> bool:
        return self._expecter.waiting > _WAITING_LIMIT and not self._looked_at and not self._closed

    def _hear(self, event: Any) -> None:
        if isinstance(event, OutputPiece):
            self._expecter.feed(event.data)
        elif isinstance(event, Gap):
            self._expecter.skip()

    def _hear_end(self) -> None:
        if not self._closed:  # else it was not the program that ended
            self._expecter.end()

    def _fail(self, error: BaseException) -> None:
        told = isinstance(error, (RemoteEnvError, UnicodeError))
        what = f"what the program says cannot be read any more: {type(error).__name__}: {error}"
        self._failure = error if told and isinstance(error, Exception) else RuntimeError(what)


class Transcript(TranscriptBase):
    """Reads the stream from the first look on, in a thread of its own. Threads may share it; they look one after the other."""

    def __init__(self, stream: EventStream, errors: str = "replace") -> None:
        super().__init__(errors)
        self._stream = stream
        self._thread: threading.Thread | None = None
        self._reset()
        tell_in_child(self)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._looking = threading.Lock()

    def after_fork_in_child(self) -> None:
        """The thread that reads is the parent's: here nothing would come, for ever."""
        self._reset()
        if self._thread is not None:
            self._failure = MisuseError(
                "What this terminal says is read by the process that this one was forked from. `sandbox.attach()` takes it up here."
            )

    @property
    def text(self) -> str:
        with self._changed:
            return self._expecter.text

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._stream.close()

    async def _look(self, begin: Callable[[], Callable[[], Found | None]], timeout_s: float | None) -> Found | None:
        with self._looking, self._changed:
            find = begin()
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            if self._thread is None:
                thread = threading.Thread(target=self._listen, name="remote-env-transcript", daemon=True)
                thread.start()  # raises where the process has no more threads: then it is tried again by the next look
                self._thread = thread
            self._looked_at = True
            self._changed.notify_all()
            try:
                while (found := self._see(find)) is None:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    self._changed.wait(left)
                return found
            finally:
                self._looked_at = False

    # -------------------------------------------------------------------------------------------------- the thread

    def _listen(self) -> None:
        try:
            for event in self._stream:
                with self._changed:
                    while self._full:
                        self._changed.wait()
                    self._hear(event)
                    self._changed.notify_all()
            with self._changed:
                self._hear_end()
        except (RemoteEnvError, UnicodeError) as error:
            self._fail(error)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._stream.close()
            with self._changed:
                self._changed.notify_all()
