"""Run commands in containers on another machine: each at most once, and never lose a result.

    from remote_env import RemoteDockerEnvironment

    with RemoteDockerEnvironment(image="python:3.12-slim") as env:
        print(env.execute("python --version")["output"])

`Client`, `Sandbox` and `Execution` are the same for programmers; `errors` is cut by what became of the command.
"""

from __future__ import annotations

from remote_env.client import Client
from remote_env.environment import RemoteDockerEnvironment
from remote_env.errors import (
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
    Unauthorized,
    Unreachable,
)
from remote_env.execution import Execution
from remote_env.idempotency import ReadCommands
from remote_env.sandbox import Sandbox
from remote_env.timings import Timings
from remote_env.version import __version__

__all__ = [
    "Client",
    "CommandFailed",
    "CommandLost",
    "CommandNotDelivered",
    "EpochChanged",
    "Execution",
    "IdConflict",
    "ImageNotFound",
    "InvalidSpec",
    "LinkLost",
    "MisuseError",
    "NotRunError",
    "OutcomeUnknownError",
    "OutputIncomplete",
    "ProtocolMismatch",
    "ReadCommands",
    "RemoteDockerEnvironment",
    "RemoteEnvError",
    "Sandbox",
    "SandboxGone",
    "SandboxNotCreated",
    "ServerBusy",
    "Timings",
    "Unauthorized",
    "Unreachable",
    "__version__",
]
