"""docs/performance.md, made of a run's figures. The same figures make the same page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.sections import SECTIONS
from scripts.benchmarks.targets import verdicts

VERSION = 1  # of the saved figures
_INTRODUCTION = (
    "`scripts/bench` writes this page. Everything was measured in one run on one machine, side by side, in rounds in which every kind "
    "has its turn, so that what disturbs the machine disturbs all alike. Ratios are the result, given with a 95 % interval; times belong "
    "to the machine. Peers come from PyPI and are used as their users use them: same image, same shell, same command."
)


def load(path: Path) -> dict[str, Any]:
    """Figures that a run has saved. Raises ValueError where they are another version's."""
    run: dict[str, Any] = json.loads(path.read_text())
    if run.get("version") != VERSION:
        raise ValueError(f"{path} holds figures of version {run.get('version')}, this reads {VERSION}")
    return run


def render(run: dict[str, Any], pictures: str = "performance") -> str:
    """The page. `pictures` is the directory of the plots, seen from it."""
    figures = run["sections"]
    lines = ["# Performance", "", *paragraph(_INTRODUCTION)]
    if run["quick"]:
        lines += paragraph("**A quick run:** few rounds and small sizes, good for a look and for nothing else.")
    lines += ["## Targets", ""]
    judged = verdicts(figures)
    lines += table(["target", "limit", "reached", ""], [verdict.row() for verdict in judged])
    unmet = [f"- {verdict.target.name}: {reason}" for verdict in judged if (reason := verdict.reason(figures))]
    lines += ["Not met:", "", *unmet, ""] if unmet else []
    for name, section in SECTIONS.items():
        if name not in figures:
            continue
        lines += [f"## {section.title}", "", *section.show(figures[name])]
        for picture in section.plots:
            lines += [f"![{section.title}]({pictures}/{picture})", ""]
    if run["missing"]:
        lines += ["## Not measured", "", *(f"- {name}: {why}" for name, why in sorted(run["missing"].items())), ""]
    lines += ["## Machine and versions", "", *table(["", ""], [[name, value] for name, value in run["machine"].items()])]
    lines += ["## Repeat it", "", f"    {run['command']}", ""]
    lines += paragraph(f"Seed {run['seed']}. `--json FILE` saves every sample; `scripts/bench --from FILE` makes this page of them again.")
    return "\n".join(lines)
