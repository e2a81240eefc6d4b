"""A server that cannot trust its memory any more becomes a fresh one, and takes its time where that does not help: on a disk
that fails for an hour it would else die and rise a thousand times a minute."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import MutableMapping
from types import FrameType
from typing import NoReturn

log = logging.getLogger("server.restarts")

VARIABLE = "REMOTE_ENV_RESTARTS"  # from one life to the next, by exec: how many lives in a row were short
FIRST_S, MOST_S = 0.5, 30.0  # seconds before the server starts again: doubling with each short life
HEALTHY_S = 60.0  # a life that lasted so long starts the count anew

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Restarts:
    """The short lives of this process so far.

    Args:
        environ: of the process; the variable is taken out of it.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        count = (os.environ if environ is None else environ).pop(VARIABLE, "")
        self.count = int(count) if count.isdecimal() else 0
        self._began = time.monotonic()

    @property
    def within_one(self) -> bool:
        """Whether this life began with a restart of its own. Nobody is there to read why it could not start: it tries on."""
        return self.count > 0

    def delay_s(self, lived_s: float) -> float:
        """Seconds to wait after a life of `lived_s` seconds."""
        if lived_s >= HEALTHY_S:
            self.count = 0
        return float(min(FIRST_S * 2 ** min(self.count, 16), MOST_S))

    def wait(self, reason: str) -> bool:
        """Let the time pass. False: the process was told to stop meanwhile."""
        delay_s = self.delay_s(time.monotonic() - self._began)
        heard, alarm = socket.socketpair()
        with heard, alarm:
            alarm.setblocking(False)
            before = signal.set_wakeup_fd(alarm.fileno())  # of a signal to whichever thread: another one may get it
            for number in _STOP_SIGNALS:
                signal.signal(number, _told_by_the_descriptor)
            log.critical("starting again", extra={"reason": reason, "in_s": delay_s})
            told, _, _ = select.select([heard], [], [], delay_s)
            signal.set_wakeup_fd(before)
        return not told

    def start_again(self) -> NoReturn:
        """Become a fresh server with the same command line. Every descriptor of ours, the lock too, closes on exec."""
        environ = {**os.environ, VARIABLE: str(self.count + 1)}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)


def _told_by_the_descriptor(number: int, frame: FrameType | None) -> None:
    """Python writes to the wake-up descriptor only for signals that it handles."""
