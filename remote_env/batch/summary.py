"""The arithmetic of a batch: how many ended how, the two rates, and what to exit with. Without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from remote_env.batch.results import INFRASTRUCTURE, JUDGED, OUTCOMES, JobResult

EXIT_PASSED, EXIT_FAILED, EXIT_USAGE, EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True)
class Summary:
    """`total` are all jobs of the batch. A rate is None where there is nothing to divide by."""

    total: int
    counts: Mapping[str, int]  # how many of each outcome
    unfinished: int  # without a result
    retried: int  # with a result of an earlier attempt
    reattached: int
    job_seconds: float  # all durations together
    output_bytes: int

    @property
    def finished(self) -> int:
        return sum(self.counts.values())

    @property
    def judged(self) -> int:
        return sum(self.counts[outcome] for outcome in JUDGED)

    @property
    def pass_rate(self) -> float | None:
        """passed / (passed + failed + timed_out)"""
        return self.counts["passed"] / self.judged if self.judged else None

    @property
    def infrastructure_rate(self) -> float | None:
        """(lost + error) / all that have a result"""
        return sum(self.counts[outcome] for outcome in INFRASTRUCTURE) / self.finished if self.finished else None

    @property
    def exit_code(self) -> int:
        """0 all passed; 1 some failed or timed out; 3 some were lost or never judged, or have no result."""
        if self.unfinished or any(self.counts[outcome] for outcome in INFRASTRUCTURE):
            return EXIT_INFRASTRUCTURE
        return EXIT_FAILED if self.judged > self.counts["passed"] else EXIT_PASSED

    def as_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["counts"] = dict(self.counts)
        return {**fields, "pass_rate": self.pass_rate, "infrastructure_rate": self.infrastructure_rate}


def latest(results: Iterable[JobResult]) -> dict[str, JobResult]:
    """The result of each id that counts: the last."""
    return {result.id: result for result in results}


def summarize(results: Iterable[JobResult], *, total: int | None = None) -> Summary:
    """Of the results that count, one of each id. `total`: how many jobs the batch has; default: as many as have a result."""
    counting = list(latest(results).values())
    counts = Counter(result.outcome for result in counting)
    return Summary(
        total=len(counting) if total is None else total,
        counts={outcome: counts.get(outcome, 0) for outcome in OUTCOMES},
        unfinished=0 if total is None else max(0, total - len(counting)),
        retried=sum(result.attempt > 1 for result in counting),
        reattached=sum(result.reattached > 0 for result in counting),
        job_seconds=sum(result.duration_s for result in counting),
        output_bytes=sum(c.total_bytes + (c.stderr.total_bytes if c.stderr else 0) for result in counting for c in result.commands),
    )
