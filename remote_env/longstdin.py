"""Standard input that is too long to travel in a request: a file of the sandbox, laid down before the command and gone once it is open.

Its name follows from the execution's id, so that who sends a command once more sends the same request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeGuard

from remote_env.errors import (
    FileError,
    NotRunError,
    OutcomeUnknownError,
    RemoteEnvError,
    SandboxFileNotFound,
    SandboxGone,
    SandboxNotADirectory,
    SandboxPermissionError,
)  # fmt: skip
from remote_env.files import Files
from remote_env.protocol import ExecutionSpec

BYTES_INLINE = 8 << 20  # travel as base64: four thirds of that
TEXT_INLINE = 2 << 20  # characters: as JSON, one may take six bytes
_DIRECTORIES = ("/tmp", "/dev/shm")  # the second is there where the root file system cannot be written

log = logging.getLogger("remote_env")


def is_long(stdin: object) -> TypeGuard[str | bytes | bytearray]:
    return (isinstance(stdin, (bytes, bytearray)) and len(stdin) > BYTES_INLINE) or (isinstance(stdin, str) and len(stdin) > TEXT_INLINE)


def in_place_of(execution_id: str) -> dict[str, Any]:
    """The fields that say it to the server."""
    return {"stdin_path": _path(_DIRECTORIES[0], execution_id), "stdin_unlink": True}


async def lay_down(files: Files, stdin: str | bytes | bytearray, spec: ExecutionSpec) -> ExecutionSpec:
    """Writes it as the command's user, for nobody else to read. The request that says where it is.

    Raises NotRunError, SandboxGone.
    """
    data = stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else bytes(stdin)
    failure: FileError | None = None
    for directory in _DIRECTORIES:
        path = _path(directory, spec.id)
        try:
            await files.write(path, data, mode=0o600, parents=False, user=spec.user)
        except (SandboxFileNotFound, SandboxNotADirectory, SandboxPermissionError) as error:
            failure = failure or error
        except (FileError, OutcomeUnknownError) as error:
            raise _not_run(error, spec) from error
        else:
            return spec.model_copy(update={"stdin_path": path})
    assert failure is not None
    raise _not_run(failure, spec) from failure


async def take_up(files: Callable[[], Files], spec: ExecutionSpec) -> None:
    """Removes what a command that did not open it has left."""
    try:
        await files().remove(spec.stdin_path or "", user=spec.user)
    except (SandboxFileNotFound, SandboxGone):
        return
    except RemoteEnvError as error:
        log.warning("the standard input of execution %s may be left in %s: %s", spec.id, spec.stdin_path, error)


def _path(directory: str, execution_id: str) -> str:
    return f"{directory}/.remote-env-stdin-{execution_id}"


def _not_run(error: RemoteEnvError, spec: ExecutionSpec) -> NotRunError:
    return NotRunError(f"Its standard input could not be put into the sandbox, so it did not run: {error}", execution_id=spec.id)
