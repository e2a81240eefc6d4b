"""What a run of a batch has to do, from what earlier runs of the same directory have left. Without I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from remote_env.batch.entries import Entry
from remote_env.batch.jobs import Job
from remote_env.batch.plan import Attempt, follow
from remote_env.batch.results import JobOutcome, JobResult
from remote_env.batch.summary import latest


class Changed(Exception):
    """Jobs are not what they were when they were begun. `ids`: which."""

    def __init__(self, ids: list[str]) -> None:
        super().__init__(f"{len(ids)} jobs have changed since they were begun: {', '.join(ids[:10])}{', …' if len(ids) > 10 else ''}")
        self.ids = ids


@dataclass(frozen=True)
class Item:
    """A job that waits for a worker. `open`: what an earlier process of the batch has begun of it."""

    job: Job
    attempt: int
    retry_of: JobOutcome | None = None
    open: Attempt | None = None


@dataclass(frozen=True)
class Resumed:
    """What there is to do, and what there is."""

    items: tuple[Item, ...]
    results: tuple[JobResult, ...]  # of the jobs that were chosen: the one that counts of each, where there is one
    kept: tuple[JobResult, ...]  # those of them whose job is not run again now
    total: int  # jobs that were chosen
    sandboxes: frozenset[str]  # of attempts that are not over, chosen or not, and those that were kept: these are not to be removed
    servers: tuple[str, ...]  # where chosen attempts that are not over are


def attempts_of(entries: Iterable[Entry]) -> dict[str, Attempt]:
    """The latest attempt of each job. Raises plan.Impossible."""
    attempts: dict[str, Attempt] = {}
    for entry in entries:
        attempts[entry.job] = follow(attempts.get(entry.job), entry)
    return attempts


def resume(
    jobs: Sequence[Job], entries: Iterable[Entry], results: Iterable[JobResult], retry: Collection[JobOutcome] = ()
) -> Resumed:  # fmt: skip
    """`jobs`: those that were chosen. `retry`: results of these outcomes are not good enough; such a job gets another attempt.

    Raises Changed, plan.Impossible.
    """
    attempts = attempts_of(entries)
    results = list(results)
    counting = latest(results)
    kept_sandboxes = {result.sandbox_id for result in results if result.kept and result.sandbox_id}
    open_attempts = {id: attempt for id, attempt in attempts.items() if _is_open(attempt, counting.get(id))}
    items: list[Item] = []
    changed: list[str] = []
    kept: list[JobResult] = []
    for job in jobs:
        attempt, result = attempts.get(job.id), counting.get(job.id)
        again = result is not None and result.outcome in retry and job.id not in open_attempts
        if attempt is not None and not attempt.dropped and not again and attempt.begun.digest != job.digest:
            changed.append(job.id)
        elif job.id in open_attempts:
            items.append(Item(job, open_attempts[job.id].begun.attempt, open=attempt))
        elif result is None:
            items.append(Item(job, 1))
        elif again:
            items.append(Item(job, result.attempt + 1, retry_of=result.outcome))
        else:
            kept.append(result)
    if changed:
        raise Changed(changed)
    return Resumed(
        items=tuple(items),
        results=tuple(counting[job.id] for job in jobs if job.id in counting),
        kept=tuple(kept),
        total=len(jobs),
        sandboxes=frozenset(kept_sandboxes.union(attempt.begun.sandbox_id for attempt in open_attempts.values())),
        servers=tuple(dict.fromkeys(item.open.begun.server for item in items if item.open is not None)),
    )


def _is_open(attempt: Attempt, result: JobResult | None) -> bool:
    """Whether it was begun and has no result."""
    return not attempt.dropped and (result is None or result.attempt < attempt.begun.attempt)
