"""What is going on, on stderr: a bar on a terminal, a line a section elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

CONSOLE = Console(stderr=True, highlight=False)
Advance = Callable[[str], None]
"""One step is done; the text says which."""


def say(text: str) -> None:
    CONSOLE.print(f"==> {text}", markup=False)


@contextmanager
def steps(title: str, total: int) -> Iterator[Advance]:
    """A bar of so many steps."""
    if not CONSOLE.is_terminal:
        say(title)
        yield lambda text: None
        return
    columns = (
        TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[doing]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=CONSOLE) as progress:
        task = progress.add_task(title, total=total, doing="")
        yield lambda text: progress.update(task, advance=1, doing=text)
        progress.update(task, completed=total, doing="")
