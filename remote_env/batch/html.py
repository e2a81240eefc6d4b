"""The report as one HTML file that needs nothing else: no network, no server, no script but for searching and hovering."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined, select_autoescape

from remote_env.batch.charts import histogram, timeline
from remote_env.batch.readable import readable, span
from remote_env.batch.report import Report
from remote_env.batch.results import OUTCOMES, CommandResult
from remote_env.quantities import show_size

_TEMPLATES = Path(__file__).with_name("templates")
MOST_DETAILS = 500  # jobs whose commands and tails are in the page; those of all others are in results.jsonl


def write_page(report: Report, file: Path, *, beside: Path) -> None:
    """The page, under its name once all of it is there. `beside`: the batch's directory, which its links lead into. Raises OSError."""
    where = "." if file.resolve().parent == beside.resolve() else beside.resolve().as_uri()
    fresh = file.with_name(f".{file.name}.new")
    with open(fresh, "w", encoding="utf-8", errors="backslashreplace") as page:
        page.writelines(render(report, where))
    os.replace(fresh, file)


def render(report: Report, where: str = ".") -> Iterator[str]:
    """The page, piece by piece; links begin with `where`. Whatever the jobs wrote is text in it: escaped by the template, and
    scripts are forbidden to all but the page's own, by its hash."""
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        text=readable, span=span, size=show_size, time=_time, iso=lambda moment: moment.isoformat(timespec="milliseconds"),
        words=lambda word: word.replace("_", " "), href=lambda name: f"{where}/{quote(name)}", shown=_shown_command, percent=_percent,
    )  # fmt: skip
    style, script = ((_TEMPLATES / name).read_text("utf-8") for name in ("report.css", "report.js"))
    template = environment.from_string((_TEMPLATES / "report.html").read_text("utf-8"))
    return template.generate(
        report=report, summary=report.summary, outcomes=OUTCOMES, style=style, script=script, style_hash=_hash(style),
        script_hash=_hash(script), histogram=histogram(report.jobs), timeline=timeline(report.attempts, report.began, report.span_s),
        numbers={job.id: number for number, job in enumerate(report.jobs)}, most_details=MOST_DETAILS,
    )  # fmt: skip


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"


def _shown_command(command: CommandResult) -> str:
    return readable(command.command if isinstance(command.command, str) else " ".join(command.command))


def _percent(rate: float | None) -> str:
    """One digit after the point, and never 100 % of not quite all."""
    if rate is None:
        return "–"
    shown = f"{rate:.1%}"
    if (shown == "100.0%" and rate < 1) or (shown == "0.0%" and rate > 0):
        return "> 99.9 %" if rate > 0.5 else "< 0.1 %"
    return f"{rate:.0%}".replace("%", " %") if rate in (0.0, 1.0) else shown.replace("%", " %")
