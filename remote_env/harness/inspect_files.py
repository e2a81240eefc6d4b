"""Files of a sandbox for Inspect, with its exceptions: their text holds the name that was asked for.

A file whose owner may not read or write it is refused to root, too, who could do both: so Inspect's own docker sandbox reads, and
a task finds out as root what it would find out as an ordinary user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from inspect_ai.util import OutputLimitExceededError

from remote_env.errors import (
    FileError,
    FileTooLarge,
    NoSpace,
    NotARegularFile,
    RemoteEnvError,
    SandboxFileNotFound,
    SandboxIsADirectory,
    SandboxNotADirectory,
    SandboxPermissionError,
)
from remote_env.filemodels import FileInfo
from remote_env.harness.inspect_results import translated
from remote_env.harness.inspect_threads import Cancellation
from remote_env.sandbox import Sandbox

_ERRORS: tuple[tuple[type[RemoteEnvError], int], ...] = (
    (SandboxFileNotFound, errno.ENOENT),
    (SandboxIsADirectory, errno.EISDIR),
    (SandboxNotADirectory, errno.ENOTDIR),
    (SandboxPermissionError, errno.EACCES),
    (NotARegularFile, errno.EINVAL),
    (NoSpace, errno.ENOSPC),
    (FileTooLarge, errno.EFBIG),
)


def read(sandbox: Sandbox, name: str, path: str, limit: int, words: str, cancellation: Cancellation) -> bytes:
    """The file's content.

    Args:
        name: as it was asked for, for messages.
        limit: bytes that are taken at most; `words`: the same in words.

    Raises OSError of the kind that fits, OutputLimitExceededError, RuntimeError where the server is away.
    """
    _refuse_nul(path)
    try:
        info = sandbox.stat(path)
        _require(info, stat.S_IRUSR, name)
        if info.size > limit:
            raise OutputLimitExceededError(words, None)
        data = sandbox.read_bytes(path, length=limit + 1)  # it may have grown, and those in /proc have no size
    except RemoteEnvError as error:
        # What would be a directory on the way is a file: for a reader nothing is there.
        number = errno.ENOENT if isinstance(error, SandboxNotADirectory) else None
        raise _translated(error, name, number) from error
    if len(data) > limit:
        raise OutputLimitExceededError(words, None)
    return data


def write(sandbox: Sandbox, name: str, path: str, data: bytes, cancellation: Cancellation) -> None:
    """Replaces the file's content at once, or makes the file and its directory. Raises as `read`."""
    _refuse_nul(path)
    try:
        with contextlib.suppress(SandboxFileNotFound):  # `write` makes it
            _require(sandbox.stat(path), stat.S_IWUSR, name)
        sandbox.write(path, data)
    except RemoteEnvError as error:
        raise _translated(error, name, None) from error


def _require(info: FileInfo, bit: int, name: str) -> None:
    if info.type == "directory":
        raise _os_error(errno.EISDIR, name)
    if not info.mode & bit:
        raise _os_error(errno.EACCES, name)


def _translated(error: RemoteEnvError, name: str, number: int | None) -> Exception:
    if number is None:
        number = next((number for kind, number in _ERRORS if isinstance(error, kind)), None)
    if number is not None:
        return _os_error(number, name)
    if isinstance(error, FileError):
        return OSError(errno.EIO, str(error), name)
    return translated(error)


def _os_error(number: int, name: str) -> OSError:
    return OSError(number, os.strerror(number), name)  # becomes FileNotFoundError and so on by its number


def _refuse_nul(path: str) -> None:
    if "\0" in path:
        raise ValueError("embedded null byte")
