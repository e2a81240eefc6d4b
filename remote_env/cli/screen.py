"""What the command line writes: results on stdout, messages on stderr, colour only for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"error": "31;1", "warning": "33", "good": "32", "faint": "2", "strong": "1"}
_NO_WIDTH = 10_000  # columns of a pipe: nothing may be cut there


def is_coloured(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, stream: TextIO) -> str:
    return f"\033[{_STYLES[style]}m{text}\033[0m" if is_coloured(stream) else text


def note(text: str) -> None:
    """A line of information for people."""
    _line(styled(text, "faint", sys.stderr))


def warn(text: str) -> None:
    """A line about something that went otherwise than asked for."""
    _line(f"{styled('remote-env:', 'warning', sys.stderr)} {text}")


def complain(text: str) -> None:
    """The line that says why a command failed."""
    _line(f"{styled('remote-env:', 'error', sys.stderr)} {text}")


def _line(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def print_json(document: Any) -> None:
    """One JSON document: indented for a terminal, on a line of its own for a pipe."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(document, indent=indent, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def write_bytes(data: bytes, stream: TextIO | None = None) -> None:
    """A command's output, untouched and at once, to stdout or to the stream given."""
    target = (stream or sys.stdout).buffer
    target.write(data)
    target.flush()


def table(*headings: str, right: Sequence[str] = ()) -> Table:
    """A table without lines; columns named in `right` hold numbers. On a narrow terminal the last column alone is cut."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        made.add_column(heading, no_wrap=True, overflow="ellipsis", justify="right" if heading in right else "left")
    return made


def print_table(made: Table) -> None:
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _NO_WIDTH
    for column in made.columns[:-1]:
        column.min_width = max(console.measure(cell).maximum for cell in (column.header, *column.cells))
    with console.capture() as captured:
        console.print(made)
    for line in captured.get().splitlines():
        print_line(line.rstrip())


def print_json_line(document: Any) -> None:
    """One line of many, at once."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()
