"""`batch report`: what came of a batch, for the terminal and as one HTML file."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remote_env.cli import screen
from remote_env.cli.codes import FAILED
from remote_env.cli.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_env.batch.report import Report
    from remote_env.batch.results import CommandResult, JobResult

_MOST = 10  # jobs with their tails
_TAIL_LINES = 12
_STYLES = {"passed": "green", "failed": "red", "timed_out": "yellow", "lost": "magenta", "error": "cyan"}


def report(
    invocation: Invocation,
    directory: Annotated[Path, typer.Argument(metavar="RESULTS", hidden=True)],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Where the page goes. [default: report.html in RESULTS]", show_default=False),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> int:
    """Say what came of a batch, and write it as a single HTML file that works offline.

    Infrastructure (lost, error) is told apart: it is nobody's failure. Links in the page lead to the outputs in RESULTS, so
    it is best left there. A batch may be reported on while it runs.

    \b
    Examples:
      remote-env batch report results/
      remote-env batch report results/ --open
      remote-env batch report results/ --json | jq .pass_rate
    """
    from remote_env.batch.directory import DirectoryError
    from remote_env.batch.html import write_page
    from remote_env.batch.report import read_report

    page = html or directory / "report.html"
    try:
        found = read_report(directory)
        write_page(found, page, beside=directory)
    except DirectoryError as error:
        screen.complain(str(error))
        return FAILED
    except (BrokenPipeError, screen.NotWritten):
        raise
    except OSError as error:
        screen.complain(f"{error.filename or page}: {error.strerror}")
        return FAILED
    if invocation.as_json:
        screen.print_json({**found.as_dict(), "html": str(page)})
    else:
        _show(found)
        screen.note(f"\n{page}")
    if open_it:
        webbrowser.open(page.resolve().as_uri())
    return 0


def _show(report: Report) -> None:
    from rich.markup import escape

    from remote_env.batch.readable import readable, span

    summary = report.summary
    outcomes = screen.table("outcome", "jobs", "share", right=("jobs", "share"))
    for name, count in summary.counts.items():
        share = f"{count / summary.finished:.1%}" if summary.finished else "–"
        outcomes.add_row(_coloured(name), str(count), share)
    if summary.unfinished:
        outcomes.add_row("no result yet", str(summary.unfinished), "")
    screen.print_table(outcomes)
    screen.print_line("")
    if summary.pass_rate is not None:
        screen.print_line(f"passed          {summary.pass_rate:.1%} of the {summary.judged} that were judged")
    if summary.infrastructure_rate is not None:
        screen.print_line(
            f"infrastructure  {summary.infrastructure_rate:.1%} of the {summary.finished} with a result were lost or never judged"
        )
    if report.durations is not None:
        spread = report.durations
        screen.print_line(f"duration        p50 {span(spread.p50)}, p95 {span(spread.p95)}, max {span(spread.longest)}")
    if report.creation is not None:
        screen.print_line(
            f"sandbox ready   p50 {span(report.creation.p50)}, p95 {span(report.creation.p95)}, max {span(report.creation.longest)}"
        )
    screen.print_line(f"whole batch     {span(report.span_s)} for {span(summary.job_seconds)} of jobs")
    if report.slowest:
        _heading("Slowest")
        slowest = screen.table("job", "duration", "outcome", "image", right=("duration",))
        for job in report.slowest:
            slowest.add_row(escape(readable(job.id)), span(job.duration_s), _coloured(job.outcome), escape(readable(job.image)))
        screen.print_table(slowest)
    _list("Failed and timed out", report.failed)
    _list("Infrastructure: lost, or never judged", report.infrastructure)


def _list(title: str, jobs: Sequence[JobResult]) -> None:
    from remote_env.batch.readable import readable

    if not jobs:
        return
    _heading(f"{title} ({len(jobs)})")
    for job in jobs[:_MOST]:
        screen.print_line(f"{readable(job.id)}: {job.outcome.replace('_', ' ')}" + (f": {readable(job.reason)}" if job.reason else ""))
        command = _telling(job)
        if command is None:
            continue
        for line in readable(command.tail).rstrip().split("\n")[-_TAIL_LINES:] if command.tail.strip() else ():
            screen.print_line(f"  │ {line}".rstrip())
        if command.output_file:
            screen.print_line(f"  └ {readable(command.output_file)}")
    if len(jobs) > _MOST:
        screen.print_line(f"… and {len(jobs) - _MOST} more: see the page, or results.jsonl")


def _telling(job: JobResult) -> CommandResult | None:
    """The command that its outcome comes from: the last that did not exit with 0, else the last."""
    wrong = [each for each in job.commands if each.exit_code != 0] or job.commands
    return wrong[-1] if wrong else None


def _heading(text: str) -> None:

    screen.print_line("\n" + screen.styled(text, "strong", sys.stdout))


def _coloured(outcome: str) -> str:
    words = outcome.replace("_", " ")
    return f"[{_STYLES[outcome]}]{words}[/]" if not os.environ.get("NO_COLOR") else words
