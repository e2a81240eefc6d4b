"""How far a batch is, and what a person at a terminal sees of it."""

from __future__ import annotations

import io

from rich.console import Console

from remote_env.batch.events import (
    BatchEnded,
    BatchEvent,
    BatchStarted,
    BatchState,
    JobFinished,
    JobQueued,
    JobStarted,
    JobStep,
    JobWaiting,
    Message,
    ServerState,
)
from remote_env.batch.progress import Progress
from remote_env.batch.summary import summarize
from remote_env.cli.batch_lines import PlainLines
from remote_env.cli.batch_live import LiveView, drawing
from tests.support.batches import HOSTILE, hostile, results

URL = "http://a:9527"
RESULTS = results(20, wrong=0.0)


def began(at: float = 100.0, kept: int = 0) -> BatchStarted:
    return BatchStarted(at, "run", "results", len(RESULTS), 4, (URL,), tuple(RESULTS[:kept]))


def after(*events: BatchEvent) -> Progress:
    progress = Progress()
    for event in events:
        progress.feed(event)
    return progress


def seen(progress: Progress, now: float, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(drawing(progress, now))
    return captured.get()


def test_jobs_are_queued_then_running_then_ended() -> None:
    progress = after(began(kept=5), JobStarted(101, RESULTS[5].id, 1, URL, 0), JobStarted(102, RESULTS[6].id, 1, URL, 1))
    assert progress.shown_counts == {"running": 2, "queued": 13, "passed": 5, "failed": 0}
    progress.feed(JobFinished(110, RESULTS[5].model_copy(update={"outcome": "lost"})))
    progress.feed(JobQueued(111, RESULTS[6].id, reason="its server died"))
    assert progress.shown_counts == {"running": 0, "queued": 14, "passed": 5, "failed": 0, "lost": 1} and progress.done == 6


def test_rate_and_time_left_are_of_this_run_alone() -> None:
    progress = after(began(at=100, kept=10))
    assert progress.rate(105) is None and progress.left_s(105) is None
    for number in range(4):
        progress.feed(JobFinished(102 + 2 * number, RESULTS[10 + number]))
    assert progress.rate(108) == 0.5 and progress.left_s(108) == 12
    progress.feed(BatchState(108, "draining"))
    assert progress.left_s(108) is None


def test_drawing_tells_the_slowest_job_its_step_and_the_links() -> None:
    progress = after(
        began(), ServerState(100, URL, "connected"), ServerState(100, "http://b:9527", "disconnected", "no answer"),
        JobStarted(100, "slow-one", 1, URL, 0), JobStep(101, "slow-one", "command", 1, 3, "tests"), JobStarted(130, "other", 1, URL, 1),
        JobWaiting(131, "other", URL, "no room"),
    )  # fmt: skip
    text = seen(progress, 165)
    assert "0/20" in text and "running 2" in text and "queued 18" in text
    assert "slow-one  1m 05s  command 2/3 (tests)" in text and "● a:9527" in text and "○ b:9527 disconnected (no answer)" in text


def test_drawing_fits_any_width_and_holds_nothing_that_moves_a_terminal() -> None:
    progress = after(
        began(), JobStarted(100, "job", 1, URL, 0), JobStep(101, "job", "command", 0, 1, HOSTILE), ServerState(1, URL, "dead", HOSTILE)
    )
    for width in (20, 40, 80, 200):
        lines = seen(progress, 120, width).splitlines()
        assert len(lines) == 4 and all(len(line) <= width for line in lines)
        assert not {"\x1b", "\x9b", "\u202e"} & set("".join(lines))


def test_terminal_keeps_lines_for_what_did_not_pass_and_is_left_clean() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    view = LiveView(stream, PlainLines().line)
    bad = hostile(RESULTS[1].model_copy(update={"outcome": "failed"}))
    for event in (
        began(),
        JobFinished(101, RESULTS[0]),
        JobFinished(102, bad),
        Message(103, "a message"),
        BatchEnded(104, summarize([bad]), 1),
    ):
        view(event)
    view.close()
    text = stream.getvalue()
    assert f"[2/20] {bad.id}: failed" in text and "a message" in text and "1 of 1 jobs have a result" in text
    assert f"{RESULTS[0].id}: passed" not in text and "\x1b[2J" not in text and "\x1b]0;" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")
