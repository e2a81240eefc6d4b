"""Our own terminal while a remote one is shown in it: raw, and put back as it was on every way out."""

from __future__ import annotations

import os
import signal
import termios
import tty
from types import FrameType, TracebackType
from typing import Any

_LEAVING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Leave(Exception):
    """A signal told us to go. `number` is which one."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class RawTerminal:
    """While it is entered, `keyboard` (a descriptor of a terminal) gives each key as it is typed, Ctrl-C too, and nothing is
    echoed; a change of its size is told at `woken`, a descriptor to select on. Of the main thread.

    SIGTERM, SIGHUP and SIGQUIT raise Leave, so that the terminal is put back before we go.
    """

    def __init__(self, keyboard: int) -> None:
        self._keyboard = keyboard
        self.woken, self._wake = os.pipe()
        for descriptor in (self.woken, self._wake):
            os.set_blocking(descriptor, False)
        self._before: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._wakeup = -1
        self._left = False
        self.resized = True  # since the size was asked for last

    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        self.resized = False
        columns, rows = os.get_terminal_size(self._keyboard)
        return rows or 24, columns or 80  # some report 0 of what they do not know

    def drain(self) -> None:
        """Forgets that it was woken."""
        try:
            while os.read(self.woken, 512):
                pass
        except BlockingIOError:
            return

    def __enter__(self) -> RawTerminal:
        self._before = termios.tcgetattr(self._keyboard)
        self._wakeup = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._leave) for number in _LEAVING if signal.getsignal(number) != signal.SIG_IGN}
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._resize)
        self._handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._continue)
        try:
            tty.setraw(self._keyboard, termios.TCSADRAIN)  # what was typed ahead is for the program
        except BaseException:  # a signal above all: nobody will call __exit__
            self._put_back()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._put_back()

    def _put_back(self) -> None:
        self._left = True  # from now on no signal comes in between
        try:
            self._restore()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            os.close(self.woken)
            os.close(self._wake)

    def _restore(self) -> None:
        if self._before is None:
            return
        try:
            # What was typed ahead stays for whoever reads next; a terminal that has gone needs nothing.
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._before)
        except termios.error:
            return

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if not self._left:
            self._left = True
            raise Leave(number)

    def _resize(self, number: int, frame: FrameType | None) -> None:
        self.resized = True

    def _continue(self, number: int, frame: FrameType | None) -> None:
        """Stopped from outside, and a shell has put its own modes there since."""
        tty.setraw(self._keyboard, termios.TCSANOW)
        self.resized = True
