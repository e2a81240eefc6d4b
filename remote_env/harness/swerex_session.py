"""A bash session as SWE-ReX has it, over a session of a sandbox: what it does with its commands, how it waits for them and what it says
of them. Synchronous; `swerex_runtime` brings it under asyncio.

The rules, which are SWE-ReX's own:
- Every command runs on the session's terminal, echo off.
- A command whose time is up goes on. It is interrupted by a BashInterruptAction; until then no other command can begin.
- A program that has said what was expected of it goes on, too. What is run next is typed to it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from swerex.exceptions import CommandTimeoutError, NoExitCodeError, NonZeroExitCodeError
from swerex.runtime.abstract import BashAction, BashInterruptAction, BashObservation

from remote_env.harness.swerex_failures import without_result
from remote_env.harness.swerex_program import Program, Reached
from remote_env.harness.swerex_syntax import check_syntax
from remote_env.harness.swerex_text import terminal_text
from remote_env.sandbox import Sandbox
from remote_env.session import Session

PROMPT = "SHELLPS1PREFIX"
"""What SWE-ReX names as the matched string where it is the shell's prompt that came, not one of the strings expected."""

_BETWEEN_INTERRUPTS_S = 0.2  # after the timeout of one, as the peer has it
_FAREWELL_S = 15.0  # that a cancelled command gets to end: its grace, twice, the shell's end, and the way there and back


class BashSession:
    """One shell. Threads may share it: its commands come one after the other."""

    def __init__(self, sandbox: Sandbox, session: Session, logger: logging.Logger) -> None:
        self._sandbox = sandbox
        self._session = session
        self._logger = logger
        self._turn = threading.Lock()
        self._beginning = threading.Lock()  # a command that has begun in the sandbox, but is not known here yet, can be interrupted, too
        self._program: Program | None = None  # the latest
        self._conversing = False  # it has said what was expected, so what comes next is meant for it
        self._notice = ""  # what the shell has to say before the next command's output

    @property
    def alive(self) -> bool:
        """Whether its shell lives, as far as is known."""
        return self._session.alive and (self._program is None or not self._program.record.session_over)

    def run(self, action: BashAction) -> BashObservation:
        """Runs it, or types it to the program that was left running.

        Raises BashIncorrectSyntaxError, CommandTimeoutError, NonZeroExitCodeError, NoExitCodeError, SandboxFailure, and what `Session`
        raises.
        """
        deadline = None if action.timeout is None else time.monotonic() + action.timeout
        with self._in_turn(action, deadline):
            if action.is_interactive_command or action.is_interactive_quit:
                return self._run_interactive(action, deadline)
            return self._run_normal(action, deadline)

    def interrupt(self, action: BashInterruptAction) -> BashObservation:
        """Sends Ctrl-C to what runs, up to `n_retry` times, and ends what does not heed it. What was not had of its output yet is the
        observation's. Raises CommandTimeoutError where it could not be ended, and what `Session` raises."""
        with self._beginning:
            program = self._running
        if program is None:
            return BashObservation(exit_code=0, expect_string=PROMPT)
        for _ in range(action.n_retry):
            program.interrupt()
            reached = self._reach(program, action.expect, action.timeout + _BETWEEN_INTERRUPTS_S)
            if reached is not None:
                return self._interrupted(reached)
        self._logger.warning("The command does not heed Ctrl-C: it is ended")
        program.end()
        reached = self._reach(program, [], _FAREWELL_S)
        if reached is None:
            raise CommandTimeoutError(f"Failed to interrupt session: {program.command!r} does not end")
        self._notice = f"[1]+  Killed                  {program.command}\n"
        return self._interrupted(reached)

    def close(self) -> None:
        """Ends the shell and all that runs in it. May be repeated."""
        self._session.close()

    # ------------------------------------------------------------------------------------------------------ running

    def _run_normal(self, action: BashAction, deadline: float | None) -> BashObservation:
        check_syntax(self._sandbox, action.command)
        program = self._type_or_start(action, deadline)
        reached = self._await(program, action, deadline)
        output = self._take_notice() + terminal_text(reached.output)
        if not reached.ended:
            if action.check == "raise":
                raise NoExitCodeError(
                    f"Command {action.command!r} said what was expected ({reached.pattern!r}) and goes on, so it has no exit code yet."
                )
            return BashObservation(output=output, exit_code=None, expect_string=reached.pattern)
        observation = BashObservation(output=output, expect_string=PROMPT, failure_reason=self._end_of_session())
        if action.check == "ignore":
            return observation
        observation.exit_code = self._exit_code(program)
        if action.check == "raise" and observation.exit_code is None:
            raise NoExitCodeError(f"Command {action.command!r} has no exit code: {without_result(program.record, 'bash', None)}")
        if action.check == "raise" and observation.exit_code != 0:
            message = f"Command {action.command!r} failed with exit code {observation.exit_code}. Here is the output:\n{output!r}"
            raise NonZeroExitCodeError(f"{action.error_msg}: {message}" if action.error_msg else message)
        return observation

    def _run_interactive(self, action: BashAction, deadline: float | None) -> BashObservation:
        # A line end after the words that end a program would be typed to whatever comes after it.
        text = action.command.rstrip("\n") if action.is_interactive_quit else action.command
        program = self._running
        if program is not None:
            program.send(f"{text}\n")
        else:
            program = self._start(text)
        reached = self._await(program, action, deadline)
        output = terminal_text(reached.output)
        if not action.is_interactive_quit:
            # Programs with a line editor of their own echo what is typed whatever the terminal's setting is.
            output = output.removeprefix(f"{text}\n")
        return BashObservation(
            output=output,
            exit_code=0,
            expect_string=PROMPT if reached.ended else reached.pattern,
            failure_reason=self._end_of_session() if reached.ended else "",
        )

    @property
    def _running(self) -> Program | None:
        """What has not ended, as far as is known."""
        return None if self._program is None or self._program.over else self._program

    def _type_or_start(self, action: BashAction, deadline: float | None) -> Program:
        program = self._running
        if program is not None and self._conversing:
            program.send(f"{action.command}\n")
            return program
        if program is not None and program.expect([], _left(deadline)) is None:
            raise CommandTimeoutError(
                f"timeout after {action.timeout} seconds while waiting to run command {action.command!r}, which did not run: "
                f"{program.command!r} is still running in this session; interrupt it first"
            )
        return self._start(action.command)

    def _start(self, command: str) -> Program:
        with self._beginning:
            self._program, self._conversing = Program(self._session, command), False
            return self._program

    def _await(self, program: Program, action: BashAction, deadline: float | None) -> Reached:
        reached = program.expect(action.expect, _left(deadline))
        if reached is None:
            self._conversing = False
            raise CommandTimeoutError(f"timeout after {action.timeout} seconds while running command {action.command!r}")
        self._conversing = not reached.ended
        return reached

    def _reach(self, program: Program, patterns: list[str], timeout_s: float) -> Reached | None:
        """As `expect`; but what the program says is for the thread that waits for it already, if one does."""
        deadline = time.monotonic() + timeout_s
        alone = self._turn.acquire(blocking=False)
        if not alone and not self._turn.acquire(timeout=timeout_s):
            return None
        try:
            if not alone and (program.over or self._conversing):
                return Reached("", "", program.over)
            return program.expect(patterns, _left(deadline))
        finally:
            self._turn.release()

    def _exit_code(self, program: Program) -> int | None:
        outcome = program.record.outcome
        if outcome is not None and outcome.kind == "lost":
            raise without_result(program.record, "bash", None)
        return None if outcome is None or outcome.returncode == -1 else outcome.returncode

    def _interrupted(self, reached: Reached) -> BashObservation:
        self._conversing = not reached.ended
        return BashObservation(
            output=terminal_text(reached.output),
            exit_code=0,
            expect_string=PROMPT if reached.ended else reached.pattern,
            failure_reason=self._end_of_session() if reached.ended else "",
        )

    def _end_of_session(self) -> str:
        return "" if self.alive else "The session's shell has ended with this command; create another session."

    def _take_notice(self) -> str:
        notice, self._notice = self._notice, ""
        return notice

    @contextmanager
    def _in_turn(self, action: BashAction, deadline: float | None) -> Iterator[None]:
        left = _left(deadline)
        if not self._turn.acquire(timeout=-1 if left is None else left):
            raise CommandTimeoutError(
                f"timeout after {action.timeout} seconds while waiting to run command {action.command!r}, which did not run: another one "
                "of this session has not ended"
            )
        try:
            yield
        finally:
            self._turn.release()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
