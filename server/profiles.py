"""Profiles: what of a sandbox its container is made of, and can no longer be changed once it is made. Everything else (workdir,
user, environment, labels, lease) is the server's to apply.

`--warm` writes one with a number: ``IMAGE=COUNT`` and, after commas, what differs from the defaults: ``cpus=2``, ``memory=4g``,
``pids=512``, ``shm=1g``, ``network=none``, ``platform=linux/arm64``, ``read-only=true``, ``no-new-privileges=false``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from remote_env.protocol import SandboxSpec
from server.units import Kind, parse_count, parse_number, parse_size, parse_switch, parse_text, show_size

_MOST = 1000  # containers of one profile


@dataclass(frozen=True)
class Profile:
    """None: the server's default."""

    image: str
    platform: str | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    shm_bytes: int | None = None
    network: str = "bridge"
    read_only: bool = False
    no_new_privileges: bool = True

    @classmethod
    def of(cls, spec: SandboxSpec) -> Profile | None:
        """What this sandbox is made of. None where only a container of its own will do: one with binds, or of an image that has
        to be asked for first."""
        if spec.binds or spec.pull == "always":
            return None
        return cls(**{each.name: getattr(spec, each.name) for each in dataclasses.fields(cls)})

    def filled(self, memory_bytes: int, pids: int, cpus: float | None) -> Profile:
        """With the server's defaults put in: two that say the same in other words are equal then."""
        return dataclasses.replace(
            self, memory_bytes=self.memory_bytes or memory_bytes, pids=self.pids or pids, cpus=self.cpus or cpus
        )  # fmt: skip

    def spec(self, sandbox_id: str, run_id: str) -> SandboxSpec:
        """A sandbox of it, with nothing of anybody's own. Raises ValidationError for what no sandbox can have."""
        return SandboxSpec.model_validate({"id": sandbox_id, "run_id": run_id, **dataclasses.asdict(self)})


@dataclass(frozen=True)
class Warm:
    """So many containers of one profile are kept ready."""

    profile: Profile
    count: int


_OPTIONS: dict[str, tuple[str, Callable[[object], Any], Callable[[Any], str]]] = {
    # as written → attribute, how it is read, how it is shown
    "platform": ("platform", parse_text, str),
    "cpus": ("cpus", parse_number, lambda value: f"{value:g}"),
    "memory": ("memory_bytes", parse_size, show_size),
    "pids": ("pids", parse_count, str),
    "shm": ("shm_bytes", parse_size, show_size),
    "network": ("network", parse_text, str),
    "read-only": ("read_only", parse_switch, lambda value: str(value).lower()),
    "no-new-privileges": ("no_new_privileges", parse_switch, lambda value: str(value).lower()),
}


def parse_warm(value: object) -> tuple[Warm, ...]:
    """From a list of texts, or one text with white space or semicolons between them. ValueError with the end of a sentence."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s;]+", value) if part]
    if not isinstance(value, (list, tuple)):
        raise ValueError("is not a list of IMAGE=COUNT")
    found = tuple(_parse_one(parse_text(part)) for part in value)
    if len({each.profile for each in found}) < len(found):
        raise ValueError("names the same image with the same options twice")
    return found


def _parse_one(text: str) -> Warm:
    first, *options = text.split(",")
    image, equals, count = first.partition("=")
    try:
        number = parse_count(count)
    except ValueError:
        number = 0
    if not (image and equals and 0 < number <= _MOST):
        raise ValueError(f"is not IMAGE=COUNT[,OPTION=VALUE…] with a count from 1 to {_MOST}, such as python:3.12=8,cpus=2,memory=4g")
    attributes: dict[str, Any] = {}
    for option in options:
        name, _, raw = option.partition("=")
        if name.replace("_", "-") not in _OPTIONS:
            raise ValueError(f"has the unknown option {name!r}; there are {', '.join(_OPTIONS)}")
        attribute, parse, _show = _OPTIONS[name.replace("_", "-")]
        try:
            attributes[attribute] = parse(raw)
        except ValueError as error:
            raise ValueError(f"has {name}={raw}, which {error}") from None
    profile = Profile(image, **attributes)
    try:
        profile.spec("warm-sandbox", "warm-sandboxes")
    except ValidationError as error:
        first_error = error.errors()[0]
        raise ValueError(f"cannot be made: {'.'.join(map(str, first_error['loc']))}: {first_error['msg']}") from None
    return Warm(profile, number)


def show_warm(value: tuple[Warm, ...]) -> str:
    """As `parse_warm` reads it again."""
    return " ".join(map(_show_one, value)) or "none"


def _show_one(warm: Warm) -> str:
    parts = [f"{warm.profile.image}={warm.count}"]
    plain = Profile(warm.profile.image)
    for name, (attribute, _parse, show) in _OPTIONS.items():
        if (value := getattr(warm.profile, attribute)) != getattr(plain, attribute):
            parts.append(f"{name}={show(value)}")
    return ",".join(parts)


WARM = Kind("IMAGE=COUNT", parse_warm, show_warm, repeatable=True)
