"""One command that was sent, as its caller sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from remote_env import protocol
from remote_env.courier import Courier
from remote_env.errors import EpochChanged, OutcomeUnknownError
from remote_env.exchange import JSON_BODY, Refused, dump
from remote_env.output import OutputReader
from remote_env.protocol import EPOCH_HEADER, SignalRequest

if TYPE_CHECKING:
    from remote_env.client import Client


class Execution:
    """A command in a sandbox, running or ended. Threads may share it.

    `record` is the server's latest answer about it; `refresh()` and `wait()` renew it.
    """

    def __init__(self, client: Client, record: protocol.Execution) -> None:
        self._client = client
        self._exchange = client.exchange
        self.record = record
        self._output: bytes | None = None

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def sandbox_id(self) -> str:
        return self.record.sandbox_id

    @property
    def epoch(self) -> str:
        return self.record.epoch

    @property
    def over(self) -> bool:
        return self.record.over

    @property
    def outcome(self) -> protocol.Outcome | None:
        """How it ended; None while it runs."""
        return self.record.outcome

    @property
    def returncode(self) -> int | None:
        """The command's own exit code, 128 + n for a signal, 137 for oom, -1 where there is none (see `outcome`);
        None while it runs."""
        return None if self.record.outcome is None else self.record.outcome.returncode

    @property
    def attempts(self) -> int:
        """How many executions this call took: more than 1 only for a command that is proven to be a read."""
        return self.record.attempts

    @property
    def text(self) -> str:
        """`output()` as UTF-8; what is not UTF-8 is replaced by U+FFFD."""
        return self.output().decode("utf-8", "replace")

    def refresh(self) -> Execution:
        """Asks the server how it stands now. Raises OutcomeUnknownError."""
        return self._take(self._ask("GET", ""))

    def wait(self, timeout: float | None = None) -> Execution:
        """Waits for its end, for ever or for `timeout` seconds.

        Raises TimeoutError (it goes on), OutcomeUnknownError.
        """
        if not self.over:
            self._take(Courier(self._exchange, self.sandbox_id, self.epoch).wait(self.id, timeout))
        return self

    def output(self) -> bytes:
        """The kept bytes of its output: all of them once it is over, else what there is by now.

        Raises OutputIncomplete, OutcomeUnknownError.
        """
        if self._output is None:
            reader = OutputReader(self._exchange, self.id, self.epoch)
            if not self.over:
                return reader.so_far()
            self._output = reader.whole(self.record)
        return self._output

    def follow(self) -> Iterator[bytes]:
        """The output from its beginning, as it comes, until the command has ended (`record` is then the final one).

        Raises OutputIncomplete when what went by is not what the server kept, OutcomeUnknownError.
        """
        return OutputReader(self._exchange, self.id, self.epoch).follow(lambda: self.wait().record)

    def cancel(self) -> Execution:
        """Has everything the command started ended: SIGTERM, and SIGKILL after its grace. Does not wait for it; may be
        repeated. An end of its own that comes first stays the end. Raises OutcomeUnknownError."""
        return self._take(self._ask("POST", "/cancel"))

    def signal(self, number: int) -> Execution:
        """Sends the signal to the command's process group; nothing where it is over. Raises Unreachable,
        OutcomeUnknownError (the signal may have been sent)."""
        path = f"/v1/executions/{self.id}/signal"
        headers = {EPOCH_HEADER: self.epoch, **JSON_BODY}
        try:
            return self._take(self._client.once(protocol.Execution, path, dump(SignalRequest(signal=number)), headers, check=self._wrong))
        except Refused as refusal:
            if refusal.problem.code == "wrong_state":
                return self.refresh()
            raise self._refused(refusal) from refusal

    def _ask(self, method: str, action: str) -> protocol.Execution:
        try:
            return self._exchange.ask(
                protocol.Execution,
                method,
                f"/v1/executions/{self.id}{action}",
                None,
                {EPOCH_HEADER: self.epoch},
                budget_s=self._exchange.transport.timings.reconnect_budget_s,
                check=self._wrong,
            )
        except Refused as refusal:
            raise self._refused(refusal) from refusal

    def _refused(self, refusal: Refused) -> Exception:
        if refusal.problem.status in (404, 412):
            return EpochChanged(f"The server knows nothing of execution {self.id} any more ({refusal}).", execution_id=self.id)
        if refusal.problem.status == 410:
            return OutcomeUnknownError(f"The result of execution {self.id} is beyond retention ({refusal}).", execution_id=self.id)
        return refusal.error(execution_id=self.id, sandbox_id=self.sandbox_id)

    def _wrong(self, answer: protocol.Execution) -> str | None:
        if answer.id == self.id and answer.epoch == self.epoch:
            return None
        return f"asked about execution {self.id}, the answer is about {answer.id} (epoch {answer.epoch})"

    def _take(self, record: protocol.Execution) -> Execution:
        attempts = self.record.attempts
        self.record = record if record.attempts >= attempts else record.model_copy(update={"attempts": attempts})
        return self

    def __repr__(self) -> str:
        outcome = f", {self.outcome.kind}" if self.outcome else ""
        return f"<Execution {self.id}: {self.record.state}{outcome}>"
