"""Run commands in containers on another machine: each at most once, and never lose a result.

    from remote_env import RemoteDockerEnvironment

    with RemoteDockerEnvironment(image="python:3.12-slim") as env:
        print(env.execute("python --version")["output"])

`Client`, `Sandbox` and `Execution` are the same for programmers, `Session` and `Terminal` for what is to keep its state or to be
talked with; a sandbox's files are methods of `Sandbox`. `AsyncClient` is the same for asyncio. `errors` is cut by what became of
the command.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from remote_env.version import __version__

if TYPE_CHECKING:
    from remote_env.aio import AsyncClient as AsyncClient
    from remote_env.aio import AsyncEventStream as AsyncEventStream
    from remote_env.aio import AsyncExecution as AsyncExecution
    from remote_env.aio import AsyncSandbox as AsyncSandbox
    from remote_env.aio import AsyncSession as AsyncSession
    from remote_env.aio import AsyncTerminal as AsyncTerminal
    from remote_env.batch.batchresult import BatchResult
    from remote_env.batch.run import run_batch
    from remote_env.client import Client
    from remote_env.environment import RemoteDockerEnvironment
    from remote_env.errors import (
        AnswerMismatch,
        CommandFailed,
        CommandLost,
        CommandNotDelivered,
        Damaged,
        DirectoryNotEmpty,
        EpochChanged,
        ExpectEnded,
        ExpectTimeout,
        FileChanged,
        FileError,
        FileTooLarge,
        IdConflict,
        ImageNotFound,
        InputNotTaken,
        InputUnknown,
        InvalidSpec,
        LinkLost,
        MisuseError,
        NoSpace,
        NotARegularFile,
        NotRunError,
        OutcomeUnknownError,
        OutputIncomplete,
        ProtocolMismatch,
        RemoteEnvError,
        SandboxFileNotFound,
        SandboxGone,
        SandboxIsADirectory,
        SandboxNotADirectory,
        SandboxNotCreated,
        SandboxPermissionError,
        ServerBusy,
        SessionEnded,
        SessionNotOpened,
        SignalNotSent,
        Unauthorized,
        Unreachable,
    )
    from remote_env.events import Accepted, Ended, Gap, OutputPiece, Started
    from remote_env.eventstream import EventStream
    from remote_env.execution import Execution
    from remote_env.expecting import END
    from remote_env.filemodels import Change, FileInfo, Snapshot, WrittenFile
    from remote_env.idempotency import ReadCommands
    from remote_env.link import Link, LinkSnapshot
    from remote_env.linkstate import LinkState
    from remote_env.protocol import Tty
    from remote_env.sandbox import Sandbox
    from remote_env.session import Session
    from remote_env.terminal import Terminal
    from remote_env.terminal_base import Expected
    from remote_env.timings import Timings
    from remote_env.transfers import Progress, Transfer

__all__ = [
    "END",
    "Accepted",
    "AnswerMismatch",
    "BatchResult",
    "Change",
    "Client",
    "CommandFailed",
    "CommandLost",
    "CommandNotDelivered",
    "Damaged",
    "DirectoryNotEmpty",
    "Ended",
    "EpochChanged",
    "EventStream",
    "Execution",
    "ExpectEnded",
    "ExpectTimeout",
    "Expected",
    "FileChanged",
    "FileError",
    "FileInfo",
    "FileTooLarge",
    "Gap",
    "IdConflict",
    "ImageNotFound",
    "InputNotTaken",
    "InputUnknown",
    "InvalidSpec",
    "Link",
    "LinkLost",
    "LinkSnapshot",
    "LinkState",
    "MisuseError",
    "NoSpace",
    "NotARegularFile",
    "NotRunError",
    "OutcomeUnknownError",
    "OutputIncomplete",
    "OutputPiece",
    "Progress",
    "ProtocolMismatch",
    "ReadCommands",
    "RemoteDockerEnvironment",
    "RemoteEnvError",
    "Sandbox",
    "SandboxFileNotFound",
    "SandboxGone",
    "SandboxIsADirectory",
    "SandboxNotADirectory",
    "SandboxNotCreated",
    "SandboxPermissionError",
    "ServerBusy",
    "Session",
    "SessionEnded",
    "SessionNotOpened",
    "SignalNotSent",
    "Snapshot",
    "Started",
    "Terminal",
    "Timings",
    "Transfer",
    "Tty",
    "Unauthorized",
    "Unreachable",
    "WrittenFile",
    "__version__",
    "run_batch",
]

# Where each name lives. They are imported when they are asked for: the server and `remote-env --version` need none of them.
_HOMES = {
    # Not in `__all__`: they need the extra `async`.
    "AsyncClient": "aio",
    "AsyncEventStream": "aio",
    "AsyncExecution": "aio",
    "AsyncSandbox": "aio",
    "AsyncSession": "aio",
    "AsyncTerminal": "aio",
    "BatchResult": "batch.batchresult",
    "run_batch": "batch.run",
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
    "FileError": "errors",
    "SandboxFileNotFound": "errors",
    "SandboxIsADirectory": "errors",
    "SandboxNotADirectory": "errors",
    "SandboxPermissionError": "errors",
    "DirectoryNotEmpty": "errors",
    "NotARegularFile": "errors",
    "FileTooLarge": "errors",
    "NoSpace": "errors",
    "FileChanged": "errors",
    "Damaged": "errors",
    "Progress": "transfers",
    "Transfer": "transfers",
    "FileInfo": "filemodels",
    "WrittenFile": "filemodels",
    "Snapshot": "filemodels",
    "Change": "filemodels",
    "ExpectEnded": "errors",
    "ExpectTimeout": "errors",
    "InputNotTaken": "errors",
    "InputUnknown": "errors",
    "SessionEnded": "errors",
    "SessionNotOpened": "errors",
    "END": "expecting",
    "Session": "session",
    "Terminal": "terminal",
    "Expected": "terminal_base",
    "Tty": "protocol",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"remote_env.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
