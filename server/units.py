"""How settings are written and shown: sizes (``2GiB``), durations (``24h``), lists, and so on.

A `Kind` turns what a flag, an environment variable or a TOML file says into a value, and a value back into words. Every
parser raises ValueError with the end of a sentence ("is not …").
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SIZES = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30, "t": 1 << 40,
          "tib": 1 << 40, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}  # fmt: skip
_DURATIONS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def _quantity(value: object, units: dict[str, Any], example: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"is not {example}")
        return number
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units:
        raise ValueError(f"is not {example}")
    return float(match[1]) * float(units[match[2].lower()])


def parse_size(value: object) -> int:
    """Bytes, from a number or from text such as `512MiB`, `2GiB`, `1.5g`."""
    return int(_quantity(value, _SIZES, "a size such as 512MiB or 2GiB"))


def parse_duration(value: object) -> float:
    """Seconds, from a number or from text such as `30s`, `5m`, `24h`, `0.2`."""
    return _quantity(value, _DURATIONS, "a duration such as 30s, 5m or 24h")


def parse_number(value: object) -> float:
    """A positive number."""
    number = _quantity(value, {"": 1}, "a positive number")
    if number <= 0:
        raise ValueError("is not a positive number")
    return number


def parse_count(value: object) -> int:
    """A whole number from 0 on."""
    number = _quantity(value, {"": 1}, "a whole number")
    if number != int(number):
        raise ValueError("is not a whole number")
    return int(number)


def parse_port(value: object) -> int:
    try:
        port = parse_count(value)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise ValueError("is not a port number from 0 to 65535")
    return port


def parse_text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("is not a text, or an empty one")
    return value.strip()


def parse_path(value: object) -> Path:
    text = parse_text(str(value) if isinstance(value, Path) else value)
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("begins with ~, but no home directory is known") from None


def parse_switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError("is not true or false")


def parse_texts(value: object) -> tuple[str, ...]:
    """A list, or text with commas in it."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, (list, tuple)):
        return tuple(parse_text(part) for part in value)
    raise ValueError("is not a list of texts")


def parse_paths(value: object) -> tuple[Path, ...]:
    return tuple(parse_path(part) for part in parse_texts(value))


def show_size(value: int) -> str:
    for name, unit in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value and value % unit == 0:
            return f"{value // unit}{name}"
    return f"{value}B"


def show_duration(value: float) -> str:
    for name, unit in (("h", 3600), ("m", 60)):
        if value >= unit and value % unit == 0:
            return f"{int(value // unit)}{name}"
    return f"{value:g}s"


def _show_list(value: tuple[object, ...]) -> str:
    return ", ".join(map(str, value)) or "none"


@dataclass(frozen=True)
class Kind:
    """One way of writing a value.

    Attributes:
        metavar: what `--help` shows in its place.
        parse: from a flag, an environment variable or a TOML value; ValueError with the end of a sentence.
        show: the value in words that `parse` reads again.
        repeatable: a list; on the command line each of its members may have a flag of its own.
    """

    metavar: str
    parse: Callable[[object], Any]
    show: Callable[[Any], str] = str
    repeatable: bool = False


TEXT = Kind("TEXT", parse_text)
PATH = Kind("PATH", parse_path)
PORT = Kind("PORT", parse_port)
COUNT = Kind("COUNT", parse_count)
NUMBER = Kind("NUMBER", parse_number)
SIZE = Kind("SIZE", parse_size, show_size)
DURATION = Kind("DURATION", parse_duration, show_duration)
SWITCH = Kind("true|false", parse_switch, lambda value: "true" if value else "false")
TEXTS = Kind("TEXT", parse_texts, _show_list, repeatable=True)
PATHS = Kind("PATH", parse_paths, _show_list, repeatable=True)


def choice(*words: str) -> Kind:
    """One of a few words."""

    def parse(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in words:
            raise ValueError(f"is not one of {', '.join(words)}")
        return word

    return Kind("|".join(words), parse)
