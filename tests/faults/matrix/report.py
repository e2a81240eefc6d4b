"""docs/reliability.md, from what every row came to. The figures are kept beside it as JSON, so that rows can be run again one by one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.matrix.checks import Verdict
from tests.faults.matrix.row import ROWS, Row


class Report:
    """The report in a directory: `reliability.json` is read and extended, `reliability.md` written anew."""

    def __init__(self, directory: Path) -> None:
        self._json = directory / "reliability.json"
        self._markdown = directory / "reliability.md"
        self._verdicts: dict[str, dict[str, Any]] = json.loads(self._json.read_text()) if self._json.exists() else {}

    def add(self, row: Row, verdict: Verdict) -> None:
        self._verdicts[f"{row.name}/{verdict.subject}"] = asdict(verdict)

    def write(self) -> None:
        self._json.parent.mkdir(parents=True, exist_ok=True)
        self._json.write_text(json.dumps(self._verdicts, indent=1, sort_keys=True) + "\n")
        self._markdown.write_text(self.markdown())

    def markdown(self) -> str:
        lines = ["# Reliability", "", "| row | commands |", "|---|---|"]
        found = {row: self._verdicts.get(f"{row.name}/remote-env") for row in ROWS.values()}
        lines += [f"| {row.title} | {figures['commands']} |" for row, figures in found.items() if figures]
        return "\n".join(lines) + "\n"
