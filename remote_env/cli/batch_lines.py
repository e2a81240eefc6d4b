"""What a batch tells, as lines: for logs and pipes in words, for programs in JSON."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from pydantic import BaseModel

from remote_env.batch.events import (
    BatchEnded,
    BatchEvent,
    BatchStarted,
    BatchState,
    JobFinished,
    JobQueued,
    JobStarted,
    JobWaiting,
    Message,
    ServerState,
)
from remote_env.batch.results import JobResult
from remote_env.batch.summary import Summary
from remote_env.cli import screen
from remote_env.cli.quantities import show_span

_STATES = {
    "draining": "what runs comes to its end, nothing new is begun; once more (Ctrl-C) cancels it",
    "cancelling": "what runs is cancelled and removed; once more (Ctrl-C) leaves at once",
}


class JsonLines:
    """Each event as a line on stdout: its name as `event`, and its fields. The last one, `batch_ended`, has the summary."""

    def __call__(self, event: BatchEvent) -> None:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
        screen.print_json_line({"event": name} | {field.name: _plain(getattr(event, field.name)) for field in fields(event)})


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Summary):
        return value.as_dict()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


class PlainLines:
    """On stderr: a line for each job that ends and for what goes otherwise than hoped for, and the summary. `quiet`: the summary alone."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._total = 0
        self._finished = 0
        self._kept: list[JobResult] = []

    def __call__(self, event: BatchEvent) -> None:
        line = self.line(event)
        if line is not None and (not self._quiet or isinstance(event, BatchEnded)):
            screen.write_note(line + "\n")

    def line(self, event: BatchEvent) -> str | None:
        """What is to be said of it, if anything. Ask for every event, in order."""
        if isinstance(event, BatchStarted):
            self._total, self._finished = event.total, len(event.kept)
        elif isinstance(event, JobFinished):
            self._finished += 1
            if event.result.kept:
                self._kept.append(event.result)
        return self._line(event)

    def _line(self, event: BatchEvent) -> str | None:
        if isinstance(event, BatchStarted):
            kept = f", {len(event.kept)} of them are finished" if event.kept else ""
            jobs = f"{event.total} {'job' if event.total == 1 else 'jobs'}"
            return f"{jobs}{kept}; {event.workers} at a time on {', '.join(event.servers)}; results in {event.out}"
        if isinstance(event, JobFinished):
            result = event.result
            why = f": {result.reason}" if result.reason else ""
            return f"[{self._finished}/{self._total}] {result.id}: {result.outcome} in {show_span(result.duration_s)}{why}"
        if isinstance(event, JobStarted) and event.reattached:
            return f"{event.id}: taken up again at {event.server}"
        if isinstance(event, JobQueued) and event.reason:
            return f"{event.id}: back in the queue: {event.reason}"
        if isinstance(event, JobWaiting):
            return f"{event.id}: waiting for room at {event.server}: {event.reason}"
        if isinstance(event, ServerState):
            return f"{event.url}: {event.state}" + (f" ({event.detail})" if event.detail else "")
        if isinstance(event, BatchState):
            return _STATES.get(event.state)
        if isinstance(event, Message):
            return event.text
        if isinstance(event, BatchEnded):
            return "\n".join([*summary_lines(event), *_kept_lines(self._kept)])
        return None


def _kept_lines(kept: list[JobResult]) -> list[str]:
    """How to look into the sandboxes that were kept."""
    if not kept:
        return []
    lines = [f"  {result.id}: remote-env shell --url {result.server} {result.sandbox_id}" for result in kept]
    return ["kept for a day, or until `remote-env rm`:", *lines]


def summary_lines(event: BatchEnded) -> list[str]:
    """The batch's end in words: both rates apart."""
    summary = event.summary
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary.counts.items() if count) or "no results"
    lines = [f"{summary.finished} of {summary.total} jobs have a result: {counts}"]
    if summary.pass_rate is not None:
        lines.append(f"passed: {summary.pass_rate:.1%} of the {summary.judged} that were judged")
    if summary.infrastructure_rate:
        lines.append(f"lost or never judged: {summary.infrastructure_rate:.1%} of all; `--retry lost,error` runs these anew")
    if event.unfinished:
        lines.append(f"{len(event.unfinished)} are not finished: the same command line goes on with them")
    return lines
