"""Ctrl-C while a command runs: the first asks for its end, the second does not wait for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Interrupts:
    """While it is entered, SIGINT, SIGTERM and SIGHUP come here.

    Before `cancel_with` there is nothing to cancel: the first signal raises KeyboardInterrupt. After it the first signal
    cancels, in a thread of its own, and whoever waits for the command's end goes on waiting; the second raises.
    """

    def __init__(self) -> None:
        self.signal: int | None = None  # the first one
        self._cancel: Callable[[], None] | None = None
        self._canceller: threading.Thread | None = None
        self._before: dict[int, Any] = {}

    def cancel_with(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel

    def settle(self) -> None:
        """Waits until a cancel that is under way has been answered; from now on a signal raises."""
        self._cancel = None
        if self._canceller is not None:
            self._canceller.join()

    @property
    def cancelled(self) -> bool:
        """Whether the cancel was answered, or has failed."""
        return self._canceller is not None and not self._canceller.is_alive()

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.signal is None
        if first:
            self.signal = number
        if not first or self._cancel is None:
            raise KeyboardInterrupt
        self._canceller = threading.Thread(target=self._cancel, name="remote-env-cancel", daemon=True)
        self._canceller.start()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            # What was ignored when we were started stays ignored: `nohup`, and jobs in the background.
            heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
