"""One `exec` of Inspect as a command of ours, and its way from being sent to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remote_env import protocol
from remote_env.harness.inspect_threads import Cancellation
from remote_env.idempotency import ReadCommands
from remote_env.sandbox import Sandbox

ARGUMENT_LIMIT = 128 << 10  # bytes, the NUL at its end included: what the kernel takes for one argument

_SHELLS = ("bash", "sh", "/bin/bash", "/bin/sh", "/usr/bin/bash", "/usr/bin/sh")
# → whether it is a login shell
_SHELL_FLAGS = {("-c",): False, ("-lc",): True, ("-cl",): True, ("-l", "-c"): True, ("--login", "-c"): True}


@dataclass(frozen=True)
class Command:
    """What is sent: a string for the shell that `options` names, or an argv list."""

    words: str | tuple[str, ...]
    script: str | None  # of a shell; the whole command is nothing but it
    options: Mapping[str, Any]

    @classmethod
    def of(cls, cmd: list[str], *, input: str | bytes | None, cwd: str | None, env: Mapping[str, str], user: str | None) -> Command:
        """Raises ValueError, as the subprocess module does, for what no command can hold."""
        if not cmd:
            raise ValueError("cmd must not be empty")
        if any("\0" in text for text in (*cmd, cwd or "", user or "", *env, *env.values())):
            raise ValueError("embedded null byte")
        options: dict[str, Any] = {"env": dict(env)}
        if cwd is not None:
            options["workdir"] = cwd
        if user is not None:
            options["user"] = user
        if input is not None:
            options["stdin"] = input.encode() if isinstance(input, str) else input
        shell, flags = cmd[0], tuple(cmd[1:-1])
        script = cmd[-1] if shell in _SHELLS and flags in _SHELL_FLAGS else None
        if script is not None and len(script.encode()) >= ARGUMENT_LIMIT:
            # No program can be given such an argument; a shell gets it by descriptor.
            return cls(script, script, {**options, "shell": shell, "login": _SHELL_FLAGS[flags]})
        return cls(tuple(cmd), script, options)

    @property
    def too_long(self) -> bool:
        """Whether no program can be given one of its arguments, so that it would not start."""
        return not isinstance(self.words, str) and any(len(word.encode()) >= ARGUMENT_LIMIT for word in self.words)

    @property
    def only_reads(self) -> bool:
        """Whether it is proven to change nothing."""
        return ReadCommands.default().is_read(self.words if self.script is None else self.script)


def run(
    sandbox: Sandbox, command: Command, timeout_s: float | None, limit: int, cancellation: Cancellation
) -> tuple[protocol.Execution, bytes, bytes]:
    """Runs the command at most once and waits for its end: its record, and what is kept of stdout and stderr, at most `limit` bytes
    of each. Raises as `Sandbox.run`, and OutputIncomplete.
    """
    sent = sandbox.stream(
        command.words if isinstance(command.words, str) else list(command.words),
        idempotent=command.only_reads,
        streams="split",
        timeout_s=timeout_s,
        output_limit_bytes=max(2, limit),
        **command.options,
    )
    sent.close()  # nobody listens while it runs: its end brings its output
    execution = sent.execution
    cancellation.undo_with(execution.cancel)
    execution.wait()
    return execution.record, execution.output(), execution.stderr()
