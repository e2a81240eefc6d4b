"""What is alive in this server's memory: sandboxes that are not over, executions that have not ended. Everything here
can be rebuilt from the journal and the next hello."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from remote_env.protocol import ExecutionSpec
from server.link import Link, Listener
from server.machines import execution as execution_rules
from server.machines import sandbox as sandbox_rules
from server.messages import Ending
from server.output import LiveOutput
from server.terminal import Terminal
from server.waits import Bell


@dataclass(slots=True, eq=False)
class LiveExecution:
    """An execution without a final row."""

    id: str
    number: int
    sandbox: LiveSandbox
    machine: execution_rules.ExecutionMachine
    spec: dict[str, Any] | None  # None for a fence
    spec_hash: bytes | None
    secrets: dict[str, Any] | None
    accepted_at: float  # seconds since 1970
    deadline: float | None  # on the loop's clock: when its own timeout must have ended it; None: it has none
    outputs: tuple[LiveOutput, ...]  # one that is merged, or stdout and stderr
    ended: Bell
    moved: Bell  # it has started, output came on whichever stream, its link came back, or it has ended
    limit_s: float | None = None  # from its start to that deadline
    session: LiveExecution | None = None  # the one that this command is of
    command: LiveExecution | None = None  # of a session: the one command of it that has not ended
    terminal: Terminal | None = None  # where it runs on one
    request: ExecutionSpec | None = None  # as it came to this server, until it has started
    handed_over: tuple[int, ...] = ()  # read ends that came with the message now being handled, one for each output
    ending: Ending | None = None
    started_at: float | None = None
    activity_every: float | None = None  # seconds; set where an idle clock runs
    activity_sent: float = 0.0
    drain: asyncio.Task[None] | None = None
    final: dict[str, Any] | None = None
    ended_at: float | None = None

    @property
    def hears_signals(self) -> bool:
        """Whether it runs and its init can be told something."""
        return self.machine.state is execution_rules.State.RUNNING and self.sandbox.link is not None

    def fits(self, read_ends: Sequence[int]) -> bool:
        """Whether these can be those of its outputs."""
        return len(read_ends) == len(self.outputs) and (self.terminal is None or os.isatty(read_ends[0]))

    @property
    def opens_session(self) -> bool:
        return self.spec is not None and "opens" in self.spec

    @property
    def total_bytes(self) -> int:
        """What it has written so far, on all streams."""
        return sum(output.spool_file.total for output in self.outputs)


@dataclass(slots=True, eq=False)
class LiveSandbox:
    """A sandbox that is being made, runs or is being removed."""

    id: str
    run_id: str
    image: str
    spec: dict[str, Any]
    spec_hash: bytes
    state: sandbox_rules.State
    created_at: float
    memory_bytes: int
    changed: Bell
    reason: str | None = None
    doomed: str | None = None  # why it is being given up: it takes no more work, and its init is not listened to
    purge: bool = False  # its results are to be erased when it is removed
    container_id: str | None = None
    container_pid: int | None = None
    epoch: str | None = None
    secret: bytes | None = None
    progress: str | None = None
    env: dict[str, str] = field(default_factory=dict)  # goes with every command; empty where the container was made with it
    highest: int = 0  # the last number given
    executions: dict[str, LiveExecution] = field(default_factory=dict)
    waiting: deque[LiveExecution] = field(default_factory=deque)  # in order of their numbers (ORDER)
    listener: Listener | None = None
    link: Link | None = None
    unlinked_at: float = 0.0  # loop's clock; since when there has been no link
    linked: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # set when its last unfinished execution ends
    work: asyncio.Task[None] | None = None  # its creation or its end, whichever is under way

    @property
    def link_version(self) -> int:
        """What its init speaks, as it says, else as the journal has it. A server that did not write it down knew of 1 alone."""
        return self.link.version if self.link is not None else int(self.spec.get("link_version", 1))

    @property
    def takes_work(self) -> bool:
        return self.state is sandbox_rules.State.RUNNING and self.doomed is None
