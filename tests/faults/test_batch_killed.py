"""A batch whose client is killed, at every step and at random, and whose server is: each command ran once, as counted from outside."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from remote_env.batch.directory import BatchDirectory, read_results
from remote_env.batch.entries import Entry
from remote_env.batch.jobfile import read_jobs
from remote_env.batch.opening import open_batch
from remote_env.batch.results import JobResult
from remote_env.batch.resume import resume
from remote_env.batch.runner import Batch, Options
from remote_env.batch.servers import Address
from tests.support.batch import Witness, results_of, small_job, start_cli, write_jobs
from tests.support.outside import until
from tests.support.server import Server

MakeServer = Callable[..., Server]
SEED = int(os.environ.get("REMOTE_ENV_TEST_SEED", "20301"))
JOBS = 200
WORKERS = 12
CLIENT_KILLS = 2


class Crash(BaseException):
    """The client dies here."""


class Crashing:
    """Lets a directory take so many lines, and then the process dies: right before one is written, or right after."""

    def __init__(self, directory: BatchDirectory, lines: int, *, after: bool) -> None:
        self.crashed = False
        self._left = lines
        self._after = after
        note, conclude = directory.note, directory.conclude

        def crashing_note(entry: Entry) -> None:
            self._line(lambda: note(entry))

        def crashing_conclude(result: JobResult) -> None:
            self._line(lambda: conclude(result))

        directory.note, directory.conclude = crashing_note, crashing_conclude  # type: ignore[method-assign]

    def _line(self, write: Callable[[], None]) -> None:
        self._left -= 1
        if self._left < 0 and not self._after:
            self.crashed = True
            raise Crash
        write()
        if self._left < 0:
            self.crashed = True
            raise Crash


def one_run(server: Server, jobs: Path, out: Path, lines: int | None, *, after: bool, only: int | None = None) -> bool:
    """Runs the batch, or only the job of this number, whose client dies at this line; whether it did."""
    found = read_jobs(jobs.read_bytes(), name=jobs.name, base=jobs.parent)
    chosen = found.jobs if only is None else found.jobs[only : only + 1]
    directory, info = open_batch(out, found, servers=[server.url], options={})
    with directory:
        resumed = resume(chosen, directory.entries(), read_results(out))
        crashing = None if lines is None else Crashing(directory, lines, after=after)
        batch = Batch(
            directory, info.run_id, resumed, found.base, Options(1, (Address(server.url, server.data_dir / "token"),), 30.0, 300.0)
        )  # fmt: skip
        try:
            batch.run()
        except Crash:
            return True
        assert crashing is None or not crashing.crashed
        return False


def lines_of(path: Path) -> Iterator[int]:
    """How many lines a growing file has, each time it is asked; each byte is read once."""
    count = 0
    while not path.exists():
        yield count
    with open(path, "rb") as file:
        while True:
            count += file.read().count(b"\n")
            yield count


def test_a_client_that_dies_before_or_after_any_line_it_writes_runs_nothing_twice(
    make_server: MakeServer, busybox_image: str, tmp_path: Path
) -> None:
    witness = Witness(tmp_path / "witness")
    server = make_server("--bind-allow", str(witness.directory)).start()

    def story(lines: int, after: bool) -> int:
        name = f"{lines}-{'after' if after else 'before'}"
        place = tmp_path / name
        place.mkdir()
        job = small_job(
            name, witness.line(f"{name}-1"), f"{witness.line(f'{name}-2')}; exit 5", setup=[witness.line(f"{name}-0")],
            files={"/in": "put"}, artifacts=["/in"], binds=[witness.bind],
        )  # fmt: skip
        jobs = write_jobs(place / "jobs.jsonl", [job])
        died = one_run(server, jobs, place / "out", lines, after=after)
        assert not one_run(server, jobs, place / "out", None, after=False)
        (result,) = read_results(place / "out")
        assert (result.outcome, result.reason, len(result.commands)) == ("failed", "command 2 exited with 5", 3)
        assert (place / "out" / str(result.artifacts[0].file)).read_text() == "put"
        assert [witness.ran()[f"{name}-{step}"] for step in range(3)] == [1, 1, 1]
        return died

    with ThreadPoolExecutor(6) as pool:
        died = [pool.submit(story, lines, after) for lines in range(11) for after in (False, True)]
        lines_of_a_life = 11  # begun, ready, three times sent and ended, fetched, closed, and the result
        assert [each.result() for each in died] == [True] * 2 * lines_of_a_life
    until(lambda: not server.containers(), "every sandbox is gone")  # the last clients may have left before theirs was


def test_what_ended_while_the_client_was_away_is_known_even_where_its_sandbox_is_gone(
    server: Server, busybox_image: str, tmp_path: Path
) -> None:
    jobs = write_jobs(
        tmp_path / "jobs.jsonl", [small_job("one", "echo one; exit 7", artifacts=["/x"]), small_job("two", "echo one", "true")]
    )
    out = tmp_path / "out"
    for number in range(2):  # each dies where its first command has ended, before that is written down
        assert one_run(server, jobs, out, 3, after=False, only=number)
    unfinished = out / "jobs" / "one" / "1" / ".0-command-0.out.0123.part"
    unfinished.write_text("torn")
    with server.client() as client:
        for sandbox in client.sandboxes(run_id=json.loads((out / "batch.json").read_text())["run_id"]):
            sandbox.remove()
    assert not one_run(server, jobs, out, None, after=False)
    one, two = results_of(out)["one"], results_of(out)["two"]
    assert (one.outcome, one.reason, one.commands[0].tail) == ("failed", "command 1 exited with 7", "one\n")
    assert one.artifacts[0].error
    assert (two.outcome, len(two.commands), two.commands[0].tail) == ("lost", 1, "one\n")
    assert not unfinished.exists()


def test_a_job_whose_sandbox_ended_before_anything_ran_in_it_is_begun_anew(server: Server, busybox_image: str, tmp_path: Path) -> None:
    jobs, out = write_jobs(tmp_path / "jobs.jsonl", [small_job("a")]), tmp_path / "out"
    assert one_run(server, jobs, out, 2, after=False)  # it was about to write down that it sends the command
    with server.client() as client:
        (sandbox,) = client.sandboxes(run_id=json.loads((out / "batch.json").read_text())["run_id"])
        sandbox.remove()
    assert not one_run(server, jobs, out, None, after=False)
    result = results_of(out)["a"]
    assert (result.outcome, result.attempt, result.sandbox_id != sandbox.id) == ("passed", 1, True)


def test_a_batch_of_200_jobs_whose_client_and_server_are_killed_runs_each_command_once(
    make_server: MakeServer, busybox_image: str, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    witness = Witness(tmp_path / "witness")
    server = make_server("--bind-allow", str(witness.directory)).start()
    names = [f"j{number:03}" for number in range(JOBS)]
    jobs = write_jobs(
        tmp_path / "jobs.jsonl",
        [small_job(name, witness.line(f"{name}-0"), witness.line(f"{name}-1"), binds=[witness.bind]) for name in names],
    )
    out = tmp_path / "out"
    lines = JOBS * 7
    kills = sorted(draw.sample(range(lines // 20, lines * 9 // 10), CLIENT_KILLS))
    server_kill = draw.randrange(lines // 10, lines * 8 // 10)

    def batch() -> subprocess.Popen[str]:
        return start_cli(server, "run", jobs, "--out", out, "--workers", str(WORKERS), "--quiet")

    process = batch()
    written = lines_of(out / "journal.jsonl")
    try:
        for at in sorted([*kills, server_kill]):
            while next(written) < at:
                assert process.poll() is None, f"seed {SEED}: it ended before: {process.communicate()}"
                time.sleep(0.02)
            if at == server_kill:
                server.restart()
            else:
                process.kill()
                process.communicate()
                process = batch()
        _, said = process.communicate(timeout=240)
    finally:
        process.kill()
    results = results_of(out)
    assert process.returncode == 0, f"seed {SEED}: {said}"
    assert Counter(each.outcome for each in results.values()) == {"passed": JOBS}
    assert witness.ran() == {f"{name}-{step}": 1 for name in names for step in range(2)}, f"seed {SEED}"
    assert len((out / "results.jsonl").read_text().splitlines()) == JOBS
    until(lambda: not server.containers(), "every sandbox is gone")  # the last clients may have left before theirs was
