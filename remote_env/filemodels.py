"""The wire's words for files, for what changed in a sandbox, and for images made of one; shared by client and server."""

from __future__ import annotations

import base64
import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator
from typing_extensions import Self

from remote_env.fields import Id
from remote_env.protocol import Answer, Request

HASHED = "application/vnd.remote-env.hashed"
"""A body of this type is the content, and behind it the 32 bytes of the content's SHA-256: so it can be sent before it has been
read to its end, and a body that is cut never passes for a whole one."""
DIGEST_BYTES = 32
MODE_HEADER = "X-Remote-Env-Mode"  # a file's permission bits, octal, beside its raw content

LEFT_OUT = "REMOTE_ENV.left_out"
"""A record of the extended header of the last entry of a tree that is sent: JSON, a list of {path, code} of what is not in it."""

FileType = Literal["file", "directory", "symlink", "other"]


class FileInfo(Answer):
    """One file of a sandbox. `other`: a device, FIFO or socket, which can be listed and removed, but not read or written."""

    path: str
    type: FileType
    size: int  # bytes
    mode: int  # permission bits, 0 to 0o7777
    mtime: float  # seconds since the epoch
    uid: int
    gid: int
    target: str | None = None  # of a symlink, as it is written there
    path_base64: str | None = None  # the bytes themselves, where they are no UTF-8 and `path` shows them with U+FFFD
    target_base64: str | None = None

    def decoded(self) -> Self:
        """With names that are no UTF-8 as Python has them elsewhere (`os.fsdecode`): they can be used as paths again."""
        names = {"path": self.path_base64, "target": self.target_base64}
        real = {field: os.fsdecode(base64.b64decode(each)) for field, each in names.items() if each is not None}
        return self.model_copy(update=real) if real else self

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2] or "/"


class FileList(Answer):
    """GET …/files?as=list: what is in a directory, sorted by name."""

    entries: list[FileInfo]


class WrittenFile(FileInfo):
    """What a PUT has made. `sha256`: hex, of the content as the server got it; None for a tree."""

    sha256: str | None = None


class RemovedFile(Answer):
    """DELETE …/files: what is not there any more."""

    path: str
    path_base64: str | None = None


# ---------------------------------------------------------------------------------------------- diff and snapshot


class Change(Answer):
    """One path that is otherwise than in the sandbox's image. A directory is modified when something in it was."""

    path: str
    kind: Literal["added", "modified", "deleted"]


class Changes(Answer):
    """GET /v1/sandboxes/{sid}/diff"""

    changes: list[Change]


_NAME = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/)?"  # a registry's host and port
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
)


def _check_name(value: str) -> str:
    if len(value) > 255 or not _NAME.fullmatch(value):
        raise ValueError("not a name for an image, such as repository:tag with a lowercase repository")
    return value


class SnapshotRequest(Request):
    """POST /v1/sandboxes/{sid}/snapshot. The same id again is the same snapshot, whose result the server remembers for a while."""

    image: Annotated[str, AfterValidator(_check_name)]
    id: Id | None = None


class Snapshot(Answer):
    """An image made of a sandbox. `creating` comes with 202: ask again, with the same id."""

    id: str
    image: str
    state: Literal["creating", "ready"]
    image_id: str | None = None  # the engine's own
    size_bytes: int | None = None  # of the whole image
