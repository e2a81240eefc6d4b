"""One field of a cron expression: lists of values, ranges and steps."""

from __future__ import annotations


def parse_field(text: str, low: int, high: int) -> frozenset[int]:
    """The values that a field stands for, all of them within low and high.

    Raises ValueError for anything else.
    """
    values: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = _number(step_text, part) if slash else 1
        if step == 0:
            raise ValueError(f"{part!r}: a step of 0")
        first, last = _span(span, low, high, open_ended=bool(slash))
        if not low <= first <= last <= high:
            raise ValueError(f"{part!r} is not within {low} and {high}")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _span(text: str, low: int, high: int, open_ended: bool) -> tuple[int, int]:
    if text == "*":
        return low, high
    first, dash, last = text.partition("-")
    if dash:
        return _number(first, text), _number(last, text)
    value = _number(text, text)
    return value, high if open_ended else value


def _number(text: str, whole: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{whole!r} is not a cron field")
    return int(text)
