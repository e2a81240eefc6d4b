"""The promises, as checks over what the callers were told and what was counted from outside.

Each check says in its message which promise broke. A row counts as held only when every check of PROMISES was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.matrix.row import Row
from tests.faults.matrix.traffic import Call, Fate

PROMISES = (
    "At-most-once",  # each command ran at most once
    "True-results",  # a result means exactly one run, the true exit code and every byte
    "Honest-not-run",  # who was told "did not run and never will" can rely on it
    "Nothing-lost",  # every call ended within its bound, "unknown" and "lost" only where the row allows them
    "No-orphans",  # no process, no container is left that nobody owns
    "Hands-off",  # what is not ours was not touched
    "Base-line",  # descriptors, threads, memory and spool are back to where they were
    "No-secrets",  # no token and no environment value is in any log
)


@dataclass
class Verdict:
    """What came of one row for one subject."""

    row: str
    subject: str
    commands: int = 0
    results: int = 0  # exact ones
    told: dict[str, int] = field(default_factory=dict)  # explicit other answers, by fate
    twice: int = 0
    lost: int = 0
    wrong: int = 0
    orphans: int = 0
    checked: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    seed: int = 0

    def check(self, promise: str, failures: Iterable[str]) -> None:
        """Record that the promise was checked, and each way in which it broke."""
        assert promise in PROMISES, promise
        if promise not in self.checked:
            self.checked.append(promise)
        self.broken += [f"broke {promise}: {failure}" for failure in failures]

    @property
    def unchecked(self) -> list[str]:
        return [promise for promise in PROMISES if promise not in self.checked]


def judge_calls(verdict: Verdict, row: Row, calls: list[Call], runs: Counter[str], expected_runs: dict[str, int]) -> None:
    """Hold what the callers were told against how often each command ran.

    Args:
        expected_runs: commands that the row itself had run by other means than a call (a duplicate sent on purpose): how
            often each must have run.
    """
    named = {call.command.name for call in calls} | set(expected_runs)
    strangers = [name for name in runs if name not in named]
    verdict.commands += len(calls)
    verdict.results += sum(call.exact for call in calls)
    explicit = Counter(call.fate.value for call in calls if call.fate in (Fate.NOT_RUN, Fate.UNKNOWN, Fate.LOST))
    verdict.twice += sum(count > 1 for count in runs.values())
    verdict.check("At-most-once", (f"command {name} started {count} times" for name, count in runs.items() if count > 1))
    verdict.check("At-most-once", (f"{name!r} ran, which nobody sent" for name in strangers))

    unseen = [call for call in calls if call.fate is Fate.RESULT and runs[call.command.name] == 0 and not call.stillborn]
    cut_off = [call for call in calls if "cut off" in row.allows and call.cut_off and not call.exact]
    explicit["cut off"] += len(cut_off)
    wrong = [call for call in calls if call in unseen or (call.fate is Fate.RESULT and not call.exact and call not in cut_off)]
    verdict.wrong += len(wrong)
    verdict.check("True-results", (_wrong(call, runs) for call in wrong))
    verdict.check(
        "True-results",
        (f"command {name} ran {runs[name]} times, not {right}" for name, right in expected_runs.items() if runs[name] != right),
    )

    # What is lost comes with the output so far: less than all, and nothing else.
    invented = [call for call in calls if call.fate is Fate.LOST and not call.command.output.startswith(call.output or "")]
    verdict.wrong += len(invented)
    verdict.check("True-results", (f"command {call.command.name} is lost, with output that it never wrote" for call in invented))

    lies = [call for call in calls if call.fate is Fate.NOT_RUN and runs[call.command.name]]
    verdict.wrong += len(lies)
    verdict.check("Honest-not-run", (f"command {call.command.name} ran, its caller was told: {call.detail}" for call in lies))

    # A caller who hears of a broken connection only, of a command that ran, has lost its result.
    lost = [
        call
        for call in calls
        if call.fate is Fate.HUNG
        or (call.fate is Fate.FAILED and runs[call.command.name])
        or (call.fate.value in ("not run", "unknown", "lost") and call.fate.value not in row.allows)
    ]
    failed = [call for call in calls if call.fate is Fate.FAILED and not runs[call.command.name]]
    verdict.lost += len(lost)
    explicit["error"] += len(failed)
    verdict.told = {fate: count for fate, count in explicit.items() if count}
    verdict.check("Nothing-lost", (f"command {call.command.name}: {call.fate.value}: {call.detail}" for call in (*lost, *failed)))


def _wrong(call: Call, runs: Counter[str]) -> str:
    name, right = call.command.name, call.command
    if runs[name] == 0 and not call.stillborn:
        return f"command {name} has a result and never ran"
    if all(call.outcome not in (None, each.outcome) for each in right.right):
        return f"command {name}: {call.outcome} ({call.detail}), not {' or '.join(each.outcome for each in right.right)}"
    if all(call.returncode != each.returncode for each in right.right):
        return f"command {name}: exit code {call.returncode}, not {right.returncode}"
    got = call.output or ""
    at = next((n for n, (a, b) in enumerate(zip(got, right.output, strict=False)) if a != b), min(len(got), len(right.output)))
    return f"command {name}: {len(got)} characters of output, not {len(right.output)}; the first difference is at {at}"
