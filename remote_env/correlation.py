"""Which request an answer belongs to: ids, epoch and instance of each answer, held against what was asked.

A connection that is off by one, a proxy that mixes two clients up, a server that was replaced: each would hand one call the
answer of another. So an answer counts for a call only when everything in it that names something names the call's own.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from remote_env.protocol import EPOCH_HEADER, EXECUTION_HEADER, SANDBOX_HEADER, Execution, Problem, Sandbox

_HOMES = 4096  # epochs of which is remembered which server they are of; a forgotten one merely goes unchecked
_PATH = re.compile(r"/v1/(?P<kind>executions|sandboxes)/(?P<id>[^/?]+)")


@dataclass(frozen=True)
class About:
    """What a request is about. None: nothing is known of that, so any answer will do."""

    execution_id: str | None = None
    sandbox_id: str | None = None
    epoch: str | None = None

    @classmethod
    def of(cls, path: str, headers: Mapping[str, str] | None = None) -> About:
        """What path and headers of a request say by themselves."""
        epoch = headers.get(EPOCH_HEADER) if headers else None
        named = _PATH.match(path)
        if named is None:
            return cls(epoch=epoch)
        if named["kind"] == "executions":
            return cls(execution_id=named["id"], epoch=epoch)
        return cls(sandbox_id=named["id"], epoch=epoch)

    def wrong_headers(self, headers: Mapping[str, str], *, required: bool = False) -> str | None:
        """What an answer's headers say of another execution than this one; None when they agree, or are not there.
        `required`: they must be there, since nothing else in the answer names what it is about."""
        for header, asked in ((EXECUTION_HEADER, self.execution_id), (SANDBOX_HEADER, self.sandbox_id), (EPOCH_HEADER, self.epoch)):
            said = headers.get(header)
            if said is None:
                if required and asked is not None:
                    return f"asked about {self}, the answer has no {header}"
            elif asked is not None and said != asked:
                return f"asked about {self}, the answer's {header} is {said}"
            elif asked is None and header == EXECUTION_HEADER:
                return f"asked about {self}, the answer is about execution {said}"
        return None

    def wrong_body(self, answer: BaseModel) -> str | None:
        """What an answer says of something else than this; None when it is the one asked for."""
        if isinstance(answer, Execution):
            said = About(answer.id, answer.sandbox_id, answer.epoch)
        elif isinstance(answer, Sandbox):
            # A sandbox's epoch is what such a request asks for; it may be another one since.
            said = About(sandbox_id=answer.id)
        else:
            return None
        for asked, found in ((self.execution_id, said.execution_id), (self.sandbox_id, said.sandbox_id), (self.epoch, said.epoch)):
            if asked is not None and found is not None and asked != found:
                return f"asked about {self}, the answer is about {said}"
        return None

    def wrong_problem(self, problem: Problem) -> str | None:
        """What a refusal says of something else than this. It names the execution or its sandbox, whichever it is about."""
        ours = [known for known in (self.execution_id, self.sandbox_id) if known is not None]
        if problem.id is None or not ours or problem.id in ours:
            return None
        return f"asked about {self}, the refusal ({problem.code}) is about {problem.id}"

    def __str__(self) -> str:
        named = (("execution", self.execution_id), ("sandbox", self.sandbox_id), ("epoch", self.epoch))
        return ", ".join(f"{name} {value}" for name, value in named if value is not None) or "no execution"


class Homes:
    """Which server instance each epoch is of: that of the first answer that spoke of it."""

    def __init__(self) -> None:
        self._instances: OrderedDict[str, str] = OrderedDict()

    def learn(self, epoch: str | None, instance_id: str | None) -> None:
        if epoch and instance_id and epoch not in self._instances:
            self._instances[epoch] = instance_id
            while len(self._instances) > _HOMES:
                self._instances.popitem(last=False)

    def stranger(self, epoch: str | None, instance_id: str | None) -> str | None:
        """The instance that the epoch is of, when another one has answered."""
        home = self._instances.get(epoch) if epoch else None
        return home if home is not None and instance_id is not None and home != instance_id else None
