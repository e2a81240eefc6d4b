"""Tells people what the client is struggling with, when that lasts: a link that is away for a second is nobody's business."""

from __future__ import annotations

import logging
import time

from remote_env.cli import screen

_QUIET_S = 3.0  # of trouble before the first line
_EVERY_S = 10.0
_OVER_AFTER_S = 30.0  # without a warning: what comes then is another trouble

log = logging.getLogger("remote_env")


class TroubleHandler(logging.Handler):
    """Shows a warning once warnings have come for a while, then one now and then."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._began = self._latest = self._told = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._latest > _OVER_AFTER_S:
            self._began = now
        self._latest = now
        if now - self._began >= _QUIET_S and now - self._told >= _EVERY_S:
            self._told = now
            screen.warn(record.getMessage())


def tell_troubles() -> None:
    """Once per process."""
    if not any(isinstance(handler, TroubleHandler) for handler in log.handlers):
        log.addHandler(TroubleHandler())
        log.propagate = False
