"""Leases: when a sandbox that nobody speaks for any more is removed.

A lease belongs to a run (one harness process or batch). Every renewal gives all sandboxes of the run a full new term, and
so does a start of the server or a suspend of the machine (FRESHLEASE: time that nobody could have renewed in does not
count). A running command extends the lease to its own deadline at most, unless the sandbox was made with
``on_lease_end="kill"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Term:
    """One sandbox's lease. Times are seconds on a clock of the caller's.

    Args:
        renewed_at: when somebody last spoke for its run; None: nobody has since `began_at`.
        began_at: when the server started, or the machine woke up (FRESHLEASE).
        busy_until: the latest deadline among its unfinished executions.
    """

    lease_s: float
    on_end: Literal["wait", "kill"]
    renewed_at: float | None
    began_at: float
    busy_until: float | None = None

    def ends_at(self) -> float:
        end = self.term_begins_at() + self.lease_s
        if self.on_end == "wait" and self.busy_until is not None:
            return max(end, self.busy_until)
        return end

    def term_begins_at(self) -> float:
        return self.began_at if self.renewed_at is None else max(self.renewed_at, self.began_at)

    def over(self, now: float) -> bool:
        return now >= self.ends_at()
