"""What people write on a command line beside sizes and durations. Parsers raise ValueError with a whole sentence."""

from __future__ import annotations

import re
import signal

from remote_env.quantities import parse_duration, parse_size, show_duration, show_size, show_span

__all__ = [
    "parse_bind",
    "parse_duration",
    "parse_env",
    "parse_signal",
    "parse_size",
    "show_duration",
    "show_size",
    "show_span",
    "signal_name",
]

_ENV_NAME = re.compile(r"[^=\0]+")


def parse_env(assignments: list[str], environ: dict[str, str]) -> dict[str, str]:
    """Variables from `K=V`, and from `K` alone, which is passed on from `environ` where it is set there."""
    variables: dict[str, str] = {}
    for assignment in assignments:
        name, given, value = assignment.partition("=")
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"{assignment!r} is not KEY=VALUE")
        if given:
            variables[name] = value
        elif name in environ:
            variables[name] = environ[name]
    return variables


def parse_bind(text: str) -> dict[str, str | bool]:
    """A bind from `SOURCE:TARGET` or `SOURCE:TARGET:rw`; read-only unless told otherwise."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(part.startswith("/") for part in parts[:2]) or parts[2:] not in ([], ["ro"], ["rw"]):
        raise ValueError(f"{text!r} is not SOURCE:TARGET[:ro|rw] with absolute paths")
    return {"source": parts[0], "target": parts[1], "read_only": parts[2:] != ["rw"]}


def parse_signal(text: str) -> int:
    """A signal's number from `9`, `KILL` or `SIGKILL`."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 64:
        return int(text)
    name = text.upper()
    found = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
    if found is None:
        raise ValueError(f"{text!r} is not a signal such as TERM, SIGKILL or 9")
    return int(found)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
