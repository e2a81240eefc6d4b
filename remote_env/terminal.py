"""A program on a terminal of its own, for somebody who talks with it."""

from __future__ import annotations

import weakref
from types import TracebackType

from remote_env.driving import drive
from remote_env.execution import Execution
from remote_env.terminal_base import EXPECT_TIMEOUT_S, INTERRUPT, Expected, Patterns, TerminalBase, encoded, position_of
from remote_env.transcript import Transcript
from remote_env.turns import Turns


class Terminal(TerminalBase):
    """A program that runs on a terminal. `sandbox.terminal()`, `sandbox.attach()` and `session.terminal()` make it.

        with sandbox.terminal("python3 -q") as python:
            python.expect(">>> ")
            print(python.send_line("6 * 7", expect=">>> ").output)

    What it has said is text: bytes that are not UTF-8 become U+FFFD, or what `errors` says. `execution.output()` has all of it as
    bytes. Leaving the `with` ends the program. Threads may share it, one of them writing.
    """

    def __init__(self, execution: Execution, *, typed: int | None = 0, from_: str | int = "start", errors: str = "replace") -> None:
        transcript = Transcript(execution.stream(position_of(from_, execution.record)), errors)
        super().__init__(execution, transcript, typed=typed)
        self.execution = execution
        self._turns = Turns()
        weakref.finalize(self, transcript.close)

    @property
    def _typing(self) -> Turns:
        return self._turns

    def expect(self, patterns: Patterns, timeout_s: float | None = EXPECT_TIMEOUT_S) -> Expected:
        """Waits until one of the patterns is found in what the program says, and takes the text up to its end.

        Args:
            patterns: regular expressions, as str (a dot fits line ends) or compiled, one or several; `END` for the program's end.
                The earliest match wins.
            timeout_s: seconds; None: for ever.
        Raises:
            ExpectTimeout: the program goes on.
            ExpectEnded: it has ended first.
            OutcomeUnknownError: the server stayed away for too long. InvalidSpec: no pattern.
        """
        return drive(self._expect(patterns, timeout_s))

    def read(self, timeout_s: float | None = EXPECT_TIMEOUT_S) -> str:
        """What it has said and nobody has taken, waiting for some; "" once it has ended and all was taken, or when nothing has come
        within `timeout_s` seconds (None: for ever). Raises OutcomeUnknownError."""
        return drive(self._read(timeout_s))

    def send(self, text: str | bytes, *, expect: Patterns | None = None, timeout_s: float | None = EXPECT_TIMEOUT_S) -> Expected | None:
        """Types the text, exactly once, and then expects, where that is asked for.

        A terminal that takes whole lines takes none longer than 4095 bytes; programs with line editors of their own do.
        Raises as `expect`, and InputUnknown, InputNotTaken, ExpectEnded (nobody is left to read it).
        """
        return drive(self._send(text, expect, timeout_s))

    def send_line(
        self, text: str | bytes = "", *, expect: Patterns | None = None, timeout_s: float | None = EXPECT_TIMEOUT_S
    ) -> Expected | None:  # fmt: skip
        """As `send`, with a line end."""
        return self.send(encoded(text) + b"\n", expect=expect, timeout_s=timeout_s)

    def interrupt(self, *, expect: Patterns | None = None, timeout_s: float | None = EXPECT_TIMEOUT_S) -> Expected | None:
        """Types Ctrl-C, which is SIGINT for whatever has the terminal, unless that reads its keys itself. As `send`."""
        return self.send(INTERRUPT, expect=expect, timeout_s=timeout_s)

    def resize(self, rows: int, cols: int) -> None:
        """Its size in characters; the program is told by SIGWINCH. Raises InvalidSpec, OutcomeUnknownError."""
        drive(self._resize(rows, cols))

    def wait(self, timeout: float | None = None) -> Execution:
        """Waits for the program's end. Raises TimeoutError (it goes on), OutcomeUnknownError."""
        return self.execution.wait(timeout)

    def close(self) -> None:
        """Has the program ended, with all that it has started, and does not wait for that: `wait()` does. May be repeated. Raises
        OutcomeUnknownError."""
        try:
            drive(self._close())
        finally:
            self._transcript.close()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
