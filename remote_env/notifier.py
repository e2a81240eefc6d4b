"""Calls what a caller gave us to call: in order, off every path that matters, in a thread that lives only while it is needed."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger("remote_env")


class Notifier:
    """What a callback raises is logged and harms nothing. How long it takes delays the next callback alone."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], object]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after_fork_in_child(self) -> None:
        """The thread is the parent's, and so is what it had left to tell."""
        closed = self._closed
        self._reset()
        self._closed = closed

    def tell(self, call: Callable[[], object]) -> None:
        with self._lock:
            if self._closed:
                return
            self._waiting.append(call)
            if self._thread is None:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # no more threads in this process
                    self._waiting.clear()
                    log.error("a callback cannot be called: %s", error)
                    return
                self._thread = thread

    def close(self, wait_s: float) -> None:
        """Begins no further call, and waits at most `wait_s` seconds for the one that is under way (not when called by it)."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(wait_s)
            if thread.is_alive():
                log.warning("a callback (thread %s) still runs after %.0f s: it is left alone", self._name, wait_s)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                call = self._waiting.popleft()
            try:
                call()
            except Exception:
                log.exception("a callback (thread %s) failed; nothing else is affected", self._name)
