"""What the command line writes: results on stdout, messages on stderr, colour only for people."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"error": "31;1", "warning": "33", "good": "32", "faint": "2", "strong": "1"}
_NO_WIDTH = 10_000  # columns of a pipe: nothing may be cut there


class NotWritten(OSError):
    """Our own output could not be written although its reader is there: its disk is full, as a rule."""


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
    write_note(text + "\n")


def write_note(text: str) -> None:
    """Text for people, as it is."""
    try:
        _write(text_bytes(text, sys.stderr), sys.stderr)
    except OSError:
        return  # there is nowhere left to tell it; the exit code still does


def print_line(text: str) -> None:
    _write(text_bytes(text + "\n", sys.stdout), sys.stdout)


def text_bytes(text: str, stream: TextIO) -> bytes:
    """As the stream would encode it; what it cannot, as an escape."""
    return text.encode(stream.encoding or "utf-8", "backslashreplace")


def print_json(document: Any) -> None:
    """One JSON document: indented for a terminal, on a line of its own for a pipe."""
    indent = 2 if sys.stdout.isatty() else None
    _write_json(document, indent)


def print_json_line(document: Any) -> None:
    """One line of many, at once."""
    _write_json(document, None)


def _write_json(document: Any, indent: int | None) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=False, default=str) + "\n"
    _write(text.encode("utf-8", "backslashreplace"), sys.stdout)  # JSON is UTF-8, whatever the terminal speaks


def write_bytes(data: bytes, stream: TextIO | None = None) -> None:
    """A command's output, untouched and at once, to stdout or to the stream given. Raises BrokenPipeError, NotWritten."""
    _write(data, stream or sys.stdout)


def _write(data: bytes, stream: TextIO) -> None:
    """All of it. One write may take only a part, when a signal comes in its middle, and none at all where somebody who shares
    the terminal or pipe with us has set it non-blocking."""
    try:
        stream.flush()
        file = getattr(stream.buffer, "raw", stream.buffer)
        left = memoryview(data)
        while left:
            written = file.write(left)
            if written is None:
                select.select([], [file], [])
            else:
                left = left[written:]
    except OSError as error:
        mute(stream)
        if isinstance(error, BrokenPipeError):
            raise
        raise NotWritten(error.errno, error.strerror) from error


def mute(stream: TextIO) -> None:
    """Has it lead nowhere from now on, so that nobody, the interpreter at its exit neither, stumbles over it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


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
