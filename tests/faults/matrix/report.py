"""docs/reliability.md, from what every row came to.

The figures are kept beside it as JSON, so that rows can be run again one by one, and so that a test can hold the page, the
rows and the figures against each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.matrix.checks import PROMISES, Verdict
from tests.faults.matrix.row import ROWS, Part, Row

OURS = "remote-env"
SUBJECTS = {
    OURS: "remote-env",
    "requests": "`requests`, no retries",
    "requests+Retry": "`requests` with `Retry(3, allowed_methods=None)`",
    "swe-rex": "SWE-ReX, its own client and server",
}
PARTS: dict[Part, str] = {
    "transport": "The connection",
    "network": "The network and its addresses",
    "server": "The server",
    "journal": "Journal and disk",
    "clock": "Clocks",
    "sandbox": "The sandbox and what runs in it",
    "engine": "The engine",
}
SUMMARY_BEGIN, SUMMARY_END = "<!-- reliability: begin -->", "<!-- reliability: end -->"

_HEAD = """\
# Reliability

What was broken while commands ran, and what became of each command. `scripts/faults` did all of it on a real server and a real
Docker engine and wrote this page; `scripts/faults ROW --seed N` does one row again, `scripts/faults --list` names them. A
short version of every row runs in `scripts/test`.

Every command leaves its mark in a file on the host as its first act, so *ran twice* and *never ran* are counted from outside.
Its exit code and every byte of its output are known before it is sent. The columns:

- **exact**: the caller got the true exit code and every byte of a command that ran exactly once.
- **told**: the caller got an explicit other answer, one that the row allows: *not run* (it did not run and never will),
  *unknown* (it cannot be known), *lost* (container, host, engine or journal died under it), *cut off* (the disk was full: the
  true exit code, a true beginning of the output, its true total, and word of what is missing).
- **twice**: commands that ran more than once. **lost**: calls without an answer, or with an answer that the row does not
  allow, or a mere error for a command that ran. **wrong**: results that were not true. **orphans**: processes and containers
  that were left. **≤**: what none in N commands says of the true rate, with 95 % confidence (3/N).

A row counts as held only when each of these was checked and true:
"""
_PROMISE_WORDS = {
    "At-most-once": "each command ran at most once",
    "True-results": "a result means exactly one run, the true exit code, every byte",
    "Honest-not-run": "who was told that a command did not run can rely on it",
    "Nothing-lost": "every call ended within its bound; *unknown* and *lost* only where the row allows them",
    "No-orphans": "no process and no container is left",
    "Hands-off": "a container that is not ours goes on running",
    "Base-line": "descriptors, threads, memory and spool are back to where they were",
    "No-secrets": "no token and no environment value is in any log, down to the debug lines",
}
assert set(_PROMISE_WORDS) == set(PROMISES)


class Report:
    """The report in a directory: `reliability.json` is read and extended, `reliability.md` written anew."""

    def __init__(self, directory: Path) -> None:
        self._json = directory / "reliability.json"
        self._markdown = directory / "reliability.md"
        self.figures: dict[str, dict[str, Any]] = json.loads(self._json.read_text()) if self._json.exists() else {}

    def add(self, row: Row, verdict: Verdict) -> None:
        self.figures[f"{row.name}/{verdict.subject}"] = asdict(verdict)

    def take_over(self, other: Report) -> None:
        """Another run's figures, in place of those that are here for the same rows."""
        self.figures.update(other.figures)

    def write(self) -> None:
        """Beside a README with the two marks, its summary is renewed as well."""
        self._json.parent.mkdir(parents=True, exist_ok=True)
        known = {key: figures for key, figures in self.figures.items() if figures["row"] in ROWS}
        self._json.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        self._markdown.write_text(self.markdown())
        readme = self._markdown.parent.parent / "README.md"
        if readme.exists():
            readme.write_text(put_summary(readme.read_text(), self.summary()))

    def of(self, row: Row, subject: str) -> dict[str, Any] | None:
        return self.figures.get(f"{row.name}/{subject}")

    def markdown(self) -> str:
        lines = [_HEAD.rstrip(), ""]
        lines += [f"- {words}" for words in _PROMISE_WORDS.values()]
        lines += ["", "## In short", "", *self.summary(), "", "## Every row", ""]
        for part, title in PARTS.items():
            rows = [row for row in ROWS.values() if row.part == part and self.of(row, OURS)]
            if rows:
                lines += [f"### {title}", "", *self._rows(rows), ""]
        lines += self._others()
        return "\n".join(lines).rstrip() + "\n"

    def summary(self) -> list[str]:
        """The table for the README: all rows of each subject together."""
        lines = ["| | rows | commands | exact | told | ran twice | lost | wrong | orphans |", "|---|---|---|---|---|---|---|---|---|"]
        for subject, words in SUBJECTS.items():
            rows = [row for row in ROWS.values() if self.of(row, subject)]
            if rows:
                found = [figures for row in rows if (figures := self.of(row, subject)) is not None]
                lines.append(f"| {words} | {len(rows)} | {_figures(found, orphans=subject == OURS)} |")
        return lines

    def _rows(self, rows: Iterable[Row]) -> list[str]:
        lines = [
            "| what broke | how | commands | exact | told | twice | lost | wrong | orphans | ≤ |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            figures = self.of(row, OURS)
            assert figures is not None
            how = "; ".join([row.injected, *figures["notes"]])
            bound = f"{3 / figures['commands']:.1g}" if not _failures(figures) else "–"
            lines.append(f"| {_sentence(row.title)} (`{row.name}`) | {how} | {_figures([figures])} | {bound} |")
        return lines

    def _others(self) -> list[str]:
        rows = [row for row in ROWS.values() if row.peers and any(self.of(row, subject) for subject in SUBJECTS if subject != OURS)]
        if not rows:
            return []
        lines = [
            "## Beside others", "",
            "The same faults, at the same moments, for clients that do what most do. *told* is an error for a command that did not run; "
            "an error for a command that did run is a result *lost*.", "",
            "| what broke | who | commands | exact | told | twice | lost | wrong |", "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in rows:
            for subject, words in SUBJECTS.items():
                if figures := self.of(row, subject):
                    lines.append(f"| {_sentence(row.title)} | {words} | {_figures([figures], orphans=None)} |")
        return lines


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _failures(figures: dict[str, Any]) -> int:
    return int(figures["twice"] + figures["lost"] + figures["wrong"] + figures["orphans"] + len(figures["broken"]))


def _figures(found: list[dict[str, Any]], *, orphans: bool | None = True) -> str:
    """Cells: commands | exact | told | twice | lost | wrong [| orphans]. `orphans` None leaves its cell out, False has a dash."""
    told: dict[str, int] = {}
    for figures in found:
        for fate, count in figures["told"].items():
            told[fate] = told.get(fate, 0) + count
    cells = [f"{sum(figures[name] for figures in found):,}" for name in ("commands", "results", "twice", "lost", "wrong", "orphans")]
    cells.insert(2, ", ".join(f"{count:,} {fate}" for fate, count in sorted(told.items())) or "0")
    if not orphans:
        cells[-1:] = [] if orphans is None else ["–"]
    return " | ".join(cells)


def put_summary(readme: str, summary: Iterable[str]) -> str:
    """The README's text with the summary between its two marks. Raises ValueError where the marks are missing."""
    before, begin, rest = readme.partition(SUMMARY_BEGIN)
    _, end, after = rest.partition(SUMMARY_END)
    if not begin or not end:
        raise ValueError(f"there is no {SUMMARY_BEGIN} … {SUMMARY_END} in it")
    return f"{before}{begin}\n" + "\n".join(summary) + f"\n{end}{after}"
