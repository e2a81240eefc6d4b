"""What the tests of files share: a server whose sandbox is a directory, and trees."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote_env import (
    pulling,
)
from tests.unit.client.fakefiles import FakeFiles
from tests.unit.client.fakeserver import Fault, pattern_bytes

FILES = r"/files$"
AS_IT_IS = Fault(change=lambda body: body)
RANGE = 1000  # bytes of the first range, in these tests


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeFiles]:
    (tmp_path / "there").mkdir()
    with FakeFiles(tmp_path / "there") as server:
        yield server


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each range as long as the first."""
    monkeypatch.setattr(pulling, "FIRST_RANGE", RANGE)
    monkeypatch.setattr(pulling, "_LEAST_RANGE", RANGE)
    monkeypatch.setattr(pulling, "_QUICK_S", 0.0)


def cut_at(size: int) -> Fault:
    return Fault(change=lambda body: body[:size])


def damaged_at(index: int) -> Fault:
    return Fault(change=lambda body: body[:index] + bytes([body[index] ^ 1]) + body[index + 1 :])


def ranges(fake: FakeFiles) -> list[str]:
    return [request.headers["range"] for request in fake.seen("GET", FILES) if "range" in request.headers]


@pytest.fixture
def tree(here: Path) -> Path:
    """Everything that a tree may have in it."""
    top = here / "tree"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "secret").write_bytes(b"")
    (top / "secret").chmod(0o600)
    (top / "sub" / "data").write_bytes(pattern_bytes(70_000))
    (top / "sub" / ("long" * 50)).write_text("a name of 200 characters")
    (top / "sub" / "ü ☃").write_text("names of any letters")
    (top / "sub").chmod(0o750)
    (top / "out").symlink_to("/etc/passwd")
    (top / "up").symlink_to("../..")
    (top / "nowhere").symlink_to("missing")
    return top


def shape(top: Path) -> dict[str, tuple[int, object]]:
    """Every path below, with its mode and content."""
    found: dict[str, tuple[int, object]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(top))] = (0 if path.is_symlink() else stat.S_IMODE(status.st_mode), content)
    return found


def replace_file(path: Path, content: bytes) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    fresh.replace(path)
