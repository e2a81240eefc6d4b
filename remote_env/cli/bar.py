"""How far a copy is: a bar for people at a terminal, a plain line now and then for logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from remote_env.cli import screen
from remote_env.cli.quantities import show_duration, show_size

if TYPE_CHECKING:
    from remote_env.transfers import OnProgress, Progress

_LINE_S = 10.0  # between plain lines


@contextmanager
def shown(*, quiet: bool) -> Iterator[OnProgress | None]:
    """What is to be told of the copy's progress; None where nobody wants to see it."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as tell:
            yield tell
    else:
        yield _Lines().tell


@contextmanager
def _bar() -> Iterator[OnProgress]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(now: Progress) -> None:
            bar.update(task, description=_short(now.path), completed=now.bytes, total=now.total)

        yield tell


class _Lines:
    """A copy that is over soon says nothing."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()

    def tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told < _LINE_S:
            return
        self._told = now
        rate = progress.bytes / (now - self._began)
        line = f"{show_size(progress.bytes)} copied, {show_size(int(rate))}/s"
        if progress.total is not None and rate:
            line = f"{line}, {show_duration((progress.total - progress.bytes) / rate)} left of {show_size(progress.total)}"
        screen.note(line)


def _short(path: str, limit: int = 40) -> str:
    return path if len(path) <= limit else f"…{path[1 - limit :]}"
