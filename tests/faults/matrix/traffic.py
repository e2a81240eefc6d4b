"""Commands whose results are known before they run, and what became of each call."""

from __future__ import annotations

import random
import threading
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
class Result:
    """A right result of a command.

    Args:
        outcome: the outcome's kind.
        cut: the command was ended from outside, at any moment: every beginning of `output` is right.
    """

    returncode: int
    output: str
    outcome: str = "exited"
    cut: bool = False

    def fits(self, returncode: int | None, output: str | None, outcome: str | None) -> bool:
        """Whether a caller was told this. `outcome` None: a client that tells no kind."""
        right = self.output.startswith(output or "") if self.cut else output == self.output
        return right and returncode == self.returncode and outcome in (None, self.outcome)


@dataclass(frozen=True)
class Command:
    """A shell command that leaves its name in COUNT_DIR/ran as its first act, and then has one right result.

    Args:
        outcome, cut: of that result, see `Result`.
        also: other results that are as right, where two things race (a command and its cancel).
    """

    name: str
    text: str
    returncode: int
    output: str
    outcome: str = "exited"
    cut: bool = False
    also: tuple[Result, ...] = ()

    @property
    def right(self) -> tuple[Result, ...]:
        """Every right result."""
        return Result(self.returncode, self.output, self.outcome, self.cut), *self.also


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
    truncated: str | None = None  # what the caller was told of output that was not kept
    total_bytes: int | None = None  # of the whole output, as the caller was told

    @property
    def cut_off(self) -> bool:
        """A result that says that the disk was full: the right exit code, a true beginning of the output, its true total."""
        return (
            self.fate is Fate.RESULT
            and self.truncated == "disk_full"
            and any(
                right.output.startswith(self.output or "")
                and (self.returncode, self.outcome, self.total_bytes) == (right.returncode, right.outcome, len(right.output.encode()))
                for right in self.command.right
            )
        )

    @property
    def exact(self) -> bool:
        """A result, and the right one (or one of the right ones)."""
        return self.fate is Fate.RESULT and any(right.fits(self.returncode, self.output, self.outcome) for right in self.command.right)

    @property
    def stillborn(self) -> bool:
        """It was killed before it could leave its mark: it says nothing, and did not exit."""
        return self.fate is Fate.RESULT and self.outcome not in (None, "exited") and not self.output


@dataclass
class Traffic:
    """Makes a row's commands: all different, the same ones for the same seed.

    Args:
        count_dir: where the commands see the directory of marks.
    """

    rng: random.Random
    count_dir: str = COUNT_DIR
    made: list[Command] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)  # rows make commands in several threads: no two may have one name

    def command(self, *, sleep_s: float = 0.0, lines: int | None = None) -> Command:
        """A command of `lines` lines of output (by chance: mostly few, one in twenty large), which sleeps halfway."""
        with self._lock:
            if lines is None:
                lines = LARGE_LINES if self.rng.random() < 0.05 else self.rng.randint(0, 400)
            first = self.rng.randint(1, 10_000)
            middle, last = first + lines // 2, first + lines
            code = self.rng.randint(0, 125)
            pause = f"sleep {sleep_s}; " if sleep_s else ""
            output = "".join(f"{number}\n" for number in range(first, last))
            return self.made_of(f"seq {first} {middle - 1}; {pause}seq {middle} {last - 1}; exit {code}", code, output)

    def made_of(
        self, script: str, returncode: int, output: str, *, outcome: str = "exited", cut: bool = False, also: tuple[Result, ...] = ()
    ) -> Command:
        """A command with its mark and then `script`, whose result (or each right one) the row knows."""
        with self._lock:
            name = f"c{len(self.made)}"
            self.made.append(Command(name, f"echo {name} >> {self.count_dir}/ran; {script}", returncode, output, outcome, cut, also))
            return self.made[-1]

    def commands(self, count: int, **kind: float) -> list[Command]:
        return [self.command(**kind) for _ in range(count)]  # type: ignore[arg-type]
