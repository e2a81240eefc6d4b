"""Letting go of results beyond retention, in steps so small that no command waits for one to be over.

A step takes a few rows and their output files; then the event loop has the others' turn for several times as long as the step
took. So 100,000 results go within a minute or so, and all the while at most a fifth of the loop's time is theirs.
"""

from __future__ import annotations

import asyncio
import time

from server.journal import Journal
from server.spool import Spool

_STEP = 8  # rows at once: about a millisecond, mostly for what secure_delete overwrites
_REST = 4.0  # times as long as the step took, for the others


class Pruning:
    """Prunes the journal and the spool together: files first, so that what the journal says is kept may be gone, never the
    other way round."""

    def __init__(self, journal: Journal, spool: Spool) -> None:
        self._journal = journal
        self._spool = spool

    async def run(self, ended_before: float) -> None:
        """Let go of everything whose sandbox was over before that time, in seconds since 1970. Raises OSError, CommitFailed,
        JournalError; what is left then goes the next time."""
        began = time.perf_counter()
        while self._step(ended_before):
            await asyncio.sleep((time.perf_counter() - began) * _REST)
            began = time.perf_counter()

    def _step(self, ended_before: float) -> bool:
        """Whether there was something to let go of."""
        ids = self._journal.expirable(ended_before, _STEP)
        for execution_id in ids:
            self._spool.remove(execution_id)
        if ids:
            self._journal.expire(ids)
        return self._journal.expire_sandboxes(ended_before, _STEP) or bool(ids)
