"""An execution as the server's end of the link sees it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from server.messages import Ended, EndingKind, Started


@dataclass
class Execution:
    """What the server's end knows of one execution."""

    id: str
    number: int
    pipes: list[int | None] = field(default_factory=list)  # one, or stdout's and stderr's; None once at its end
    outputs: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    started: Started | None = None
    ended: Ended | None = None
    session: Execution | None = None  # that it is a command of

    @property
    def pipe(self) -> int | None:
        return self.pipes[0] if self.pipes else None

    @property
    def output(self) -> bytearray:
        """What came on its one pipe, or on stdout's."""
        return self.outputs[0]

    @property
    def errors(self) -> bytearray:
        """What came on stderr's."""
        return self.outputs[1]

    @property
    def both(self) -> tuple[bytes, bytes]:
        """stdout, stderr."""
        return bytes(self.output), bytes(self.errors)

    @property
    def text(self) -> str:
        return self.output.decode()

    @property
    def exit_code(self) -> int:
        """The code it exited with. Fails for any other ending."""
        assert self.ended is not None
        assert self.ended.ending.kind is EndingKind.EXITED, self.ended
        return os.waitstatus_to_exitcode(self.ended.ending.status)

    def drop_pipe(self, at: int) -> None:
        pipe, self.pipes[at] = self.pipes[at], None
        if pipe is not None:
            os.close(pipe)

    def drop_pipes(self) -> None:
        for at in range(len(self.pipes)):
            self.drop_pipe(at)
        self.pipes = []
