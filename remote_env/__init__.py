"""Run commands in containers on another machine: each at most once, and never lose a result.

    from remote_env import RemoteDockerEnvironment

    with RemoteDockerEnvironment(image="python:3.12-slim") as env:
        print(env.execute("python --version")["output"])

`Client`, `Sandbox` and `Execution` are the same for programmers; `errors` is cut by what became of the command.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from remote_env.version import __version__

if TYPE_CHECKING:
    from remote_env.client import Client
    from remote_env.environment import RemoteDockerEnvironment
    from remote_env.errors import (
        AnswerMismatch,
        CommandFailed,
        CommandLost,
        CommandNotDelivered,
        EpochChanged,
        IdConflict,
        ImageNotFound,
        InvalidSpec,
        LinkLost,
        MisuseError,
        NotRunError,
        OutcomeUnknownError,
        OutputIncomplete,
        ProtocolMismatch,
        RemoteEnvError,
        SandboxGone,
        SandboxNotCreated,
        ServerBusy,
        SignalNotSent,
        Unauthorized,
        Unreachable,
    )
    from remote_env.events import Accepted, Ended, Gap, OutputPiece, Started
    from remote_env.eventstream import EventStream
    from remote_env.execution import Execution
    from remote_env.idempotency import ReadCommands
    from remote_env.link import Link, LinkSnapshot
    from remote_env.linkstate import LinkState
    from remote_env.sandbox import Sandbox
    from remote_env.timings import Timings

__all__ = [
    "Accepted",
    "AnswerMismatch",
    "Client",
    "CommandFailed",
    "CommandLost",
    "CommandNotDelivered",
    "Ended",
    "EpochChanged",
    "EventStream",
    "Execution",
    "Gap",
    "IdConflict",
    "ImageNotFound",
    "InvalidSpec",
    "Link",
    "LinkLost",
    "LinkSnapshot",
    "LinkState",
    "MisuseError",
    "NotRunError",
    "OutcomeUnknownError",
    "OutputIncomplete",
    "OutputPiece",
    "ProtocolMismatch",
    "ReadCommands",
    "RemoteDockerEnvironment",
    "RemoteEnvError",
    "Sandbox",
    "SandboxGone",
    "SandboxNotCreated",
    "ServerBusy",
    "SignalNotSent",
    "Started",
    "Timings",
    "Unauthorized",
    "Unreachable",
    "__version__",
]

# Where each name lives. They are imported when they are asked for: the server and `remote-env --version` need none of them.
_HOMES = {
    "Client": "client",
    "RemoteDockerEnvironment": "environment",
    "AnswerMismatch": "errors",
    "CommandFailed": "errors",
    "CommandLost": "errors",
    "CommandNotDelivered": "errors",
    "EpochChanged": "errors",
    "IdConflict": "errors",
    "ImageNotFound": "errors",
    "InvalidSpec": "errors",
    "LinkLost": "errors",
    "MisuseError": "errors",
    "NotRunError": "errors",
    "OutcomeUnknownError": "errors",
    "OutputIncomplete": "errors",
    "ProtocolMismatch": "errors",
    "RemoteEnvError": "errors",
    "SandboxGone": "errors",
    "SandboxNotCreated": "errors",
    "ServerBusy": "errors",
    "SignalNotSent": "errors",
    "Unauthorized": "errors",
    "Unreachable": "errors",
    "Accepted": "events",
    "Ended": "events",
    "Gap": "events",
    "OutputPiece": "events",
    "Started": "events",
    "EventStream": "eventstream",
    "Execution": "execution",
    "ReadCommands": "idempotency",
    "Link": "link",
    "LinkSnapshot": "link",
    "LinkState": "linkstate",
    "Sandbox": "sandbox",
    "Timings": "timings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"remote_env.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
