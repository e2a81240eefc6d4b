"""What an init is told to run: an execution's spec as the link's message."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from remote_env.protocol import ExecutionSpec
from server.messages import Run, RunFlag


def run_message(spec: ExecutionSpec, number: int, sandbox_spec: Mapping[str, Any]) -> tuple[Run, bytes | None]:
    """The message, and the bytes of stdin where it has one. What the spec leaves open is the sandbox's."""
    flags = RunFlag.MAKE_WORKDIR if spec.make_workdir else RunFlag(0)
    if spec.streams == "split":
        flags |= RunFlag.SPLIT
    argv: tuple[str, ...]
    if spec.argv is not None:
        argv = spec.argv
    else:
        assert spec.command is not None
        argv = (spec.shell or "bash", "-lc" if spec.login else "-c", spec.command)
        if spec.shell is None:
            flags |= RunFlag.SHELL
    stdin = spec.stdin_bytes()
    if stdin is not None:
        flags |= RunFlag.STDIN
    run = Run(
        number=number, id=spec.id, argv=argv, env=tuple(f"{name}={value}" for name, value in spec.env.items()),
        user=spec.user or sandbox_spec.get("user") or "", workdir=spec.workdir or sandbox_spec.get("workdir") or "/",
        flags=flags, timeout_ms=_ms(spec.timeout_s), idle_timeout_ms=_ms(spec.idle_timeout_s), grace_ms=_ms(spec.grace_s),
    )  # fmt: skip
    return run, stdin


def _ms(seconds: float | None) -> int:
    return 0 if seconds is None else math.ceil(seconds * 1000)
