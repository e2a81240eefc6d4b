"""One command that was sent, as its caller sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from remote_env import protocol
from remote_env.correlation import About
from remote_env.courier import Courier
from remote_env.errors import InvalidSpec, SignalNotSent
from remote_env.events import OutputPiece, StreamName
from remote_env.eventstream import EventStream
from remote_env.exchange import JSON_BODY, Refused, dump
from remote_env.output import OutputReader
from remote_env.protocol import EPOCH_HEADER, SignalRequest
from remote_env.stream import lookup_error

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
        self._lock = threading.Lock()
        self._output: bytes | None = None
        self._stderr: bytes | None = None

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

    @property
    def streams(self) -> str:
        """ "merged": stdout and stderr are one output, in the order written; "split": each is by itself."""
        return self.record.streams

    def output(self) -> bytes:
        """The kept bytes of its output (of stdout, where streams are split): all of them once it is over, else what there
        is by now.

        Raises OutputIncomplete, OutcomeUnknownError.
        """
        if self._output is None:
            reader = self._reader("stdout" if self.streams == "split" else "merged")
            if not self.over:
                return reader.so_far()
            self._output = reader.whole(self.record.output)
        return self._output

    def stderr(self) -> bytes:
        """As `output`, of stderr. Raises InvalidSpec where streams are merged, OutputIncomplete, OutcomeUnknownError."""
        if self.streams != "split":
            raise InvalidSpec(f'Execution {self.id} has one merged output; streams="split" would have kept stderr apart.')
        if self._stderr is None:
            if not self.over:
                return self._reader("stderr").so_far()
            self._stderr = self._reader("stderr").whole(self.record.stderr or protocol.Output())
        return self._stderr

    def stream(self, from_: str | int = "start") -> EventStream:
        """Follows it, whether it runs or is over: an iterator of `events`, up to `Ended`.

        Args:
            from_: "start"; "now", which leaves out what it has written so far; or a position: what another stream of the same
                execution had for `position`, or an offset in its output.

        Leaving the loop, or closing the stream, does not cancel the command: `cancel()` does. What its iteration raises is told
        there. Raises InvalidSpec for what is no position.
        """
        return EventStream(self, self._exchange, from_)

    def follow(self) -> Iterator[bytes]:
        """The output (of stdout, where streams are split) from its beginning, as it comes, until the command has ended
        (`record` is then the final one).

        Raises OutputIncomplete when what went by is not what the server kept, OutcomeUnknownError.
        """
        with self.stream() as events:
            for event in events:
                if isinstance(event, OutputPiece) and event.stream != "stderr":
                    yield event.data

    def cancel(self) -> Execution:
        """Has everything the command started ended: SIGTERM, and SIGKILL after its grace. Does not wait for it; may be
        repeated. An end of its own that comes first stays the end. Raises OutcomeUnknownError."""
        return self._take(self._ask("POST", "/cancel"))

    def signal(self, number: int) -> Execution:
        """Sends the signal to the command's process group; nothing where it is over. Raises SignalNotSent (it has not started,
        or cannot be reached just now), Unreachable, OutcomeUnknownError (the signal may have been sent)."""
        path = f"/v1/executions/{self.id}/signal"
        headers = {EPOCH_HEADER: self.epoch, **JSON_BODY}
        try:
            return self._take(self._client.once(protocol.Execution, path, dump(SignalRequest(signal=number)), headers, self._about))
        except Refused as refusal:
            if refusal.problem.code != "wrong_state":
                raise self._refused(refusal) from refusal
            if self.refresh().over:
                return self
            raise SignalNotSent(
                f"Signal {number} was not sent: {refusal.problem.detail}. Nothing has changed; it may be sent again.",
                execution_id=self.id, sandbox_id=self.sandbox_id,
            ) from refusal  # fmt: skip

    def _ask(self, method: str, action: str) -> protocol.Execution:
        try:
            return self._exchange.ask(
                protocol.Execution,
                method,
                f"/v1/executions/{self.id}{action}",
                None,
                {EPOCH_HEADER: self.epoch},
                budget_s=self._exchange.transport.timings.reconnect_budget_s,
                about=self._about,
            )
        except Refused as refusal:
            raise self._refused(refusal) from refusal

    def _refused(self, refusal: Refused) -> Exception:
        return lookup_error(refusal.problem, self.id, self.sandbox_id)

    def _reader(self, stream: StreamName) -> OutputReader:
        return OutputReader(self._exchange, self._about, stream)

    @property
    def _about(self) -> About:
        return About(self.id, self.sandbox_id, self.epoch)

    def learn(self, record: protocol.Execution) -> Execution:
        """For those who follow it: takes the server's latest answer."""
        return self._take(record)

    def _take(self, record: protocol.Execution) -> Execution:
        with self._lock:
            if self.record.over and not record.over:
                return self  # another thread learnt of the end while this answer, from before it, was on its way
            attempts = self.record.attempts
            self.record = record if record.attempts >= attempts else record.model_copy(update={"attempts": attempts})
        return self

    def __repr__(self) -> str:
        outcome = f", {self.outcome.kind}" if self.outcome else ""
        return f"<Execution {self.id}: {self.record.state}{outcome}>"
