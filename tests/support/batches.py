"""Results of batches that never ran, as many and as strange as a test wants: `python -m tests.support.batches DIRECTORY [JOBS]`."""

from __future__ import annotations

import random
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from remote_env.batch.directory import BatchInfo, write_batch
from remote_env.batch.results import ArtifactResult, CommandResult, JobResult
from remote_env.protocol import Outcome

BEGAN = datetime(2026, 11, 20, 9, 30, tzinfo=timezone.utc)
TAIL = """\
=================================== FAILURES ===================================
_____________________________ test_parse_{name} _____________________________

    def test_parse_{name}():
>       assert parse("2024-02-30") is None
E       AssertionError: assert datetime.date(2024, 3, 1) is None
E        +  where datetime.date(2024, 3, 1) = parse('2024-02-30')

tests/test_{name}.py:48: AssertionError
=========================== short test summary info ============================
\x1b[31mFAILED\x1b[0m tests/test_{name}.py::\x1b[1mtest_parse_{name}\x1b[0m - AssertionError
\x1b[31m================== \x1b[31m\x1b[1m1 failed\x1b[0m, \x1b[32m211 passed\x1b[0m in 4.82s ==================\x1b[0m
"""
HOSTILE = (
    "</script><script>alert(1)</script></pre></title><img src=x onerror=alert(2)> {{ 7*7 }} {% raw %} <!-- ]]> &lt; [red] "
    '\x1b]0;title\x07\x1b[2J\x00\x9b31m\u202eevil" onmouseover="alert(3)'
)
ENDINGS: dict[str, tuple[str, str, int | None]] = {  # outcome -> (reason, kind of its last command, exit code)
    "failed": ("command 2 (tests) exited with 1", "exited", 1),
    "timed_out": ("command 2 (tests) was ended after 30 s", "timed_out", None),
    "lost": ("command 2 (tests) was lost: sandbox died", "lost", None),
}


def outcome_of(kind: str, code: int | None) -> Outcome:
    return Outcome.model_validate({"kind": kind, "ran": kind != "not_run", "code": code})


def command_of(index: int, text: str, kind: str, code: int | None, began: datetime, seconds: float, tail: str, place: str) -> CommandResult:
    return CommandResult(
        phase="setup" if text.startswith("tar") else "command", index=index, name="tests" if "pytest" in text else None, command=text,
        execution_id=f"{abs(hash((place, index))):016x}", outcome=outcome_of(kind, code), exit_code=code, started_at=began,
        ended_at=began + timedelta(seconds=seconds), duration_s=seconds, output_file=f"{place}/{index}-command-{index}.out",
        total_bytes=len(tail), kept_bytes=len(tail), sha256="0" * 64, tail=tail,
    )  # fmt: skip


def results(count: int, *, workers: int = 16, seed: int = 1, servers: int = 2, wrong: float = 0.12) -> list[JobResult]:
    """`count` jobs on `workers`, one after another on each; a share of `wrong` has not passed, in every way there is."""
    chance = random.Random(seed)
    free = [BEGAN + timedelta(seconds=0.05 * worker) for worker in range(workers)]
    made = []
    for number in range(count):
        worker = min(range(workers), key=free.__getitem__)
        outcome = chance.choice(["failed", "failed", "failed", "timed_out", "lost", "error"]) if chance.random() < wrong else "passed"
        seconds = 30.2 if outcome == "timed_out" else round(chance.lognormvariate(1.6, 0.7), 3)
        began = free[worker]
        free[worker] = began + timedelta(seconds=seconds + 0.02)
        made.append(_result(f"project-{number:05d}", outcome, began, seconds, worker, chance, servers))
    return sorted(made, key=lambda result: result.ended_at)


def _result(name: str, outcome: str, began: datetime, seconds: float, worker: int, chance: random.Random, servers: int) -> JobResult:
    place, words = f"jobs/{name}/1", name.replace("-", "_")
    commands: list[CommandResult] = []
    reason: str | None = None
    if outcome == "error":
        reason, seconds = "the image is not there and cannot be pulled: no such image", 0.3
    else:
        reason, kind, code = ENDINGS.get(outcome, ("", "exited", 0))
        tail = f"{'.' * 60}\n212 passed in {seconds:.2f}s\n" if outcome == "passed" else TAIL.format(name=words)
        commands = [
            command_of(0, f"tar xzf {name}.tar.gz", "exited", 0, began, 0.04, "", place),
            command_of(1, "python -m pytest -q", kind, code, began + timedelta(seconds=0.3), max(0.01, seconds - 0.4), tail, place),
        ]
    return JobResult.model_validate(
        {
            "id": name, "outcome": outcome, "reason": reason or None, "image": "remote-env/pytest:latest", "run_id": "run-0001-example",
            "server": f"http://10.0.0.{1 + worker % servers}:9527", "sandbox_id": f"sandbox-{name}", "queued_at": BEGAN,
            "started_at": began, "ended_at": began + timedelta(seconds=seconds), "duration_s": seconds, "worker": worker,
            "create_s": round(chance.uniform(0.15, 0.6), 3), "commands": commands, "metadata": {"repository": words},
            "artifacts": [ArtifactResult(path="/w/report.xml", file=f"{place}/artifacts/report.xml", size=4096)] if commands else [],
        }
    )  # fmt: skip


def hostile(result: JobResult) -> JobResult:
    """The same, with text from someone who means ill wherever text can be."""
    commands = [
        each.model_copy(update={"tail": HOSTILE, "command": HOSTILE, "name": HOSTILE, "output_error": HOSTILE}) for each in result.commands
    ]
    artifact = ArtifactResult(path=HOSTILE, file="jobs/x/1/artifacts/javascript:alert(1)", error=HOSTILE)
    changed: dict[str, Any] = {
        "reason": HOSTILE,
        "image": HOSTILE,
        "server": HOSTILE,
        "metadata": {HOSTILE: HOSTILE},
        "artifacts": [artifact],
    }
    return result.model_copy(update={**changed, "commands": commands})


def write_results(directory: Path, made: list[JobResult], *, total: int | None = None, jobs_file: str = "projects.jsonl") -> Path:
    """A batch's directory with these results."""
    directory.mkdir(parents=True, exist_ok=True)
    info = BatchInfo(
        run_id="run-0001-example", created_at=BEGAN.isoformat(), jobs_file=jobs_file, jobs_sha256="0" * 64,
        job_count=len({each.id for each in made}) if total is None else total,
        servers=sorted({each.server for each in made if each.server and "<" not in each.server}), client_version="0.1.0",
        options={"workers": 16},
    )  # fmt: skip
    write_batch(directory, info)
    (directory / "results.jsonl").write_text("".join(f"{each.model_dump_json()}\n" for each in made), "utf-8")
    return directory


if __name__ == "__main__":
    write_results(Path(sys.argv[1]), results(int(sys.argv[2]) if len(sys.argv) > 2 else 200))
