"""What SWE-ReX and SWE-agent get to see where it is not the command that failed but what it ran on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from swerex.exceptions import SessionDoesNotExistError, SwerexException

from remote_env.answer import sentence
from remote_env.errors import FileError, MisuseError, RemoteEnvError, SessionEnded
from remote_env.protocol import Execution


class SandboxFailure(SwerexException, RuntimeError):
    """The sandbox, its server or the way there failed; the message says whether the command ran and what to do. SWE-agent ends its task
    on it and submits what there is. `__cause__`, where there is one, is the RemoteEnvError."""


@contextmanager
def as_swerex_exceptions() -> Iterator[None]:
    """Turns what the client raises into what SWE-ReX knows. What is about a file stays, where it is an OSError of its kind; a wrong
    call is a ValueError."""
    try:
        yield
    except SessionEnded as error:
        raise SessionDoesNotExistError(str(error)) from error
    except MisuseError as error:
        raise ValueError(str(error)) from error
    except OSError:  # most FileErrors are of its kinds
        raise
    except FileError as error:
        raise OSError(str(error)) from error
    except RemoteEnvError as error:
        raise SandboxFailure(str(error)) from error


def without_result(record: Execution, program: str, workdir: str | None) -> Exception:
    """The exception for a command that ended without an exit code of its own; for one that could not be started the one that
    `subprocess.run` would raise."""
    outcome = record.outcome
    if outcome is not None and outcome.kind == "failed_to_start" and outcome.errno:
        name = workdir if outcome.reason == "no_workdir" else program
        return OSError(outcome.errno, os.strerror(outcome.errno), name)
    return SandboxFailure(sentence(record))
