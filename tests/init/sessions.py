"""A session of an init's, and its commands."""

from __future__ import annotations

from server.messages import EndingKind, Stage
from tests.init.harness import Execution, Server


class Session:
    """A session, and its commands one after another."""

    def __init__(self, server: Server, shell: str = "bash", **how: object) -> None:
        self.server = server
        self.shell = server.open_session(shell, **how)  # type: ignore[arg-type]

    def do(self, command: str, **how: object) -> Execution:
        """Run to the end and acknowledge."""
        return self.server.do(command, session=self.shell, **how)

    def run(self, command: str, **how: object) -> Execution:
        return self.server.run(command, session=self.shell, **how)  # type: ignore[arg-type]

    def told(self, command: str, **how: object) -> tuple[str, int]:
        """Output and exit code."""
        done = self.do(command, **how)
        return done.text, done.exit_code


def failure(run: Execution) -> tuple[Stage, int]:
    assert run.ended is not None
    ending = run.ended.ending
    assert ending.kind is EndingKind.FAILED_TO_START, ending
    return ending.stage, ending.status
