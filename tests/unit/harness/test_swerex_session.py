"""What a session of SWE-ReX does with what its programs say: against programs that follow a script."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from swerex.exceptions import CommandTimeoutError, NoExitCodeError, NonZeroExitCodeError
from swerex.runtime.abstract import BashAction, BashInterruptAction

from remote_env.harness import swerex_session
from remote_env.harness.swerex_failures import SandboxFailure
from remote_env.harness.swerex_program import Reached
from remote_env.harness.swerex_session import PROMPT, BashSession
from remote_env.protocol import Execution, Outcome, Output

GOES_ON = None  # in a script: neither a match nor the end, in time


def end(output: str = "", **outcome: Any) -> tuple[Reached, Outcome]:
    return Reached(output, "", True), Outcome(**{"kind": "exited", "ran": True, "code": 0, **outcome})


def match(output: str, pattern: str) -> Reached:
    return Reached(output, pattern, False)


class Program:
    """Answers to `expect` as its script says, in that order."""

    def __init__(self, session: Session, command: str) -> None:
        self.command = command
        self.typed: list[str] = []
        self.asked: list[tuple[list[str], float | None]] = []
        self.ended_by_force = False
        self.over = False
        self.outcome: Outcome | None = None
        self._script: list[Reached | tuple[Reached, Outcome] | None] = session.scripts.pop(0)
        session.programs.append(self)

    @property
    def record(self) -> Execution:
        return Execution(id="e" * 32, sandbox_id="s" * 32, epoch="1", run_id="r" * 32, state="ended", outcome=self.outcome, output=Output())

    def expect(self, patterns: Sequence[str], timeout_s: float | None) -> Reached | None:
        self.asked.append((list(patterns), timeout_s))
        reply = self._script.pop(0)
        if isinstance(reply, tuple):
            self.over = True
            reached, self.outcome = reply
            return reached
        return reply

    def send(self, text: str) -> None:
        self.typed.append(text)

    def interrupt(self) -> None:
        self.typed.append("^C")

    def end(self) -> None:
        self.ended_by_force = True


class Session:
    """Stands in for a sandbox's session: `scripts` are those of its next programs."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = [list(script) for script in scripts]
        self.programs: list[Program] = []
        self.alive = True


Open = Callable[..., tuple[BashSession, Session]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setattr(swerex_session, "Program", Program)
    monkeypatch.setattr(swerex_session, "check_syntax", lambda sandbox, command: None)

    def make(*scripts: list[Any]) -> tuple[BashSession, Session]:
        session = Session(*scripts)
        sandbox: Any = object()
        stand_in: Any = session
        return BashSession(sandbox, stand_in, logging.getLogger("rex-test")), session

    return make


def test_a_commands_output_is_all_that_it_said_and_nothing_else(opened: Open) -> None:
    bash, _ = opened([end("  x\r\n\r\n")])
    observation = bash.run(BashAction(command="printf '  x\\n\\n'"))
    assert (observation.output, observation.exit_code, observation.expect_string) == ("  x\n\n", 0, PROMPT)


@pytest.mark.parametrize(("check", "exit_code"), [("silent", 3), ("ignore", None)])
def test_an_exit_code_is_told_or_not_as_the_check_says(opened: Open, check: Any, exit_code: int | None) -> None:
    bash, _ = opened([end("no\r\n", code=3)])
    assert bash.run(BashAction(command="false", check=check)).exit_code == exit_code


def test_a_check_raises_with_the_callers_words_first(opened: Open) -> None:
    bash, _ = opened([end("no\r\n", code=3)])
    with pytest.raises(
        NonZeroExitCodeError, match=r"(?s)^Oh dear: Command 'false' failed with exit code 3\. Here is the output:\n'no\\n'$"
    ):
        bash.run(BashAction(command="false", error_msg="Oh dear"))


def test_a_command_that_was_cancelled_has_no_exit_code(opened: Open) -> None:
    bash, _ = opened([end(kind="cancelled", code=None)], [end(kind="cancelled", code=None)])
    with pytest.raises(NoExitCodeError, match="cancelled"):
        bash.run(BashAction(command="sleep 9"))
    assert bash.run(BashAction(command="sleep 9", check="silent")).exit_code is None


def test_a_command_that_is_lost_is_no_matter_of_exit_codes(opened: Open) -> None:
    bash, _ = opened([end(kind="lost", code=None, reason="sandbox_died")])
    with pytest.raises(SandboxFailure, match="sandbox died"):
        bash.run(BashAction(command="sleep 9", check="silent"))


def test_a_command_whose_time_is_up_goes_on_and_the_next_one_does_not_run_beside_it(opened: Open) -> None:
    bash, session = opened([GOES_ON, GOES_ON])
    with pytest.raises(CommandTimeoutError, match=r"timeout after 0\.5 seconds while running command 'sleep 9'"):
        bash.run(BashAction(command="sleep 9", timeout=0.5))
    with pytest.raises(CommandTimeoutError, match=r"'echo', which did not run: 'sleep 9' is still running"):
        bash.run(BashAction(command="echo", timeout=0.5))
    assert len(session.programs) == 1 and not session.programs[0].typed


def test_the_next_command_runs_once_the_one_before_has_ended(opened: Open) -> None:
    bash, _ = opened([GOES_ON, end("late")], [end("next")])
    with pytest.raises(CommandTimeoutError):
        bash.run(BashAction(command="sleep 9", timeout=0.5))
    assert bash.run(BashAction(command="echo", timeout=60)).output == "next"


# ------------------------------------------------------------------------------------------------------ interrupts


def test_an_interrupt_of_an_idle_session_changes_nothing(opened: Open) -> None:
    bash, _ = opened()
    observation = bash.interrupt(BashInterruptAction())
    assert (observation.output, observation.exit_code, observation.expect_string) == ("", 0, PROMPT)


def test_an_interrupt_hands_out_what_the_command_said_and_leaves_nothing_for_the_next(opened: Open) -> None:
    bash, session = opened([GOES_ON, GOES_ON, end("ticks\r\n", code=130)], [end("asdf\r\n")])
    with pytest.raises(CommandTimeoutError):
        bash.run(BashAction(command="tick", timeout=0.5))
    assert bash.interrupt(BashInterruptAction()).output == "ticks\n"
    assert session.programs[0].typed == ["^C", "^C"] and not session.programs[0].ended_by_force
    assert bash.run(BashAction(command="echo asdf")).output == "asdf\n"


def test_what_does_not_heed_interrupts_is_killed_and_the_next_output_says_so_first(opened: Open) -> None:
    bash, session = opened([GOES_ON, GOES_ON, GOES_ON, end("blargh")], [end("asdf\r\n")], [end("asdf\r\n")])
    with pytest.raises(CommandTimeoutError):
        bash.run(BashAction(command="less", timeout=0.5))
    assert bash.interrupt(BashInterruptAction(n_retry=2)).output == "blargh"
    assert session.programs[0].ended_by_force
    assert bash.run(BashAction(command="echo asdf")).output == "[1]+  Killed                  less\nasdf\n"
    assert bash.run(BashAction(command="echo asdf")).output == "asdf\n"


def test_what_cannot_even_be_killed_is_told(opened: Open) -> None:
    bash, _ = opened([GOES_ON, GOES_ON, GOES_ON])
    with pytest.raises(CommandTimeoutError):
        bash.run(BashAction(command="less", timeout=0.5))
    with pytest.raises(CommandTimeoutError, match="Failed to interrupt session"):
        bash.interrupt(BashInterruptAction(n_retry=1))


# ------------------------------------------------------------------------------------------------ programs to talk with


def test_a_program_is_talked_with_until_it_ends(opened: Open) -> None:
    bash, session = opened(
        [match("Python 3\r\n", ">>> "), match("print('x')\r\nx\r\n", ">>> "), match("\r\nKeyboardInterrupt\r\n", ">>> "), end("\r\n")],
        [end("again")],
    )
    python = session.programs
    begun = bash.run(BashAction(command="python", is_interactive_command=True, expect=[">>> "]))
    assert (begun.output, begun.exit_code, begun.expect_string) == ("Python 3\n", 0, ">>> ")
    said = bash.run(BashAction(command="print('x')", is_interactive_command=True, expect=[">>> "]))
    assert said.output == "x\n", "the program's own echo of what was typed is left out"
    interrupted = bash.interrupt(BashInterruptAction(expect=[">>> "]))
    assert (interrupted.output, interrupted.expect_string) == ("\nKeyboardInterrupt\n", ">>> ")
    left = bash.run(BashAction(command="quit()\n", is_interactive_quit=True))
    assert (left.exit_code, left.expect_string) == (0, PROMPT)
    assert python[0].typed == ["print('x')\n", "^C", "quit()\n"]
    assert [patterns for patterns, _ in python[0].asked] == [[">>> "], [">>> "], [">>> "], []]
    assert bash.run(BashAction(command="echo again")).output == "again"


def test_an_ordinary_action_while_a_program_is_talked_with_is_typed_to_it(opened: Open) -> None:
    bash, session = opened([match("", ">>> "), match("1\r\n", ">>> "), end("", code=4)])
    bash.run(BashAction(command="python", is_interactive_command=True, expect=[">>> "]))
    assert bash.run(BashAction(command="x", expect=[">>> "], check="ignore")).output == "1\n"
    assert bash.run(BashAction(command="exit", check="silent")).exit_code == 4
    assert session.programs[0].typed == ["x\n", "exit\n"]


def test_a_program_that_goes_on_has_no_exit_code_to_check(opened: Open) -> None:
    bash, _ = opened([match("", ">>> ")])
    with pytest.raises(NoExitCodeError, match="goes on"):
        bash.run(BashAction(command="python", expect=[">>> "], check="raise"))


def test_a_command_that_ends_its_shell_says_so(opened: Open) -> None:
    bash, session = opened([end("", code=3)])
    assert bash.alive
    session.alive = False
    observation = bash.run(BashAction(command="exit 3", check="silent"))
    assert observation.exit_code == 3
    assert "create another session" in observation.failure_reason
