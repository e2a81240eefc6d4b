"""Carrying out a `cp`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from remote_env.cli import bar, screen
from remote_env.cli.lookup import find_sandbox
from remote_env.cli.placing import Place, landing
from remote_env.driving import drive
from remote_env.errors import SandboxFileNotFound
from remote_env.transfers import Transfer

if TYPE_CHECKING:
    from remote_env.client import Client
    from remote_env.sandbox import Sandbox

_IN_MEMORY = 8 << 20  # bytes of standard input; what is longer goes through a temporary file
_READ_BYTES = 1 << 20


class Copy:
    """Args:
    user: whose rights count in the sandbox.
    """

    def __init__(self, *, user: str | None, tar: bool, resume: bool, quiet: bool) -> None:
        self.left: str | None = None  # what a download that is interrupted leaves behind to go on with
        self._user = user
        self._tar = tar
        self._resume = resume
        self._quiet = quiet

    def carry_out(self, client: Client, source: Place, destination: Place) -> Transfer:
        """Raises RemoteEnvError, and OSError for what is wrong here."""
        sandbox = find_sandbox(client, source.sandbox or destination.sandbox or "")
        if source.is_stream:
            return self._from_stdin(sandbox, destination)
        if destination.is_stream:
            return self._to_stdout(sandbox, source)
        if source.sandbox is None:
            return self._upload(sandbox, source, destination)
        return self._download(sandbox, source, destination)

    def _upload(self, sandbox: Sandbox, source: Place, destination: Place) -> Transfer:
        os.stat(source.path)  # first: nothing there needs no further questions
        target = landing(source, destination, self._kind(sandbox, destination.path))
        with bar.shown(quiet=self._quiet) as tell:
            return sandbox.upload(source.path, target, user=self._user, on_progress=tell)

    def _download(self, sandbox: Sandbox, source: Place, destination: Place) -> Transfer:
        kind = sandbox.stat(source.path, user=self._user).type
        local = Path(destination.path)
        there = "directory" if local.is_dir() else "file" if os.path.lexists(local) else None
        target = landing(source, destination, there)
        if kind == "file" and self._resume:
            self.left = f"{target}.part"
        with bar.shown(quiet=self._quiet) as tell:
            return sandbox.download(source.path, target, resume=self._resume, user=self._user, on_progress=tell)

    def _from_stdin(self, sandbox: Sandbox, destination: Place) -> Transfer:
        """By way of a file: a request that breaks is sent again, and standard input can be read but once."""
        if sys.stdin.isatty():
            screen.note("reading standard input up to Ctrl-D")
        path = destination.path
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spooled:
            while data := sys.stdin.buffer.read(_READ_BYTES):
                spooled.write(data)
            size = spooled.tell()
            content: BinaryIO = spooled  # type: ignore[assignment]  # it is one in all but name before Python 3.11
            with bar.shown(quiet=self._quiet) as tell:
                if self._tar:
                    written = drive(sandbox.files.write_tree(path, content, user=self._user, on_progress=tell))
                else:
                    written = drive(sandbox.files.write(path, content, user=self._user, on_progress=tell))
        return Transfer(written.path, 1, size, written.sha256)

    def _to_stdout(self, sandbox: Sandbox, source: Place) -> Transfer:
        path = source.path
        if self._tar or sandbox.stat(path, user=self._user).type == "directory":
            size = drive(sandbox.files.read_tree(path, lambda piece: screen.write_bytes(bytes(piece)), user=self._user))
            return Transfer("-", 1, size, None)
        with bar.shown(quiet=self._quiet or sys.stdout.isatty()) as tell:
            return drive(sandbox.files.read_into(path, screen.write_bytes, user=self._user, on_progress=tell))

    def _kind(self, sandbox: Sandbox, path: str) -> str | None:
        try:
            return "directory" if sandbox.stat(path, user=self._user).type == "directory" else "file"
        except SandboxFileNotFound:
            return None
