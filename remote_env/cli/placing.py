"""What `cp` means by its two names: which side is a sandbox, and what the copy will be called."""

from __future__ import annotations

from dataclasses import dataclass

from remote_env.errors import InvalidSpec

STREAM = "-"
_SHORTEST_NAME = 4  # of a sandbox: what is shorter before a colon is a drive


@dataclass(frozen=True)
class Place:
    """One side of a copy. `sandbox` None: here."""

    sandbox: str | None
    path: str

    @property
    def is_stream(self) -> bool:
        return self.sandbox is None and self.path == STREAM

    @property
    def own_name(self) -> str | None:
        """What the copy is called below a directory; None where the contents are meant: `dir/.`, `.`, `/`."""
        last = self.path.rstrip("/").rpartition("/")[2]
        return None if last in ("", ".", "..") else last

    def __str__(self) -> str:
        return self.path if self.sandbox is None else f"{self.sandbox}:{self.path}"


def parse_place(text: str) -> Place:
    """`SANDBOX:PATH`, or a path here. A path here that has a colon in it is written with a slash before it: `./a:b`."""
    name, colon, path = text.partition(":")
    if not colon or len(name) < _SHORTEST_NAME or "/" in name or name.startswith("."):
        return Place(None, text)
    return Place(name, path or ".")


def landing(source: Place, destination: Place, kind: str | None) -> str:
    """The final path of the copy. `kind`: what is at the destination now: "directory", "file", None for nothing.

    As `cp -r` and `docker cp` have it: into a directory that is there, or that a slash says there shall be; else the copy gets the
    destination's name. `dir/.` is the contents of the directory. Raises InvalidSpec.
    """
    path = destination.path
    if kind == "directory" or (path.endswith("/") and kind is None and source.own_name is not None):
        if source.own_name is None:
            return path
        return f"{path.rstrip('/')}/{source.own_name}"
    if kind is not None and path.endswith("/"):
        raise InvalidSpec(f"{destination} is not a directory.")
    return path
