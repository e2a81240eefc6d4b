"""Going on where another process of the batch was killed: from the journal's lines alone, whatever their number."""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.batch.directory import BatchDirectory, DirectoryError, read_batch, read_results
from remote_env.batch.entries import Begun, Closed, Ended, Entry, Fetched, NotRun, Ready, Sent, TakenUp
from remote_env.batch.jobfile import JobFile, read_jobs
from remote_env.batch.jobs import Job
from remote_env.batch.lines import LineFile, whole_lines
from remote_env.batch.opening import open_batch
from remote_env.batch.plan import Attempt, Conclude, Create, Fetch, Impossible, Run, follow, next_step
from remote_env.batch.results import JobResult
from remote_env.batch.resume import Changed, Item, resume
from tests.unit.batch.builders import Story, command, job, result

JOB = job("a", setup=["s"], commands=["x", "y"], artifacts=["/z"], timeout_s=100.0)
STORY = Story(JOB)


def told(*entries: Entry) -> Attempt:
    attempt: Attempt | None = None
    for entry in entries:
        attempt = follow(attempt, entry)
    assert attempt is not None
    return attempt


BEGUN = (STORY.begun(), STORY.ready())


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([STORY.begun()], Create()),
        ([*BEGUN], Run(0, "setup", 0, JOB.setup[0], 100.0)),
        ([*BEGUN, STORY.taken_up()], Run(0, "setup", 0, JOB.setup[0], 100.0)),
        ([*BEGUN, STORY.sent(0, timeout_s=70.0)], Run(0, "setup", 0, JOB.setup[0], 70.0, STORY.sent(0, timeout_s=70.0))),
        ([*BEGUN, STORY.sent(0), STORY.not_run(0)], Run(0, "setup", 0, JOB.setup[0], 100.0)),
        ([*BEGUN, STORY.sent(0), STORY.ended(0, command(seconds=30.0))], Run(1, "command", 0, JOB.commands[0], 70.0)),
        ([*BEGUN, STORY.sent(0), STORY.ended(0), STORY.sent(1), STORY.ended(1, command(code=1))], Fetch()),
        (
            [*BEGUN, STORY.sent(0), STORY.ended(0), STORY.sent(1), STORY.ended(1, command(code=1)), STORY.fetched()],
            Conclude("failed", "command 1 exited with 1"),
        ),
        ([*BEGUN, STORY.sent(0), STORY.closed("lost")], Conclude("lost", None)),
    ],
)  # fmt: skip
def test_next_step(entries: list[Entry], expected: object) -> None:
    assert next_step(JOB, told(*entries)) == expected


@pytest.mark.parametrize(
    "entries",
    [
        [STORY.ready()],
        [STORY.begun(), STORY.begun()],
        [STORY.begun(), STORY.sent(0)],
        [*BEGUN, STORY.ready()],
        [*BEGUN, STORY.sent(1)],
        [*BEGUN, STORY.sent(0), STORY.sent(0, "another")],
        [*BEGUN, STORY.ended(0)],
        [*BEGUN, STORY.sent(0), STORY.not_run(0, "another")],
        [*BEGUN, STORY.sent(0), STORY.dropped()],
        [*BEGUN, STORY.sent(0), STORY.ended(0), STORY.dropped()],
        [*BEGUN, STORY.closed(), STORY.sent(0)],
        [*BEGUN, Story(JOB, attempt=2).sent(0)],
        [*BEGUN, Story(JOB, attempt=2).begun()],
        [*BEGUN, STORY.closed(), Story(JOB, attempt=3).begun()],
    ],
)  # fmt: skip
def test_a_journal_that_cannot_be_is_refused(entries: list[Entry]) -> None:
    with pytest.raises(Impossible):
        told(*entries)


def test_what_was_sent_and_did_not_run_may_be_begun_elsewhere() -> None:
    assert not told(*BEGUN, STORY.sent(0), STORY.not_run(0), STORY.dropped(), STORY.begun("sandbox-1", "http://b:1")).started


# ------------------------------------------------------------------------------------ a world in which the client is killed


class Killed(Exception):
    """The client was, with SIGKILL."""


@dataclass
class World:
    """A server that keeps its promise (an id runs once), and a client that is killed after so many acts, time and again."""

    patience: list[int]
    directory: list[Entry] = field(default_factory=list)
    results: list[JobResult] = field(default_factory=list)
    sandboxes: dict[str, str] = field(default_factory=dict)  # id → epoch
    ran: dict[str, tuple[str, int]] = field(default_factory=dict)  # execution id → sandbox, step
    undelivered: set[int] = field(default_factory=set)  # of the sends, by number: the request gets lost, and its id is fenced
    sends: int = 0
    left: int = 0

    def act(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def note(self, attempt: Attempt | None, entry: Entry) -> Attempt:
        self.act()
        self.directory.append(entry)
        return follow(attempt, entry)

    def live(self, of: Job) -> None:
        """One life of the client."""
        self.left = self.patience.pop(0) if self.patience else 1000
        (item,) = resume([of], self.directory, self.results).items or (None,)
        if item is not None:
            self.carry_out(of, item)

    def carry_out(self, of: Job, item: Item) -> None:
        story = Story(of, item.attempt)
        name = f"sandbox-{len(self.directory)}"
        attempt = self.note(item.open, story.begun(name) if item.open is None else story.taken_up())
        while not isinstance(step := next_step(of, attempt), Conclude):
            if isinstance(step, Create):
                self.act()
                epoch = self.sandboxes.setdefault(attempt.begun.sandbox_id, f"epoch-{len(self.sandboxes)}")
                attempt = self.note(attempt, story.ready().model_copy(update={"epoch": epoch}))
            elif isinstance(step, Run):
                attempt = self.send(story, attempt, step)
            else:
                attempt = self.note(attempt, story.fetched())
        if attempt.closed is None:
            attempt = self.note(attempt, story.closed(step.outcome))
        self.act()
        self.results.append(result(of.id, step.outcome, attempt=item.attempt, commands=list(attempt.ended)))

    def send(self, story: Story, attempt: Attempt, step: Run) -> Attempt:
        sent = step.sent
        if sent is None:
            sent = story.sent(step.step, f"execution-{len(self.directory)}")
            attempt = self.note(attempt, sent)
        self.act()
        if sent.execution_id not in self.ran:
            self.sends += 1
            if self.sends in self.undelivered:
                return self.note(attempt, story.not_run(step.step, sent.execution_id))
            self.ran[sent.execution_id] = (attempt.begun.sandbox_id, step.step)
        self.act()
        return self.note(attempt, story.ended(step.step, command(code=step.step if step.phase == "command" else 0)))


@given(
    st.lists(st.integers(min_value=0, max_value=12), max_size=12), st.sets(st.integers(min_value=1, max_value=6), max_size=3),
    st.integers(min_value=0, max_value=2), st.integers(min_value=1, max_value=3), st.booleans(),
)  # fmt: skip
def test_each_command_runs_once_in_one_sandbox_whenever_the_client_is_killed(
    patience: list[int], undelivered: set[int], setups: int, commands: int, artifacts: bool
) -> None:
    of = job("a", setup=["s"] * setups, commands=[{"command": "x", "continue_on_failure": True}] * commands, artifacts=["/z"] * artifacts)
    world = World(patience, undelivered=undelivered)
    while not world.results:
        try:
            world.live(of)
        except Killed:
            continue
    assert Counter(step for _, step in world.ran.values()) == Counter(range(setups + commands))
    assert len({sandbox for sandbox, _ in world.ran.values()}) == 1
    assert [len(each.commands) for each in world.results] == [setups + commands]
    assert not resume([of], world.directory, world.results).items


# ------------------------------------------------------------------------------------------------------ what is to be done


def test_finished_jobs_are_kept_and_open_ones_go_first_to_their_own_server() -> None:
    done, running, fresh = job("done"), job("running"), job("fresh")
    entries: list[Entry] = [
        Story(done).begun("sandbox-d"), Story(done).ready(), Story(done).closed(), Story(running).begun("sandbox-r", "http://b:1"),
        Story(running).ready(),
    ]  # fmt: skip
    found = resume([done, running, fresh], entries, [result("done")])
    assert [(item.job.id, item.attempt, item.open is not None) for item in found.items] == [("running", 1, True), ("fresh", 1, False)]
    assert ([each.id for each in found.kept], found.total) == (["done"], 3)
    assert (found.sandboxes, found.servers) == (frozenset({"sandbox-r"}), ("http://b:1",))


def test_a_killed_client_that_had_closed_a_job_writes_the_result_that_is_missing() -> None:
    story = Story(JOB)
    (item,) = resume([JOB], [*BEGUN, story.sent(0), story.closed("lost")], []).items
    assert item.open is not None and next_step(JOB, item.open) == Conclude("lost", None)


def test_only_what_is_named_is_run_anew_as_another_attempt() -> None:
    lost, failed = job("l"), job("f")
    entries: list[Entry] = [each for of in (lost, failed) for each in (Story(of).begun(f"sandbox-{of.id}"), Story(of).closed())]
    results = [result("l", "lost"), result("f", "failed")]
    assert not resume([lost, failed], entries, results).items
    found = resume([lost, failed], entries, results, ["lost"])
    assert [(item.job.id, item.attempt, item.retry_of) for item in found.items] == [("l", 2, "lost")]
    assert [each.id for each in found.kept] == ["f"]


def test_a_job_that_was_changed_is_refused_unless_it_is_run_anew() -> None:
    before, after = job("a"), job("a", commands=["other"])
    entries: list[Entry] = [Story(before).begun(), Story(before).closed("error")]
    with pytest.raises(Changed, match="1 jobs have changed since they were begun: a"):
        resume([after], entries, [result("a", "error")])
    assert [item.attempt for item in resume([after], entries, [result("a", "error")], ["error"]).items] == [2]


def test_a_job_that_was_dropped_is_begun_anew_even_where_it_was_changed() -> None:
    before, after = job("a"), job("a", commands=["other"])
    (item,) = resume([after], [Story(before).begun(), Story(before).dropped()], []).items
    assert (item.attempt, item.open) == (1, None)


def test_sandboxes_of_jobs_that_were_not_chosen_are_left_alone() -> None:
    other = job("other")
    assert resume([job("a")], [Story(other).begun("sandbox-o")], []).sandboxes == frozenset({"sandbox-o"})


# ------------------------------------------------------------------------------------------------------------ on disk


LIFE: list[Entry] = [
    *BEGUN, STORY.taken_up(), STORY.sent(0), STORY.not_run(0), STORY.sent(0), STORY.ended(0, command(tail='"quoted"\n\u2028é')),
    STORY.fetched(), STORY.closed("error"),
]  # fmt: skip


def test_the_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    with BatchDirectory(tmp_path) as directory:
        for entry in LIFE:
            directory.note(entry)
        assert directory.entries() == LIFE
    kinds = {type(entry) for entry in LIFE}
    assert kinds == {Begun, Ready, TakenUp, Sent, NotRun, Ended, Fetched, Closed}


def test_a_journal_torn_at_any_byte_says_what_its_whole_lines_say(tmp_path: Path) -> None:
    with BatchDirectory(tmp_path / "whole") as directory:
        for entry in LIFE:
            directory.note(entry)
    data = (tmp_path / "whole" / "journal.jsonl").read_bytes()
    torn = tmp_path / "torn"
    torn.mkdir()
    for size in range(len(data)):
        (torn / "journal.jsonl").write_bytes(data[:size])
        whole = data[:size].count(b"\n")
        LineFile(torn / "journal.jsonl").close()
        assert (torn / "journal.jsonl").read_bytes() == b"".join(data.splitlines(keepends=True)[:whole])
        if size % 64 == 0:
            with BatchDirectory(torn) as directory:
                assert directory.entries() == LIFE[:whole]
                directory.note(STORY.taken_up())
                assert directory.entries() == [*LIFE[:whole], STORY.taken_up()]


def test_a_torn_result_is_left_out_and_can_be_written_again(tmp_path: Path) -> None:
    with BatchDirectory(tmp_path) as directory:
        directory.conclude(result("a"))
    line = (tmp_path / "results.jsonl").read_bytes()
    for size in range(0, len(line), 16):
        (tmp_path / "results.jsonl").write_bytes(line + line[:size])
        assert [each.id for each in read_results(tmp_path)] == ["a"]
        with BatchDirectory(tmp_path) as directory:
            directory.conclude(result("b"))
        assert [each.id for each in read_results(tmp_path)] == ["a", "b"]


def test_lines_longer_than_what_is_read_at_once_are_cut_at_their_beginning(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"short\n" + b"x" * 200_000)
    LineFile(path).close()
    assert list(whole_lines(path)) == ["short"]


def test_nothing_is_appended_to_a_closed_file(tmp_path: Path) -> None:
    lines = LineFile(tmp_path / "lines")
    lines.close()
    with pytest.raises(OSError, match="closed"):
        lines.append("x")


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_after_a_full_disk_nothing_is_appended_until_it_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "lines"
    with LineFile(path) as lines:
        lines.append("before")

        def full(file: int, data: bytes = b"") -> int:
            if call == "write":
                os.pwrite(file, b"to", path.stat().st_size)
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(OSError, match="No space"):
                lines.append("torn")
        with pytest.raises(OSError, match="No space"):
            lines.append("after")
    LineFile(path).close()
    assert list(whole_lines(path)) == ["before", *(["torn"] if call == "fsync" else [])]


def test_a_second_batch_on_a_directory_is_refused_and_named(tmp_path: Path) -> None:
    with BatchDirectory(tmp_path), pytest.raises(DirectoryError, match=r"another batch \(pid [0-9]+\) is at work"):
        BatchDirectory(tmp_path)
    BatchDirectory(tmp_path).close()


def jobs_file() -> JobFile:
    return read_jobs(b'{"id": "a", "image": "busybox", "commands": ["true"]}\n', name="jobs.jsonl", base=Path("/"))


def test_a_batch_keeps_its_run_over_all_its_processes(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        directory, info = open_batch(tmp_path / "out", jobs_file(), servers=["http://a:1"], options={"workers": 3})
        directory.close()
        made.append(info)
    assert made[0] == made[1] == read_batch(tmp_path / "out")


def test_a_directory_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DirectoryError, match=r"thesis\.tex"):
        open_batch(tmp_path, jobs_file(), servers=[], options={})
    assert not (tmp_path / "batch.json").exists()


def test_a_journal_whose_batch_is_not_known_is_no_new_batch(tmp_path: Path) -> None:
    directory, _ = open_batch(tmp_path / "out", jobs_file(), servers=[], options={})
    directory.note(STORY.begun())
    directory.close()
    (tmp_path / "out" / "batch.json").unlink()
    with pytest.raises(DirectoryError, match="journal"):
        open_batch(tmp_path / "out", jobs_file(), servers=[], options={})
