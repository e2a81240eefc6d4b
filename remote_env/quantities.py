"""How people write and read sizes and durations. Parsers raise ValueError with a whole sentence."""

from __future__ import annotations

import re

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DURATIONS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Bytes, from `512m`, `2GiB`, `1.5g` or a plain number."""
    match = _QUANTITY.fullmatch(text.strip())
    unit = match[2].lower().removesuffix("ib") if match else None
    if match is None or unit not in _SIZES:
        raise ValueError(f"{text!r} is not a size such as 512m or 2g")
    return int(float(match[1]) * _SIZES[unit])


def parse_duration(text: str) -> float:
    """Seconds, from `30s`, `5m`, `24h`, `7d` or a plain number; more than 0."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2].lower() not in _DURATIONS or not float(match[1]):
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m or 24h")
    return float(match[1]) * _DURATIONS[match[2].lower()]


def show_duration(seconds: float) -> str:
    """`45s`, `12m`, `3h 20m`, `2d 4h`: two units at most, enough to see how old something is."""
    if seconds < 60:
        return f"{max(0.0, seconds):.0f}s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 60:
        return f"{minutes}m"
    if hours < 24:
        return f"{hours}h {minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{days}d {hours % 24}h" if hours % 24 else f"{days}d"


def show_span(seconds: float) -> str:
    """How long something took, finer than `show_duration`: `0.42s`, `3.1s`, `2m`."""
    if seconds < 1:
        return f"{max(0.0, seconds):.2f}s"
    return f"{seconds:.1f}s" if seconds < 60 else show_duration(seconds)


def show_size(count: int) -> str:
    """`812 B`, `4.0 KiB`, `2.0 GiB`."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
