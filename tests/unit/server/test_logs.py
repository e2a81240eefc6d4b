"""One line per event."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from server import logs

log = logging.getLogger("server.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    switches = (logging.logThreads, logging.logProcesses, logging.logMultiprocessing, logging._srcfile)
    yield io.StringIO()
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing, logging._srcfile = switches
    for each in root.handlers[:]:
        root.removeHandler(each)
        if isinstance(each, logs.Writer):
            each.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def test_json_line_holds_the_event_and_its_fields(stream: io.StringIO) -> None:
    writer = logs.configure("json", "info", stream)
    log.info("ended", extra={"execution_id": "abc", "elapsed_s": 0.12345678, "outcome": "exited", "signal": None})
    log.debug("not shown")
    writer.flush()
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "server.test",
        "event": "ended",
        "execution_id": "abc",
        "elapsed_s": 0.123457,
        "outcome": "exited",
    }


def test_console_line_quotes_what_would_be_read_wrongly(stream: io.StringIO) -> None:
    writer = logs.configure("console", "debug", stream)
    log.warning(
        "two %s", "words", extra={"plain": 5, "spaced": "a b", "forged": "x\nINFO fake", "equals": "a=b", "none": None, "empty": ""}
    )
    writer.flush()
    (line,) = stream.getvalue().splitlines()
    assert line.split(" ", 1)[1] == 'warning two words plain=5 spaced="a b" forged="x\\nINFO fake" equals="a=b" empty=""'


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_traceback_of_a_failure_is_kept(stream: io.StringIO, log_format: str) -> None:
    writer = logs.configure(log_format, "info", stream)
    try:
        raise ValueError("what went wrong")
    except ValueError as error:
        log.error("failed", exc_info=error)
    writer.flush()
    assert "Traceback" in stream.getvalue()
    assert "what went wrong" in stream.getvalue()


def test_lines_come_in_order_and_none_is_lost_at_the_end(stream: io.StringIO) -> None:
    writer = logs.configure("json", "info", stream)
    for number in range(5000):
        log.info("n", extra={"number": number})
    writer.close()
    assert [json.loads(line)["number"] for line in stream.getvalue().splitlines()] == list(range(5000))


def test_a_stream_that_breaks_ends_the_lines_and_not_the_server(stream: io.StringIO) -> None:
    writer = logs.configure("json", "info", stream)
    stream.close()
    log.info("into the void")
    writer.flush()
    log.info("again")
    writer.flush()


def test_a_record_that_cannot_be_formatted_is_named(stream: io.StringIO) -> None:
    writer = logs.configure("json", "info", stream)
    log.info("%d", "not a number")
    log.info("next")
    writer.flush()
    first, second = stream.getvalue().splitlines()
    assert "server.test" in first
    assert json.loads(second)["event"] == "next"
