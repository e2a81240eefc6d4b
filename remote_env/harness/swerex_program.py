"""One command of a session while it runs, and after: how its end or its words are waited for, and how it is typed to."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from remote_env.errors import ExpectEnded, ExpectTimeout, InputNotTaken
from remote_env.expecting import END
from remote_env.harness.swerex_text import shown
from remote_env.protocol import Execution as Record
from remote_env.session import Session
from remote_env.terminal import Terminal

_GRACE_S = 0.5  # between the signals that end a command that did not heed Ctrl-C
_INTERRUPT = "\x03"


@dataclass(frozen=True)
class Reached:
    """What was waited for. `output`: the terminal's text in front of it, since what was reached before; `pattern`: which one came; ""
    where the command has `ended`."""

    output: str
    pattern: str
    ended: bool


class Program:
    """Begins with its construction, which raises what `Session.start` raises."""

    def __init__(self, session: Session, command: str) -> None:
        # The shell takes "" for no command at all, and so does the server.
        self._execution = session.start(command or "\n", tty=True, timeout_s=None, grace_s=_GRACE_S)
        self._terminal: Terminal | None = None  # made for the first who talks with it: most commands only end
        self._whole = True  # none of its output was handed out yet
        self.command = command

    @property
    def record(self) -> Record:
        return self._execution.record

    @property
    def over(self) -> bool:
        return self._execution.over

    def expect(self, patterns: Sequence[str], timeout_s: float | None) -> Reached | None:
        """Waits for the first match of these regular expressions, or for its end. None: neither came within `timeout_s` seconds, and it
        goes on. Raises InvalidSpec (no regular expression), OutcomeUnknownError, OutputIncomplete."""
        if self._terminal is None and not patterns:
            try:
                self._execution.wait(timeout_s)
            except TimeoutError:
                return None
            return self._end("")
        try:
            found = self._talk().expect([*patterns, END], timeout_s=timeout_s)
        except ExpectTimeout:
            return None
        if found.pattern == len(patterns):
            return self._end(found.output)
        self._whole = False
        return Reached(found.output, patterns[found.pattern], ended=False)

    def send(self, text: str) -> None:
        """Types it. What is typed to a program that has just ended is dropped, as its end tells. Raises InputNotTaken, InputUnknown."""
        try:
            self._talk().send(text)
        except ExpectEnded:
            self._execution.refresh()

    def interrupt(self) -> None:
        """Types Ctrl-C."""
        try:
            self.send(_INTERRUPT)
        except InputNotTaken:  # its terminal is full of what it does not read
            self._execution.signal(signal.SIGINT)

    def end(self) -> None:
        """Has it ended: SIGINT, SIGTERM, SIGKILL. Does not wait for it."""
        self._execution.cancel()

    def _end(self, rest: str) -> Reached:
        if self._whole:  # its bytes, which are checked, rather than what was read of them on the way
            self._execution.wait()
            rest = shown(self._execution.output(), self.record.output)
        self._whole = False
        return Reached(rest, "", ended=True)

    def _talk(self) -> Terminal:
        if self._terminal is None:
            self._terminal = Terminal(self._execution, errors="backslashreplace")
        return self._terminal
