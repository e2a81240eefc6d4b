"""The data directory: made private, used by one server at a time, and the home of the token."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path

_SHORTEST_TOKEN = 16  # characters; below this a token could be guessed


class CannotStart(Exception):
    """The server cannot start; one sentence says why and what to do."""


class DataDirLock:
    """Holds the data directory for this process (ONEREADER: a pipe has one reader, a journal one writer). The kernel lets
    go of it when the process ends, however it ends; children do not inherit it."""

    def __init__(self, data_dir: Path) -> None:
        """Make `data_dir` where missing, with mode 0700, and take it. Raises CannotStart, with the holder's pid."""
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if data_dir.stat().st_mode & 0o077:
                data_dir.chmod(0o700)
            self._fd = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotStart(f"the data directory {data_dir} cannot be used: {error.strerror}; choose another --data-dir") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            holder = f"the server with pid {pid}" if pid else "another server"
            raise CannotStart(f"{holder} uses the data directory {data_dir}: stop it first, or choose another --data-dir") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another server have it."""
        os.close(self._fd)


def read_or_make_token(path: Path) -> tuple[str, bool]:
    """The token in `path`, and whether it was made now. A new one appears whole, with mode 0600, or not at all.

    Raises:
        CannotStart: the file cannot be read or made, or what it holds is no token.
    """
    try:
        made = False
        try:
            token = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            made = _make(path)
            token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise CannotStart(f"the token file {path} cannot be used: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if len(token) < _SHORTEST_TOKEN or any(char.isspace() or not char.isprintable() for char in token):
        raise CannotStart(
            f"the token file {path} holds no token: one word of at least {_SHORTEST_TOKEN} plain characters is needed; "
            "remove the file and a good one is made"
        )
    return token, made


def _make(path: Path) -> bool:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(unfinished, path)  # unlike rename, never replaces what another process has put there meanwhile
        except FileExistsError:
            return False
        return True
    finally:
        unfinished.unlink()


def readable_by_others(path: Path) -> bool:
    """Whether group or others may read it."""
    return bool(path.stat().st_mode & 0o044)


def kept_word(path: Path, make: Callable[[], str]) -> str:
    """A word that is made once and kept in a file beside the journal, not in it: it must outlive a journal that is lost."""
    if not path.exists():
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(make())
        fresh.chmod(0o600)
        fresh.rename(path)
    return path.read_text().strip()
