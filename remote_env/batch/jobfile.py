"""Reads a job file: JSON Lines, one job a line. All that is wrong with it is told at once."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from remote_env.batch.jobs import Job, JobArtifact, JobCommand, JobFileEntry, JobResources
from remote_env.protocol import Bind

_PARTS: dict[str, type[BaseModel]] = {
    "files": JobFileEntry,
    "setup": JobCommand,
    "commands": JobCommand,
    "artifacts": JobArtifact,
    "resources": JobResources,
    "binds": Bind,
}


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line. `line` counts from 1; None: it is of the file as a whole."""

    line: int | None
    reason: str
    id: str | None = None

    def __str__(self) -> str:
        where = "" if self.line is None else f"line {self.line}"
        about = f" ({self.id})" if self.id else ""
        return f"{where}{about}: {self.reason}" if where else self.reason


class JobFileError(ValueError):
    """The file cannot be used. `problems`: all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True)
class JobFile:
    """Jobs in the order of their lines. `base`: the directory that their `source` paths start from."""

    name: str
    jobs: tuple[Job, ...]
    base: Path
    sha256: str


def read_jobs(data: bytes, *, name: str, base: Path) -> JobFile:
    """Raises JobFileError."""
    problems: list[Problem] = []
    jobs: list[Job] = []
    seen: dict[str, int] = {}
    for number, line in _lines(data, problems):
        id, found = _job(number, line)
        if id is not None and seen.setdefault(id, number) != number:
            problems.append(Problem(number, f"the id is that of line {seen[id]}, too", id))
        if isinstance(found, Job):
            jobs.append(found)
            problems += [Problem(number, reason, id) for reason in _missing_sources(found, base)]
        else:
            problems += found
    if not jobs and not problems:
        problems.append(Problem(None, f"{name} has no jobs"))
    if problems:
        raise JobFileError(sorted(problems, key=lambda problem: problem.line or 0))
    return JobFile(name, tuple(jobs), base, hashlib.sha256(data).hexdigest())


def _lines(data: bytes, problems: list[Problem]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            problems.append(Problem(number, f"not UTF-8: {error.reason} at byte {error.start}"))
            continue
        if text:
            yield number, text


def _job(number: int, line: str) -> tuple[str | None, Job | list[Problem]]:
    """Its id, where it has one, and the job or what is wrong with it."""
    try:
        value = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        return None, [Problem(number, f"not JSON: {error}")]
    if not isinstance(value, dict):
        return None, [Problem(number, "a job is a JSON object")]
    id = value["id"] if isinstance(value.get("id"), str) else None
    try:
        return id, Job.model_validate(value)
    except ValidationError as error:
        return id, [Problem(number, reason, id) for reason in _reasons(error)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that is there twice, one value would be dropped without a word."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{', '.join(map(repr, twice))} is there more than once")
    return made


def _reasons(error: ValidationError) -> Iterable[str]:
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            yield f"unknown key {where!r}{_meant(item['loc'])}"
        elif item["type"] == "missing":
            yield f"{where} is missing"
        else:
            said = item["msg"].removeprefix("Value error, ")
            yield f"{where}: {said}" if where else said


def _meant(place: tuple[int | str, ...]) -> str:
    part = _PARTS.get(str(place[0]), Job) if len(place) > 1 else Job
    close = difflib.get_close_matches(str(place[-1]), part.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(part.model_fields)}"


def _missing_sources(job: Job, base: Path) -> Iterable[str]:
    for index, entry in enumerate(job.files):
        if entry.source is None:
            continue
        path = base / entry.source
        if not path.exists():
            yield f"files.{index}.source: {path} does not exist"
        elif path.is_dir() and entry.mode is not None:
            yield f"files.{index}.mode: {path} is a directory, whose files keep their own"
        elif not os.access(path, os.R_OK):
            yield f"files.{index}.source: {path} may not be read"
