"""What is aimed at, and whether it is reached: one row of a table each, computed from a run's figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from scripts.benchmarks.figures import Ratio, duration, flat, number, percentile, ratio, size, speed
from scripts.benchmarks.sections import history, latency, throughput

Figures = dict[str, dict[str, Any]]
"""Each section's figures, by its name. A section that was not run is missing."""


@dataclass(frozen=True)
class Target:
    """One aim.

    Args:
        name: in words.
        limit: the figure has to be at most, or at least, this.
        read: the figure, None where the run has not got it.
        shown: how the limit and the figure are written.
        floor: what the run says of the least that is possible; shown where the target is not met.
    """

    name: str
    sense: Literal["at most", "at least"]
    limit: float
    read: Callable[[Figures], Ratio | None]
    shown: Callable[[float], str] = number
    floor: Callable[[Figures], str] = lambda figures: ""

    def verdict(self, figures: Figures) -> Verdict:
        return Verdict(self, self.read(figures))


@dataclass(frozen=True)
class Verdict:
    """A target and what was reached."""

    target: Target
    reached: Ratio | None

    @property
    def met(self) -> bool | None:
        """None where it was not measured."""
        if self.reached is None:
            return None
        if self.target.sense == "at most":
            return self.reached.value <= self.target.limit
        return self.reached.value >= self.target.limit

    def reason(self, figures: Figures) -> str:
        """Why a target that is not met is not, as far as the figures say; "" where it is met or was not measured."""
        return self.target.floor(figures) if self.met is False else ""

    def row(self) -> list[str]:
        target, shown = self.target, self.target.shown
        if self.reached is None:
            reached = "–"
        elif self.reached.low == self.reached.high:
            reached = shown(self.reached.value)
        else:
            reached = f"{shown(self.reached.value)} ({shown(self.reached.low)}–{shown(self.reached.high)})"
        word = {True: "met", False: "**not met**", None: "not measured"}[self.met]
        return [target.name, f"{target.sense} {shown(target.limit)}", reached, word]


def _latency(above: str, below: str, shell: str = "sh", below_shell: str | None = None) -> Callable[[Figures], Ratio | None]:
    def read(figures: Figures) -> Ratio | None:
        data = figures.get("latency")
        if data is None:
            return None
        one = latency.samples(data, above, shell)
        other = latency.samples(data, below, shell if below_shell is None else below_shell)
        return None if one is None or other is None else ratio(one, other)

    return read


def _throughput(below: str, where: str = "together") -> Callable[[Figures], Ratio | None]:
    def read(figures: Figures) -> Ratio | None:
        data = figures.get("throughput")
        if data is None:
            return None
        one, other = (throughput.rates(data, name, 16, where) for name in ("sandbox.run", below))
        return None if one is None or other is None else ratio(one, other)

    return read


def _median(section: str, *path: str) -> Callable[[Figures], Ratio | None]:
    """A figure of which a section has one sample a round: `path` leads to them."""

    def read(figures: Figures) -> Ratio | None:
        found: Any = figures.get(section)
        for name in path:
            found = None if found is None else found.get(name)
        return None if not found else ratio([[value] for value in found], [[1.0]] * len(found))

    return read


def _quotient(section: str, above: tuple[str, ...], below: tuple[str, ...]) -> Callable[[Figures], Ratio | None]:
    """The ratio of two such figures."""

    def read(figures: Figures) -> Ratio | None:
        found = []
        for path in (above, below):
            at: Any = figures.get(section)
            for name in path:
                at = None if at is None else at.get(name)
            if not at:
                return None
            found.append([each if isinstance(each, list) else [each] for each in at])
        return ratio(found[0], found[1])

    return read


def _command_floor(shell: str) -> Callable[[Figures], str]:
    def floor(figures: Figures) -> str:
        data = figures["latency"]
        asked = {
            "`sandbox.run`": ("sandbox.run", shell), "a bare HTTP round trip alone": ("bare HTTP round trip", ""),
            f"fork+exec of {shell} alone": ("fork+exec in the container", shell),
        }  # fmt: skip
        found = {name: latency.samples(data, *kind) for name, kind in asked.items()}
        said = "p50: " + ", ".join(f"{name} {duration(percentile(flat(rounds), 0.5))}" for name, rounds in found.items() if rounds) + "."
        return f"{said} Where the rest goes: [the server's profile](#where-the-servers-time-goes)." if "profile" in figures else said

    return floor


def _pipe_floor(figures: Figures) -> str:
    asked = {
        "the same command into a pipe that is read inside the container": "a pipe inside the container",
        "as many bytes into a plain file on the spool's disk": "a file on the spool's disk", "their sha256": "its sha256",
        "with the spool in memory": "spool in memory, all kept",
    }  # fmt: skip
    found = {name: figures["output"]["speed"].get(kind, {}).get(_GIB) for name, kind in asked.items()}
    return "; ".join(f"{name}: {speed(percentile(values, 0.5))}" for name, values in found.items() if values) + "."


def _copy_floor(direction: str) -> Callable[[Figures], str]:
    def floor(figures: Figures) -> str:
        plain = figures.get("output", {}).get("speed", {})
        asked = {
            "`docker cp` of the same file in the same run": figures["transfers"]["speed"].get(f"docker cp, {direction}", {}),
            "as many bytes into a plain file on the machine's disk": plain.get("a file on the spool's disk", {}),
            "their sha256, which is made at both ends": plain.get("its sha256", {}),
        }
        found = {name: speeds.get(_GIB) for name, speeds in asked.items()}
        return "; ".join(f"{name}: {speed(percentile(values, 0.5))}" for name, values in found.items() if values) + "."

    return floor


_REX = "`sandbox.run` p50 over SWE-ReX `execute`"
_RATE = "16 clients a second, `sandbox.run` over"
_GIB = "1024"  # MiB

TARGETS = (
    Target(f"{_REX}, sh", "at most", 0.8, _latency("sandbox.run", "SWE-ReX execute"), floor=_command_floor("sh")),
    Target(f"{_REX}, bash", "at most", 0.8, _latency("sandbox.run", "SWE-ReX execute", "bash"), floor=_command_floor("bash")),
    Target(
        f"{_REX} on the host's network, sh", "at most", 0.8, _latency("sandbox.run", "SWE-ReX execute, host network"),
        floor=_command_floor("sh"),
    ),
    Target("`docker exec` p50 over `sandbox.run`, sh", "at least", 20, _latency("docker exec", "sandbox.run"), floor=_command_floor("sh")),
    Target("`session.run` p50 over a bare HTTP round trip", "at most", 2.0, _latency("session.run", "bare HTTP round trip", "sh", "")),
    Target(f"{_RATE} `docker exec`", "at least", 20, _throughput("docker exec")),
    Target(f"{_RATE} SWE-ReX `execute`", "at least", 1.2, _throughput("SWE-ReX execute")),
    Target(f"{_RATE} SWE-ReX `execute`, a container for each", "at least", 1.2, _throughput("SWE-ReX execute", "apart")),
    Target(
        "1 GiB of output into the spool, 64 MiB kept (default)", "at least", 1e9, _median("output", "speed", "spool, 64 MiB kept", _GIB),
        speed, _pipe_floor,
    ),
    Target(
        "1 GiB of output into the spool, all kept", "at least", 1e9, _median("output", "speed", "spool, all kept", _GIB),
        speed, _pipe_floor,
    ),
    Target("1 GiB of output to a raw reader", "at least", 500e6, _median("output", "speed", "raw reader", _GIB), speed),
    Target("growth of the server's memory with 1 GiB of output", "at most", 64 << 20, _median("output", "growth_bytes"), size),
    Target("a file of 1 GiB into a sandbox", "at least", 500e6, _median("transfers", "speed", "upload", _GIB), speed, _copy_floor("in")),
    Target(
        "a file of 1 GiB out of a sandbox", "at least", 500e6, _median("transfers", "speed", "download", _GIB), speed,
        _copy_floor("out"),
    ),
    Target(
        "creating a sandbox over `docker run -d`", "at most", 1.15,
        _quotient("sandboxes", ("create", "sandbox"), ("create", "docker run -d")),
    ),
    Target(
        "latency with the longest history over that with none", "at most", 1.10,
        lambda figures: ratio(*history.ends(figures["history"])) if "history" in figures else None,
    ),
)  # fmt: skip


def verdicts(figures: Figures) -> list[Verdict]:
    return [target.verdict(figures) for target in TARGETS]
