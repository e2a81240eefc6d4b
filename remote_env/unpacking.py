"""Unpacking a tree that comes as a tar into a directory of one's own, which becomes the tree when all of it has come.

What is in the tar is a sandbox's word. Nothing of it is written outside the directory: names with `..` and absolute ones are
refused, and symbolic links, which are kept whatever they say, are made last: so nothing can be written through one. Files get
their permission bits (never setuid, setgid, sticky) and their times; owners stay the caller's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

from remote_env.fields import new_id
from remote_env.filemodels import LEFT_OUT
from remote_env.hashed import Damage, Piece
from remote_env.tarreading import Content, TarReader

_PERMISSIONS = 0o777
_HELD_MOST = 128 << 20  # bytes of what is remembered until the end: directories, links, and what was left out
_HELD_EACH = 500  # bytes of one beside its names


class Unpacker:
    """Feed it the tar; `settle` then gives the tree its name. As a context manager it leaves nothing else behind.

    Args:
        target: the tree's final name. What is there already, a directory, is merged with what comes: files are replaced one by
            one, others stay.
    """

    def __init__(self, target: Path) -> None:
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target))
        self.target = target
        self.files = 0
        self.size = 0  # bytes of content
        self.current = ""  # the entry that is being unpacked
        self.skipped: dict[str, str] = {}  # by path, why; devices, FIFOs and the like, here or at the packer's already
        self._reader = TarReader()
        self._links: dict[Path, str] = {}
        self._modes: dict[Path, int] = {}  # of directories, relative to the root: set last, since a read-only one takes nothing
        self._file: BinaryIO | None = None
        self._info: tarfile.TarInfo | None = None
        self._left = 0
        self._held = 0
        self._made = {Path()}  # directories, relative to the root
        target.parent.mkdir(parents=True, exist_ok=True)
        self._root = target.parent / f".{target.name}.{new_id()}.part"
        self._root.mkdir()

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        shutil.rmtree(self._root, ignore_errors=True)

    def feed(self, data: Piece) -> None:
        """Raises Damage, and OSError of the local disk."""
        for event in self._reader.feed(data):
            if isinstance(event, Content):
                self._write(event.data)
            else:
                self._begin(event)

    def _begin(self, info: tarfile.TarInfo) -> None:
        self.current = info.name
        self._learn_left_out(info)
        relative = _below_top(info.name)
        path = self._root / relative
        if info.isdir():
            self._make_directory(relative)
            self._hold(info.name)
            self._modes[relative] = info.mode & _PERMISSIONS
        elif info.issym():
            self._make_directory(relative.parent)
            self._clear(path)
            self._hold(info.name, info.linkname)
            self._links[relative] = info.linkname
        elif info.isreg():
            self._make_directory(relative.parent)
            self._clear(path)
            self._links.pop(relative, None)
            self._file = open(path, "xb")  # noqa: SIM115 (closed with the entry's last byte, or with the unpacker)
            self._info, self._left = info, info.size
            self.files += 1
            if not self._left:
                self._end_file()
        else:
            self._hold(info.name)
            self.skipped[info.name] = "not_regular"

    def _learn_left_out(self, info: tarfile.TarInfo) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for each in json.loads(info.pax_headers.get(LEFT_OUT, "[]")):
                self._hold(str(each["path"]), str(each["code"]))
                self.skipped[str(each["path"])] = str(each["code"])

    def _hold(self, *names: str) -> None:
        """What a sandbox says must not fill this machine's memory."""
        self._held += sum(map(len, names)) + _HELD_EACH
        if self._held > _HELD_MOST:
            raise Damage("the tar has too many directories and links")

    def _write(self, data: Piece) -> None:
        assert self._file is not None
        self._file.write(data)
        self.size += len(data)
        self._left -= len(data)
        if not self._left:
            self._end_file()

    def _end_file(self) -> None:
        assert self._file is not None
        assert self._info is not None
        self._file.flush()
        os.chmod(self._file.name, self._info.mode & _PERMISSIONS)
        with contextlib.suppress(OSError, OverflowError):  # a time that this file system cannot say
            os.utime(self._file.name, (self._info.mtime, self._info.mtime))
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _make_directory(self, relative: Path) -> None:
        """With its parents, none of which is anything but a directory that was made here."""
        if relative in self._made:
            return
        self._make_directory(relative.parent)
        if relative in self._links:
            raise Damage(f"the tar has something below {str(relative)!r}, which is a symbolic link in it")
        try:
            (self._root / relative).mkdir()
        except FileExistsError:
            raise Damage(f"the tar has something below {str(relative)!r}, which is a file in it") from None
        self._hold(str(relative))
        self._made.add(relative)

    def _clear(self, path: Path) -> None:
        """An archive may have a name twice: the later entry counts."""
        if path.is_dir():
            raise Damage(f"the tar has {self.current!r} as a directory and as something else")
        path.unlink(missing_ok=True)

    def settle(self) -> None:
        """At the tar's end: gives the tree its name. Raises Damage, and OSError where something is in the way."""
        self._reader.finish()
        for relative, to in self._links.items():
            os.symlink(to, self._root / relative)
        if not os.path.lexists(self.target):
            os.rename(self._root, self.target)
        else:
            self._require_directories()
            _merge(self._root, self.target)
            self._modes.pop(Path(), None)  # a directory that was there keeps its own
        for relative, mode in sorted(self._modes.items(), reverse=True):
            (self.target / relative).chmod(mode)

    def _require_directories(self) -> None:
        """What is a directory in the tree may be missing at the target, or be one: a link to one counts for the tree itself alone."""
        for relative in self._made:
            there = self.target / relative
            wrong = not there.is_dir() if relative == Path() else os.path.lexists(there) and (there.is_symlink() or not there.is_dir())
            if wrong:
                raise NotADirectoryError(errno.ENOTDIR, "a directory is to be written where something else is", str(there))


def _below_top(name: str) -> Path:
    """The name without its first component, which is that of the tree itself. Raises Damage for one that leads outside."""
    parts = name.split("/")
    if any(part in ("", "..") or "\0" in part or (os.sep != "/" and (os.sep in part or ":" in part)) for part in parts):
        raise Damage(f"the tar has an entry with the name {name!r}")
    return Path(*(part for part in parts[1:] if part != "."))


def _merge(source: Path, target: Path) -> None:
    for entry in sorted(os.scandir(source), key=lambda each: each.name):
        there = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            if there.is_dir():
                _merge(Path(entry.path), there)
            else:
                os.rename(entry.path, there)
        else:
            os.replace(entry.path, there)  # fails where there is a directory
