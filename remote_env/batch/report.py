"""What a report on a batch says, whatever it is shown with: counted from `batch.json` and `results.jsonl`, nothing else."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from remote_env.batch.directory import BatchInfo, DirectoryError, read_batch, read_results
from remote_env.batch.distribution import Durations
from remote_env.batch.results import JobResult
from remote_env.batch.summary import Summary, latest, summarize

SLOWEST = 10


@dataclass(frozen=True)
class Report:
    """`jobs` are the results that count, one of each id, in the order of their first line; `attempts` are all lines."""

    info: BatchInfo
    summary: Summary
    jobs: tuple[JobResult, ...]
    attempts: tuple[JobResult, ...]
    durations: Durations | None  # of the jobs that a worker began
    creation: Durations | None  # until their sandboxes were ready

    @cached_property
    def failed(self) -> list[JobResult]:
        """The candidates' own failures."""
        return [job for job in self.jobs if job.outcome in ("failed", "timed_out")]

    @cached_property
    def infrastructure(self) -> list[JobResult]:
        """Of these nobody knows what the candidate is worth."""
        return [job for job in self.jobs if job.infrastructure]

    @cached_property
    def slowest(self) -> list[JobResult]:
        return heapq.nlargest(SLOWEST, (job for job in self.jobs if job.started_at), key=lambda job: job.duration_s)

    @cached_property
    def began(self) -> datetime | None:
        return min((each.started_at for each in self.attempts if each.started_at), default=None)

    @cached_property
    def ended(self) -> datetime | None:
        return max((each.ended_at for each in self.attempts if each.started_at), default=None)

    @cached_property
    def span_s(self) -> float:
        """From the first job's start to the last one's end, pauses between two runs of the batch included."""
        return (self.ended - self.began).total_seconds() if self.began and self.ended else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For programs: the summary, durations in seconds, and the ids of what did not pass."""
        return {
            "run_id": self.info.run_id, "jobs_file": self.info.jobs_file, "servers": self.info.servers, **self.summary.as_dict(),
            "span_s": round(self.span_s, 3), "durations_s": _spread(self.durations), "create_s": _spread(self.creation),
            "failed": [{"id": job.id, "outcome": job.outcome, "reason": job.reason} for job in self.failed],
            "infrastructure": [{"id": job.id, "outcome": job.outcome, "reason": job.reason} for job in self.infrastructure],
            "slowest": [{"id": job.id, "duration_s": job.duration_s} for job in self.slowest],
        }  # fmt: skip


def read_report(directory: Path) -> Report:
    """Raises DirectoryError where it is not a batch's directory, OSError."""
    info = read_batch(directory)
    if info is None:
        raise DirectoryError(f"{directory} is not the directory of a batch: it has no batch.json")
    return make_report(info, read_results(directory))


def make_report(info: BatchInfo, lines: Sequence[JobResult]) -> Report:
    jobs = tuple(latest(lines).values())
    return Report(
        info=info,
        summary=summarize(jobs, total=max(info.job_count, len(jobs))),
        jobs=jobs,
        attempts=tuple(lines),
        durations=Durations.of([job.duration_s for job in jobs if job.started_at]),
        creation=Durations.of([job.create_s for job in jobs if job.create_s is not None]),
    )


def _spread(durations: Durations | None) -> dict[str, float] | None:
    if durations is None:
        return None
    return {"p50": durations.p50, "p95": durations.p95, "max": durations.longest, "total": round(durations.total, 3)}
