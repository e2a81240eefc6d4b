"""What an init is told to run: an execution's spec as the link's message."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from remote_env.protocol import ExecutionSpec
from server.messages import LINK_VERSION, SESSIONS_SINCE, Run, RunFlag

ARGUMENT_LIMIT = 128 << 10  # bytes of one argument or "NAME=value", with the NUL that ends it (execve(2), MAX_ARG_STRLEN)


def too_long_for_the_kernel(spec: ExecutionSpec) -> str | None:
    """Why this cannot be run: no program takes so long an argument. A command for a shell may be of any length."""
    for index, argument in enumerate(spec.argv or ()):
        if _is_too_long(argument):
            return f"argv[{index}]: the kernel takes less than {ARGUMENT_LIMIT} bytes in one argument; hand it over by stdin or as a file"
    for name, value in spec.env.items():
        if _is_too_long(f"{name}={value}"):
            return f"env.{name}: the kernel takes less than {ARGUMENT_LIMIT} bytes in one variable; hand it over by stdin or as a file"
    return None


def _is_too_long(text: str) -> bool:
    if len(text) < ARGUMENT_LIMIT // 4:  # no character has more than four bytes
        return False
    return len(text.encode("utf-8", "surrogateescape")) >= ARGUMENT_LIMIT


def run_message(
    spec: ExecutionSpec, number: int, sandbox_spec: Mapping[str, Any], link_version: int = LINK_VERSION,
    sandbox_env: Mapping[str, str] | None = None,
) -> tuple[Run, bytes | None]:  # fmt: skip
    """The message, and the bytes of stdin where it has one. What the spec leaves open is the sandbox's, or the session's.

    Args:
        sandbox_env: what of the sandbox's environment its container was made without.
    """
    flags = RunFlag(0)
    if spec.streams == "split":
        flags |= RunFlag.SPLIT
    argv: tuple[str, ...]
    if spec.session is not None:
        assert spec.command is not None
        argv = (spec.command,)
    elif spec.argv is not None:
        argv = spec.argv
    else:
        argv = _shell(spec)
        if spec.shell is None:
            flags |= RunFlag.SHELL
        if spec.command is not None and link_version >= SESSIONS_SINCE and _is_too_long(spec.command):
            flags |= RunFlag.SCRIPT
    if spec.opens is not None:
        flags |= RunFlag.SESSION
    if spec.make_workdir:
        flags |= RunFlag.MAKE_WORKDIR
    env = spec.env
    if spec.tty is not None:
        flags |= RunFlag.TTY if spec.tty.echo else RunFlag.TTY | RunFlag.ECHO_OFF
        env = {"TERM": spec.tty.term, **env}
    if sandbox_env:
        env = {**sandbox_env, **env}
    if spec.stdin_unlink:
        flags |= RunFlag.UNLINK_STDIN
    stdin = spec.stdin_bytes()
    if stdin is not None:
        flags |= RunFlag.STDIN
    own = spec.session is None
    run = Run(
        number=number, id=spec.id, argv=argv, env=tuple(f"{name}={value}" for name, value in env.items()) if own else (),
        user=(spec.user or sandbox_spec.get("user") or "") if own else "",
        workdir=(spec.workdir or sandbox_spec.get("workdir") or "/") if own else "/",
        flags=flags, timeout_ms=_ms(spec.clock_s), idle_timeout_ms=_ms(spec.idle_timeout_s), grace_ms=_ms(spec.grace_s),
        session=spec.session or "", rows=spec.tty.rows if spec.tty else 0, cols=spec.tty.cols if spec.tty else 0,
        stdin_path=spec.stdin_path or "",
    )  # fmt: skip
    return run, stdin


def _shell(spec: ExecutionSpec) -> tuple[str, ...]:
    shell = spec.shell or "bash"
    if spec.command is None:  # it opens a session
        return (shell, "-l") if spec.login else (shell,)
    return (shell, "-lc" if spec.login else "-c", spec.command)


def _ms(seconds: float | None) -> int:
    return 0 if seconds is None else math.ceil(seconds * 1000)
