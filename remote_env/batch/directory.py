"""A batch's directory: what is where in it, who has it, and how its files are written and read.

batch.json       what batch this is; written once
journal.jsonl    what was begun (`entries`)
results.jsonl    what came of it: the last line of an id counts
jobs/ID/ATTEMPT/ outputs and artifacts
.lock            held by the process that is at work on it
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from remote_env.batch.entries import ENTRIES, Entry
from remote_env.batch.lines import LineFile, whole_lines
from remote_env.batch.results import JobResult

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> bool:
        """Of a byte far behind the pid, which others may read then."""
        os.lseek(file, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return True

    def _sync_names(directory: Path) -> None:
        """There is no such call."""
else:
    import fcntl

    def _lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _sync_names(directory: Path) -> None:
        """The names in it are on the disk when this returns."""
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)


class DirectoryError(Exception):
    """The directory cannot be used: another batch is at work on it, or what is in it is not a batch's."""


class BatchInfo(BaseModel):
    """batch.json"""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: int = 1
    run_id: str
    created_at: str
    jobs_file: str
    jobs_sha256: str
    job_count: int
    servers: list[str]
    client_version: str
    options: dict[str, Any] = Field(default_factory=dict)


class BatchDirectory:
    """The directory, in this process's hands until `close`. Threads may share it. Raises DirectoryError, OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock_file = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        if not _lock(self._lock_file):
            pid = os.read(self._lock_file, 20).decode("ascii", "replace").strip()
            os.close(self._lock_file)
            raise DirectoryError(f"another batch (pid {pid or 'unknown'}) is at work on {path}")
        os.ftruncate(self._lock_file, 0)
        os.write(self._lock_file, f"{os.getpid()}\n".encode())
        try:
            self._journal = LineFile(path / "journal.jsonl")
            self._results = LineFile(path / "results.jsonl")
        except BaseException:
            os.close(self._lock_file)
            raise

    def note(self, entry: Entry) -> None:
        """It is on the disk when this returns."""
        self._journal.append(entry.model_dump_json(exclude_none=True))

    def conclude(self, result: JobResult) -> None:
        """It is on the disk when this returns."""
        self._results.append(result.model_dump_json())

    def entries(self) -> list[Entry]:
        """The journal. Raises DirectoryError for a line that is none of its own."""
        found: list[Entry] = []
        for number, line in enumerate(whole_lines(self.path / "journal.jsonl"), 1):
            try:
                found.append(ENTRIES.validate_json(line))
            except ValidationError:
                raise DirectoryError(f"{self.path / 'journal.jsonl'}: line {number} is not a batch's") from None
        return found

    def place(self, job: str, attempt: int) -> Path:
        """Where what a job leaves behind goes; made where it is missing."""
        place = self.path / "jobs" / job / str(attempt)
        place.mkdir(parents=True, exist_ok=True)
        return place

    def relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def seal(self) -> None:
        """Nothing is written any more: whoever tries gets OSError."""
        self._journal.close()
        self._results.close()

    def close(self) -> None:
        self.seal()
        os.close(self._lock_file)

    def __enter__(self) -> BatchDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_batch(path: Path) -> BatchInfo | None:
    """batch.json; None where there is none. Raises DirectoryError."""
    file = path / "batch.json"
    try:
        return BatchInfo.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise DirectoryError(f"{file} is not a batch's") from None


def write_batch(path: Path, info: BatchInfo) -> None:
    write_whole(path / "batch.json", json.dumps(info.model_dump(mode="json"), indent=2).encode() + b"\n")


def read_results(path: Path) -> list[JobResult]:
    """All lines of results.jsonl, in order: of an id the last one counts (`summary.latest`). A torn last line is left out.
    Raises DirectoryError."""
    results: list[JobResult] = []
    for number, line in enumerate(whole_lines(path / "results.jsonl"), 1):
        try:
            results.append(JobResult.model_validate_json(line))
        except ValidationError:
            raise DirectoryError(f"{path / 'results.jsonl'}: line {number} is no result") from None
    return results


def write_whole(path: Path, data: bytes) -> None:
    """A file that has its name once all of it is on the disk."""
    fresh = path.with_name(f".{path.name}.new")
    with open(fresh, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    _sync_names(path.parent)
