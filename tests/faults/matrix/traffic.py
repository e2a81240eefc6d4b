"""Commands whose results are known before they run, and what became of each call."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum

COUNT_DIR = "/count"  # where the sandbox sees the directory in which commands leave their marks
LARGE_LINES = 60_000  # about 350 KB of output: more than an answer carries inline


class Fate(Enum):
    """What the caller was told."""

    RESULT = "result"
    NOT_RUN = "not run"  # it did not run and never will
    UNKNOWN = "unknown"  # it cannot be known
    LOST = "lost"  # container, host, engine or journal died under it
    FAILED = "failed"  # something broke; nothing was said about the command
    HUNG = "hung"  # no answer within the row's bound


@dataclass(frozen=True)
class Command:
    """A shell command that leaves its name in COUNT_DIR/ran as its first act, and then has one right result."""

    name: str
    text: str
    returncode: int
    output: str


@dataclass
class Call:
    """One command as its caller saw it."""

    command: Command
    fate: Fate
    detail: str = ""
    returncode: int | None = None
    output: str | None = None
    execution_id: str | None = None
    seconds: float = 0.0
    outcome: str | None = None  # the outcome's kind, where there is one

    @property
    def exact(self) -> bool:
        """A result, and the right one."""
        return self.fate is Fate.RESULT and (self.returncode, self.output) == (self.command.returncode, self.command.output)


@dataclass
class Traffic:
    """Makes a row's commands: all different, the same ones for the same seed.

    Args:
        count_dir: where the commands see the directory of marks.
    """

    rng: random.Random
    count_dir: str = COUNT_DIR
    made: list[Command] = field(default_factory=list)

    def command(self, *, sleep_s: float = 0.0, lines: int | None = None) -> Command:
        """A command of `lines` lines of output (by chance: mostly few, one in twenty large), which sleeps halfway."""
        name = f"c{len(self.made)}"
        if lines is None:
            lines = LARGE_LINES if self.rng.random() < 0.05 else self.rng.randint(0, 400)
        first = self.rng.randint(1, 10_000)
        middle, last = first + lines // 2, first + lines
        code = self.rng.randint(0, 125)
        pause = f"sleep {sleep_s}; " if sleep_s else ""
        text = f"echo {name} >> {self.count_dir}/ran; seq {first} {middle - 1}; {pause}seq {middle} {last - 1}; exit {code}"
        output = "".join(f"{number}\n" for number in range(first, last))
        return self._add(Command(name, text, code, output))

    def made_of(self, script: str, returncode: int, output: str) -> Command:
        """A command with its mark and then `script`, whose result the row knows."""
        name = f"c{len(self.made)}"
        return self._add(Command(name, f"echo {name} >> {self.count_dir}/ran; {script}", returncode, output))

    def commands(self, count: int, **kind: float) -> list[Command]:
        return [self.command(**kind) for _ in range(count)]  # type: ignore[arg-type]

    def _add(self, command: Command) -> Command:
        self.made.append(command)
        return command
