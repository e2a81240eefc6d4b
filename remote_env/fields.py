"""What the fields of the wire's models are made of: ids, texts without NUL, paths, times, durations."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime, timezone
from typing import Annotated

from pydantic import AfterValidator, Field

ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{7,63}")
_IMAGE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}")
_ENV_NAME_PATTERN = re.compile(r"[^=\0]+")


def new_id() -> str:
    """A fresh id: a UUIDv7 (RFC 9562 §5.7) as 32 hex digits, so that ids sort by the time they were made."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"


def _check_id(value: str) -> str:
    if not ID_PATTERN.fullmatch(value):
        raise ValueError("an id is 8 to 64 characters of a-z, 0-9, _ and -, and begins with a letter or digit")
    return value


def _check_no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("a NUL byte cannot be part of a command, a name or a path")
    return value


def _check_env(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not _ENV_NAME_PATTERN.fullmatch(name) or "\0" in text:
            raise ValueError(f"not an environment variable: {name!r}")
    return value


def _check_image(value: str) -> str:
    if not _IMAGE_PATTERN.fullmatch(value):
        raise ValueError("not an image reference")
    return value


def _check_absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("not an absolute path")
    return value


def _in_utc(time: datetime) -> datetime:
    """Without the parser's own kind of time zone: the interpreter may have freed that type before the last such time goes, and
    then dies at its exit."""
    try:
        return time if time.tzinfo is None else time.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError("no year of ours") from None


Id = Annotated[str, AfterValidator(_check_id)]
Image = Annotated[str, AfterValidator(_check_image)]
Text = Annotated[str, AfterValidator(_check_no_nul)]
Time = Annotated[datetime, AfterValidator(_in_utc)]
AbsolutePath = Annotated[str, AfterValidator(_check_no_nul), AfterValidator(_check_absolute)]
Env = Annotated[dict[str, str], AfterValidator(_check_env)]
Duration = Annotated[float, Field(gt=0, allow_inf_nan=False)]
