"""Requests between callers and the server: each can be lost, broken off, copied, and come late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.unit.simulation.clients import Call


@dataclass(eq=False)
class Message:
    """One copy of a request. `caller`: who waits for its answer; a copy that a proxy kept has none."""

    key: str  # what it is about: an execution's id, else a sandbox's
    verb: str  # post get abandon cancel create delete
    id: str
    sandbox: str
    epoch: str | None = None
    body: str = ""
    caller: Call | None = None
    session: str | None = None  # the one that the command is to run in

    def copy(self) -> Message:
        return Message(self.key, self.verb, self.id, self.sandbox, self.epoch, self.body, session=self.session)
