"""A batch at a terminal: a few lines that are drawn anew, above them a line for each job that has not passed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from remote_env.batch.events import BatchEnded, BatchEvent, BatchStarted, BatchState, JobFinished, JobQueued, Message, ServerState
from remote_env.batch.progress import Progress
from remote_env.batch.readable import clock, readable, span

_DRAWINGS = 5.0  # a second
_STYLES = {
    "passed": "green",
    "failed": "red",
    "timed_out": "yellow",
    "lost": "magenta",
    "error": "cyan",
    "running": "bold",
    "queued": "dim",
}
_LINKS = {"connected": ("●", "green"), "disconnected": ("○", "yellow"), "dead": ("✕", "red")}
_SAYING = {"draining": "draining: Ctrl-C once more cancels what runs", "cancelling": "cancelling: Ctrl-C once more leaves at once"}


class LiveView:
    """A listener. `otherwise` tells, in words, what is worth a line of its own; it is asked with the drawing out of the way.

    What is drawn goes when the batch has ended, or with `close`, which leaves the terminal as it was whatever has happened.
    """

    def __init__(self, stream: TextIO, line_of: Callable[[BatchEvent], str | None]) -> None:
        self._console = Console(file=stream, highlight=False, emoji=False, markup=False)
        self._line_of = line_of
        self._lock = threading.Lock()
        self._progress = Progress()
        self._live = Live(
            self, console=self._console, refresh_per_second=_DRAWINGS, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def __call__(self, event: BatchEvent) -> None:
        with self._lock:
            self._progress.feed(event)
        line = self._line_of(event)
        if isinstance(event, BatchEnded):
            self.close()
        if line is not None and _is_worth_a_line(event):
            self._console.print(Text(readable(line)), soft_wrap=True)
        if isinstance(event, BatchStarted):
            self._live.start()

    def close(self) -> None:
        """May be repeated."""
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            drawn = drawing(self._progress, time.time())
        yield drawn  # without the lock: who draws may take its time, or never come back


def _is_worth_a_line(event: BatchEvent) -> bool:
    if isinstance(event, JobFinished):
        return event.result.outcome != "passed"
    if isinstance(event, JobQueued):
        return event.reason is not None
    return isinstance(event, (BatchStarted, ServerState, BatchState, Message, BatchEnded))


def drawing(progress: Progress, now: float) -> Group:
    """What a person sees of it. Each line is cut where the terminal ends."""
    bar = Table.grid(padding=(0, 2, 0, 0), expand=True)
    bar.add_column(ratio=1)
    for _ in range(3):
        bar.add_column(no_wrap=True, justify="right")
    rate, left = progress.rate(now), progress.left_s(now)
    speed = "" if rate is None else f"{rate:.1f} jobs/s" if rate >= 1 else f"{rate * 60:.1f} jobs/min"
    bar.add_row(
        ProgressBar(total=max(progress.total, 1), completed=progress.done, complete_style="green", finished_style="green"),
        Text(f"{progress.done}/{progress.total}", style="bold"), Text(speed), Text("" if left is None else f"{clock(round(left))} left"),
    )  # fmt: skip
    lines = [_numbers(progress)]
    slowest = progress.slowest()
    if slowest is not None:
        lines.append(
            Text.assemble(("slowest  ", "dim"), readable(slowest.id), f"  {span(now - slowest.since)}  ", (readable(slowest.doing), "dim"))
        )
    if progress.servers:
        lines.append(_servers(progress))
    if progress.state in _SAYING:
        lines.append(Text(_SAYING[progress.state], style="yellow"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(bar, *lines)


def _numbers(progress: Progress) -> Text:
    line = Text()
    for name, count in progress.shown_counts.items():
        line.append(f"{name.replace('_', ' ')} ", style="dim")
        line.append(f"{count}   ", style=_STYLES[name] if count else "dim")
    return line


def _servers(progress: Progress) -> Text:
    line = Text.assemble(("servers  ", "dim"))
    for url, (state, detail) in progress.servers.items():
        sign, style = _LINKS[state]
        line.append(f"{sign} ", style=style)
        line.append(url.partition("//")[2] or url)
        if state != "connected":
            line.append(f" {state}" + (f" ({readable(detail)})" if detail else ""), style=style)
        line.append("   ")
    return line
