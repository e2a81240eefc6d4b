"""The report's two charts as numbers: shares of a width in per cent, heights and rows in pixels. How they look is the page's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from remote_env.batch.distribution import bin_edges, count_into, round_step, ticks
from remote_env.batch.readable import clock, span
from remote_env.batch.results import OUTCOMES, JobOutcome, JobResult

_LEAST_WIDTH = 0.12  # per cent: a bar that is there is seen
_ROW, _SMALL_ROW, _MANY_ROWS = 18, 9, 48  # pixels; from so many workers on, rows are small


@dataclass(frozen=True)
class Tick:
    at: float  # per cent
    label: str


@dataclass(frozen=True)
class Block:
    """A part of a histogram's bar: `y` and `height` in pixels from the top."""

    outcome: JobOutcome
    count: int
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    range: str
    count: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Histogram:
    height: int
    bars: tuple[Bar, ...] = ()
    across: tuple[Tick, ...] = ()
    upright: tuple[tuple[float, int], ...] = ()  # (y in pixels, number of jobs)


def histogram(jobs: Sequence[JobResult], height: int = 180) -> Histogram:
    """The durations of the jobs that a worker began, stacked by outcome."""
    begun = [job for job in jobs if job.started_at]
    edges = bin_edges([job.duration_s for job in begun])
    if not edges:
        return Histogram(height)
    by_outcome = {name: count_into([job.duration_s for job in begun if job.outcome == name], edges) for name in OUTCOMES}
    totals = [sum(counts[number] for counts in by_outcome.values()) for number in range(len(edges) - 1)]
    step = max(1, int(round_step(max(totals) / 4)))
    top = math.ceil(max(totals) / step) * step
    width = 100 / len(totals)
    bars = []
    for number, total in enumerate(totals):
        y, blocks = float(height), []
        for name in OUTCOMES:
            count = by_outcome[name][number]
            if count:
                tall = count / top * height
                y -= tall
                blocks.append(Block(name, count, round(y, 2), round(tall, 2)))
        if total:
            reach = f"{span(edges[number])} – {span(edges[number + 1])}"
            bars.append(Bar(round(number * width, 3), round(width, 3), reach, total, tuple(blocks)))
    every = max(1, math.ceil((len(edges) - 1) / 10))
    across = tuple(Tick(round(number * width, 3), clock(edges[number])) for number in range(0, len(edges), every))
    upright = tuple((round(height - count / top * height, 2), count) for count in range(0, top + 1, step))
    return Histogram(height, tuple(bars), across, upright)


@dataclass(frozen=True)
class Stretch:
    """One attempt of a job on its worker's row."""

    job: JobResult
    x: float
    width: float
    y: int
    height: int


@dataclass(frozen=True)
class Timeline:
    workers: tuple[int, ...] = ()
    row: int = _ROW  # pixels
    stretches: tuple[Stretch, ...] = ()
    across: tuple[Tick, ...] = ()
    height: int = field(default=0)


def timeline(attempts: Sequence[JobResult], began: datetime | None, span_s: float) -> Timeline:
    """One row for each worker, each attempt a bar from its start to its end."""
    placed = [(job, job.worker, job.started_at) for job in attempts if job.worker is not None and job.started_at]
    if not placed or began is None:
        return Timeline()
    workers = sorted({worker for _, worker, _ in placed})
    rows = {worker: number for number, worker in enumerate(workers)}
    row = _ROW if len(workers) <= _MANY_ROWS else _SMALL_ROW
    whole = max(span_s, 1e-3)
    stretches = []
    taken: dict[int, datetime] = {}  # until when each row is: a job that was taken up by another worker began on that one's row
    for job, worker, started_at in sorted(placed, key=lambda each: each[0].ended_at):
        shown_from = min(max(started_at, taken.get(worker, began)), job.ended_at)
        taken[worker] = job.ended_at
        x = (shown_from - began).total_seconds() / whole * 100
        width = max((job.ended_at - shown_from).total_seconds() / whole * 100, _LEAST_WIDTH)
        stretches.append(Stretch(job, round(min(x, 100 - _LEAST_WIDTH), 3), round(width, 3), rows[worker] * row + 1, row - 2))
    across = tuple(Tick(round(second / whole * 100, 3), clock(second)) for second in ticks(whole))
    return Timeline(tuple(workers), row, tuple(stretches), across, len(workers) * row)
