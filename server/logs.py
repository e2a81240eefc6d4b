"""One line per event on stderr, for people (`console`) or for machines (`json`).

Everything logs through the standard library: `log.info("ended", extra={"execution_id": …})`. The message is what happened, in
words that do not change; ids, numbers and short texts are `extra` fields (None is left out). Never secrets: no token,
environment value or stdin. The caller pays for a bare record (no look at the stack); a thread formats and writes what has
gathered in one go, so a slow terminal or a full pipe never holds the event loop.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from datetime import datetime, timezone
from typing import IO, Literal

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_BATCH = 1000  # records written in one go at most
_GATHER_S = 0.02  # seconds that a line may come late: one by one they would take the interpreter from the commands they tell of


_STANDARD = frozenset((*logging.LogRecord("", 0, "", 0, "", None, None).__dict__, "message", "asctime", "taskName"))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What the caller added as `extra`."""
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD and value is not None}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record), "level": record.levelname.lower(), "logger": record.name, "event": record.getMessage(),
        }  # fmt: skip
        for key, value in _fields(record).items():
            line.setdefault(key, _number(value))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class ConsoleFormatter(logging.Formatter):
    """`TIME LEVEL event key=value …`; values with spaces in them are quoted. A traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        words = [_time(record), f"{record.levelname.lower():<7}", _one_line(record.getMessage())]
        words += [f"{key}={_word(_number(value))}" for key, value in _fields(record).items()]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _one_line(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _word(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and not any(char in text for char in ' "=') else json.dumps(text, ensure_ascii=False)


class Writer(logging.Handler):
    """Takes records from any thread, writes them from one of its own, in order.

    Args:
        stream: where lines go, None for nowhere; what cannot be written is dropped, a log never stops the server.
    """

    def __init__(self, formatter: logging.Formatter, stream: IO[str] | None) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._records: queue.SimpleQueue[logging.LogRecord | threading.Event | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="log-writer", daemon=True)
        self._thread.start()

    def createLock(self) -> None:
        """None is needed: the queue is the only thing that emit touches."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        self._records.put(record)
        if record.levelno >= logging.WARNING:
            self._hurry.set()

    def flush(self) -> None:
        """Returns when everything logged before has been written."""
        if self._thread.is_alive():
            written = threading.Event()
            self._records.put(written)
            self._hurry.set()
            written.wait()

    def close(self) -> None:
        """Write what is left and end the thread."""
        if self._thread.is_alive():
            self._records.put(None)
            self._hurry.set()
            self._thread.join()
        super().close()

    def _write_all(self) -> None:
        lines: list[str] = []
        while True:
            item = self._records.get()
            if not lines:
                self._hurry.wait(_GATHER_S)
                self._hurry.clear()
            if isinstance(item, logging.LogRecord):
                lines.append(self._formatted(item))
                if len(lines) < _BATCH and not self._records.empty():
                    continue
            self._write(lines)
            lines.clear()
            if isinstance(item, threading.Event):
                item.set()
            elif item is None:
                return

    def _formatted(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:  # a bad format string somewhere must not end the log
            return f"cannot format a record of {record.name}: {error!r}"

    def _write(self, lines: list[str]) -> None:
        if not lines or self._stream is None:
            return
        try:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None  # it has gone away


def configure(log_format: Literal["console", "json"] | str, level: str, stream: IO[str] | None = None) -> Writer:
    """Send everything that is logged in this process to `stream` (default: stderr).

    Returns the writer; its `close` writes what is left.
    """
    formatter = JsonFormatter() if log_format == "json" else ConsoleFormatter()
    writer = Writer(formatter, stream or sys.stderr)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # the documented way to not look for the caller, two thirds of a record's cost
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(writer)
    root.setLevel(LEVELS[level])
    for chatty in ("uvicorn", "urllib3", "docker", "asyncio"):
        logging.getLogger(chatty).setLevel(max(LEVELS[level], logging.WARNING))
    return writer
