"""What goes wrong with files, as the wire has it."""

from __future__ import annotations

import errno
import os

from server.fileagent import AgentError
from server.filemessages import NOT_REGULAR
from server.problems import ProblemError

_CODES = {
    errno.ENOENT: "file_not_found", errno.EISDIR: "is_directory", errno.ENOTDIR: "not_directory", errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied", NOT_REGULAR: "not_regular", errno.ENOSPC: "no_space", errno.EDQUOT: "no_space",
    errno.EFBIG: "file_too_large", errno.EROFS: "read_only", errno.ELOOP: "too_many_links", errno.ENAMETOOLONG: "name_too_long",
    errno.ENOTEMPTY: "directory_not_empty", errno.ENOMEM: "sandbox_full", errno.EINVAL: "invalid",
}  # fmt: skip
_WORDS = {NOT_REGULAR: "Is a device, a FIFO or a socket", errno.EFBIG: "Too large a file", errno.EEXIST: "Is there already"}


def shown(path: bytes) -> str:
    """A path in words: readable, whatever bytes it holds."""
    return path.decode(errors="backslashreplace")


def code_of(number: int) -> str:
    """The wire's code for an errno."""
    return _CODES.get(number, "wrong_state")


def refusal(error: AgentError | OSError, path: bytes) -> ProblemError:
    """The refusal that an error about `path` makes."""
    number = error.number if isinstance(error, AgentError) else error.errno or 0
    return ProblemError(code_of(number), f"{shown(path)}: {_WORDS.get(number, os.strerror(number))}")
