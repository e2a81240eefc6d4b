"""A command's output as text that neither a terminal nor a browser takes for anything but text."""

from __future__ import annotations

import re

# CSI (colours, cursor), OSC and other strings (titles, links; cut ones too), and the two-character sequences.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def readable(text: str) -> str:
    """Without colours and cursor movement, of lines that were drawn again and again (progress bars) the last drawing; other
    control characters, those that turn the direction of writing, and broken UTF-16 as visible signs."""
    plain = _SEQUENCE.sub("", text).replace("\r\n", "\n")
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in plain.split("\n"))
    return _CONTROL.sub(_sign, "\n".join(lines))


def _sign(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x20:
        return chr(0x2400 + number)  # Unicode's picture of it
    return "\u2421" if number == 0x7F else f"\\u{number:04x}"


def span(seconds: float) -> str:
    """How long something took: `0.42s`, `3.1s`, `2m 05s`, `1h 20m`."""
    if seconds < 60:
        return f"{max(0.0, seconds):.2f}s" if seconds < 1 else f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"


def clock(seconds: float) -> str:
    """A number on an axis: `0`, `0.5 s`, `20 s`, `1:20`, `1:02:00`."""
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds > 0 else "0"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
