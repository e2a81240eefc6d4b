"""What the routes call. `server.world.World` is the real one; tests have one in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from remote_env.filemodels import Changes, Snapshot, SnapshotRequest
from remote_env.protocol import Execution, ExecutionSpec, Health, LeaseAnswer, Sandbox, SandboxSpec
from server.correlation import Correlation
from server.events import Event, Position
from server.files import SandboxFiles
from server.terminals import Terminals


@dataclass(frozen=True)
class OutputSlice:
    """A stretch of an execution's kept bytes.

    Attributes:
        state: the execution's.
        total: kept bytes in all; None while it runs, when nobody knows yet.
        start, end: the stretch that `chunks` gives, in bytes; `end` is exclusive. Empty where nothing is there (yet).
        about: the execution.
    """

    state: str
    total: int | None
    start: int
    end: int
    chunks: AsyncIterator[bytes]
    about: Correlation | None = None


class Services(Protocol):
    """All methods run on the event loop and raise `server.problems.ProblemError` for what is refused.

    `wait_s` bounds how long a method waits for the thing to be over; it returns earlier when that comes earlier, or after
    `end_waits`, with the thing as it then is.
    """

    instance_id: str
    terminals: Terminals

    async def create_sandbox(self, spec: SandboxSpec, wait_s: float) -> tuple[Sandbox, bool]:
        """The sandbox, and whether this call was the one that made its id known."""

    async def get_sandbox(self, sid: str, wait_s: float) -> Sandbox:
        """The sandbox; waits while it is `creating`."""

    def list_sandboxes(self, run_id: str | None, state: str | None) -> list[Sandbox]:
        """Live ones; those in `state` where one is named, `all` for all."""

    async def remove_sandbox(self, sid: str, purge: bool, wait_s: float) -> Sandbox:
        """Remove it. An unknown id leaves a tombstone before `not_found` is raised."""

    def renew(self, run_id: str) -> LeaseAnswer:
        """A full new term for every sandbox of the run."""

    async def start_execution(self, sid: str, spec: ExecutionSpec, epoch: str | None, wait_s: float) -> tuple[Execution, bool]:
        """The execution, and whether this call was the one that accepted it; waits until it is over, one that opens a session
        until it has started. `epoch` is None only where the server made the id itself."""

    async def get_execution(self, eid: str, epoch: str, wait_s: float) -> Execution:
        """The execution; waits until it is over."""

    def list_executions(
        self, *, id: str | None, run_id: str | None, sandbox_id: str | None, state: str | None, opens: str | None, limit: int
    ) -> list[Execution]:  # fmt: skip
        """Newest first, without the output's text."""

    async def cancel(self, eid: str, epoch: str) -> Execution:
        """Have it cancelled; harmless when it is over or being cancelled."""

    async def abandon(self, eid: str, sandbox_id: str, epoch: str, wait_s: float) -> Execution:
        """A known id's execution as it is; an unknown id's fence, `accepted` until the init has confirmed it."""

    async def signal(self, eid: str, epoch: str, signum: int) -> Execution:
        """Send a signal to the command; waits a few seconds for it to be there to get it. `wrong_state`: it was not sent."""

    async def output(
        self, eid: str, epoch: str, start: int, end: int | None, wait_s: float, stream: str | None = None
    ) -> OutputSlice:  # fmt: skip
        """Kept bytes from `start` on, up to `end` (exclusive); waits for some while there are none and it runs. `stream`:
        "merged", "stdout" or "stderr", refused where the execution has none such; None: merged, or stdout where they are
        apart."""

    def follow(self, eid: str, epoch: str, at: Position | None) -> tuple[Correlation, AsyncGenerator[Event, None]]:
        """What the execution says and becomes, from this position on, None for what comes from now on. The generator ends
        after `End` or `Stopping`; it is to be closed. Refuses a position that is none of this execution's."""

    async def diff(self, sid: str, epoch: str) -> Changes:
        """What is otherwise in the sandbox than in its image."""

    async def snapshot(self, sid: str, epoch: str, request: SnapshotRequest, wait_s: float) -> Snapshot:
        """An image made of the sandbox, or, after the wait, one that is `creating`: the same request again waits on."""

    def files(self, sid: str, epoch: str, user: str | None) -> AbstractAsyncContextManager[SandboxFiles]:
        """The sandbox's files as `user` may see and change them; None: the sandbox's user."""

    async def default_sandbox(self) -> tuple[str, str]:
        """Id and epoch of the sandbox that POST /execute uses when none is named."""

    async def health(self) -> Health:
        """Everything that GET /health tells."""

    def end_waits(self) -> None:
        """All waits return now, and later ones at once: the server stops."""

    async def start(self) -> None:
        """Take up what an earlier server left."""

    async def stop(self, remove_sandboxes: bool) -> None:
        """Let go of everything; sandboxes stay unless they are to be removed."""
