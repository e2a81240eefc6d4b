"""Which execution an answer is about, said in its headers: so that an answer that comes late, twice or to the wrong
connection can never pass for another's, whatever its body is."""

from __future__ import annotations

from typing import NamedTuple

from remote_env.protocol import EPOCH_HEADER, EXECUTION_HEADER, SANDBOX_HEADER, Execution


class Correlation(NamedTuple):
    """An execution, its sandbox, and that sandbox's epoch."""

    execution_id: str
    sandbox_id: str
    epoch: str

    @classmethod
    def of(cls, execution: Execution) -> Correlation:
        return cls(execution.id, execution.sandbox_id, execution.epoch)

    def headers(self) -> dict[str, str]:
        """As every answer about this execution carries it. A refusal carries it too, once the request was found to speak of
        this very execution; one that spoke of another epoch, sandbox or body is about nothing here."""
        return {EXECUTION_HEADER: self.execution_id, SANDBOX_HEADER: self.sandbox_id, EPOCH_HEADER: self.epoch}
