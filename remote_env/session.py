"""A long-lived shell in a sandbox, as its caller sees it."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast, overload

from remote_env.driving import drive
from remote_env.eventstream import EventStream
from remote_env.execution import Execution
from remote_env.listener import OnOutput
from remote_env.protocol import Tty
from remote_env.sandbox_base import OnUndelivered
from remote_env.session_base import SessionBase, open_session
from remote_env.terminal import Terminal
from remote_env.terminal_base import EXPECT_TIMEOUT_S, Expected, Patterns, tty_of
from remote_env.turns import Turns

if TYPE_CHECKING:
    from remote_env.sandbox import Sandbox


class Session(SessionBase):
    """A shell that keeps its directory, variables, functions, aliases, options and background jobs between commands. Made by
    `sandbox.session()`; with `with`, it is closed at the end.

        with sandbox.session() as session:
            session.run("cd /repo && export CI=1")
            print(session.run("make").returncode)

    Commands run one after the other; threads that share it take turns in the order in which they came. Several sessions of a
    sandbox run beside each other. A command that is timed out or cancelled is interrupted, and the session lives on.

    What does not last from one command to the next: `$_` and `PIPESTATUS` (use them within one command; `$?` does last), and
    `exec <file`, since each command's standard input is /dev/null, or the session's terminal. A command's `record.cpu_s` is what its
    shell and the programs it has waited for used meanwhile, in steps of 0.01 s; its peak memory is not known.
    """

    def __init__(self, sandbox: Sandbox, opening: Execution, tty: Tty | None = None, errors: str = "replace") -> None:
        super().__init__(sandbox, opening, tty)
        self.sandbox = sandbox
        self._shell = opening
        self._errors = errors
        self._turns = Turns()
        self._terminal: Terminal | None = None  # of the program that is talked with

    @classmethod
    def open(
        cls, sandbox: Sandbox, startup: Sequence[str], tty: bool | Tty | None, errors: str, options: dict[str, Any]
    ) -> Session:  # fmt: skip
        """For `Sandbox.session`."""
        terminal = tty_of(tty)
        given = {name: value for name, value in options.items() if value is not None}
        return cls(sandbox, sandbox._execution(drive(open_session(sandbox, startup, terminal, given))), terminal, errors)

    # ---------------------------------------------------------------------------------------------------- commands

    @overload
    def run(
        self,
        command: str,
        *,
        expect: None = None,
        check: bool = ...,
        idempotent: bool | None = ...,
        on_undelivered: OnUndelivered | None = ...,
        on_output: OnOutput | None = ...,
        **spec: Any,
    ) -> Execution: ...

    @overload
    def run(self, command: str, *, expect: Patterns, timeout_s: float | None = ..., **spec: Any) -> Expected: ...

    def run(
        self,
        command: str,
        *,
        expect: Patterns | None = None,
        check: bool = False,
        idempotent: bool | None = False,
        on_undelivered: OnUndelivered | None = None,
        on_output: OnOutput | None = None,
        **spec: Any,
    ) -> Execution | Expected:
        """Runs the command in the shell, at most once, and waits for its end. Ctrl-C interrupts it.

        Args:
            command: for the shell, as if it were typed there: several lines, too.
            expect: start a program and wait for one of these patterns in what it says on the session's terminal, in place of its
                end: see `Terminal.expect`. `timeout_s` (30 s) is then the time for that; the program itself has none, and goes on:
                `send`, `expect` and `interrupt` are for it, until it ends.
            check: raise CommandLost or CommandFailed for every end but exit code 0.
            idempotent: True: it changes nothing, in the shell neither, so it may be run again where its answer got lost.
            on_undelivered, on_output: as for `Sandbox.run`. None of these four goes with `expect`.
            spec: timeout_s (1800 s; None: no timeout), idle_timeout_s, grace_s, output_limit_bytes, tty (True: on the session's
                terminal), and id, as for `Sandbox.run`.

        Raises SessionEnded (the shell is over; the command did not run), and all that `Sandbox.run` raises.
        """
        if expect is not None:
            self._only_expecting(check=check, idempotent=idempotent, on_undelivered=on_undelivered, on_output=on_output)
            return self._run_expecting(command, expect, spec.pop("timeout_s", EXPECT_TIMEOUT_S), spec)
        hear = None if on_output is None else self.sandbox._hearing(on_output)
        with self._turns:
            record = drive(self._run(command, idempotent, on_undelivered, hear, check, spec))
        return self.sandbox._execution(record)

    def start(self, command: str, **spec: Any) -> Execution:
        """Sends the command and returns as soon as the server has it in its journal; the session's next command waits for its end.
        Arguments and errors as `run`."""
        with self._turns:
            return cast(Execution, drive(self._begin(command, None, spec)))

    def stream(self, command: str, *, on_undelivered: OnUndelivered | None = None, **spec: Any) -> EventStream:
        """Sends the command and follows it, as `Sandbox.stream`. Arguments and errors as `run`."""
        with self._turns:
            return cast(Execution, drive(self._begin(command, on_undelivered, spec))).stream()

    # ------------------------------------------------------------------------------------------ programs to talk with

    def terminal(self, command: str, **spec: Any) -> Terminal:
        """Starts a program on the session's terminal, for somebody who talks with it; the session's next command comes when it has
        ended. It has no timeout, unless `timeout_s` is given. Raises as `run`; InvalidSpec where the session has no terminal."""
        options = {"timeout_s": None, "tty": True, **spec}
        with self._turns:
            execution = cast(Execution, drive(self._begin(command, None, options, talking=True)))
            self._terminal = Terminal(execution, errors=self._errors)
        return self._terminal

    def send(
        self, text: str | bytes, *, expect: Patterns | None = None, timeout_s: float | None = EXPECT_TIMEOUT_S
    ) -> Expected | None:  # fmt: skip
        """Types the text to the program that `run(…, expect=…)` has started. As `Terminal.send`: a line end is yours to type."""
        return self._talked_with(self._terminal).send(text, expect=expect, timeout_s=timeout_s)

    def expect(self, patterns: Patterns, timeout_s: float | None = EXPECT_TIMEOUT_S) -> Expected:
        """Waits for more of what that program says. As `Terminal.expect`."""
        return self._talked_with(self._terminal).expect(patterns, timeout_s)

    def interrupt(self, *, expect: Patterns | None = None, timeout_s: float | None = EXPECT_TIMEOUT_S) -> Expected | None:
        """Interrupts what runs: Ctrl-C for a program that is talked with (as `Terminal.interrupt`), SIGINT for a command that another
        thread waits for; nothing happens where nothing runs. The session lives on. Raises SignalNotSent, OutcomeUnknownError."""
        return drive(self._interrupt(self._terminal, expect, timeout_s))

    # ------------------------------------------------------------------------------------------------- the session

    def output(self) -> bytes:
        """What was said between commands, by background jobs above all. Raises OutputIncomplete, OutcomeUnknownError."""
        return self._shell.output()

    def refresh(self) -> Session:
        """Asks the server how it stands now. Raises OutcomeUnknownError."""
        drive(self._refresh())
        return self

    def close(self) -> None:
        """Ends the shell and all that was started in it; a command that runs is cancelled. May be repeated. Raises
        OutcomeUnknownError."""
        try:
            drive(self._close())
        finally:
            if self._terminal is not None:
                self._terminal._transcript.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run_expecting(self, command: str, patterns: Patterns, timeout_s: float | None, spec: dict[str, Any]) -> Expected:
        return self.terminal(command, **spec).expect(patterns, timeout_s)
