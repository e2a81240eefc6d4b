"""One command that was sent: what both faces know of it and ask the server about it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from typing_extensions import Self

from remote_env import protocol
from remote_env.correlation import About
from remote_env.courier import Courier
from remote_env.errors import InvalidSpec, SignalNotSent
from remote_env.events import StreamName
from remote_env.exchange import JSON_BODY, Exchange, Refused, dump
from remote_env.output import OutputReader
from remote_env.protocol import EPOCH_HEADER, SignalRequest
from remote_env.stream import lookup_error


class ExecutionBase:
    """`record` is the server's latest answer about it."""

    def __init__(self, exchange: Exchange, record: protocol.Execution) -> None:
        self._exchange = exchange
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
    def streams(self) -> str:
        """ "merged": stdout and stderr are one output, in the order written; "split": each is by itself."""
        return self.record.streams

    def learn(self, record: protocol.Execution) -> Self:
        """For those who follow it: takes the server's latest answer."""
        with self._lock:
            if self.record.over and not record.over:
                return self  # another thread learnt of the end while this answer, from before it, was on its way
            attempts = self.record.attempts
            self.record = record if record.attempts >= attempts else record.model_copy(update={"attempts": attempts})
        return self

    def __repr__(self) -> str:
        outcome = f", {self.outcome.kind}" if self.outcome else ""
        return f"<{type(self).__name__} {self.id}: {self.record.state}{outcome}>"

    # ------------------------------------------------------------------------------------------- asking the server

    async def _refresh(self) -> Self:
        return self.learn(await self._ask("GET", ""))

    async def _wait(self, timeout: float | None) -> Self:
        if not self.over:
            self.learn(await Courier(self._exchange, self.sandbox_id, self.epoch).wait(self.id, timeout))
        return self

    async def _fetch_output(self) -> bytes:
        if self._output is None:
            reader = self._reader("stdout" if self.streams == "split" else "merged")
            if not self.over:
                return await reader.so_far()
            self._output = await reader.whole(self.record.output)
        return self._output

    async def _fetch_stderr(self) -> bytes:
        if self.streams != "split":
            raise InvalidSpec(f'Execution {self.id} has one merged output; streams="split" would have kept stderr apart.')
        if self._stderr is None:
            if not self.over:
                return await self._reader("stderr").so_far()
            self._stderr = await self._reader("stderr").whole(self.record.stderr or protocol.Output())
        return self._stderr

    async def _save(self, local: str | os.PathLike[str], stderr: bool) -> None:
        if stderr and self.streams != "split":
            raise InvalidSpec(f'Execution {self.id} has one merged output; streams="split" would have kept stderr apart.')
        if not self.over:
            raise InvalidSpec(f"Execution {self.id} has not ended: its output is not whole yet.")
        if stderr:
            await self._reader("stderr").save(self.record.stderr or protocol.Output(), Path(local))
        else:
            await self._reader("stdout" if self.streams == "split" else "merged").save(self.record.output, Path(local))

    async def _cancel(self) -> Self:
        return self.learn(await self._ask("POST", "/cancel"))

    async def _signal(self, number: int) -> Self:
        path = f"/v1/executions/{self.id}/signal"
        headers = {EPOCH_HEADER: self.epoch, **JSON_BODY}
        try:
            return self.learn(
                await self._exchange.post_once(protocol.Execution, path, dump(SignalRequest(signal=number)), headers, self._about)
            )
        except Refused as refusal:
            if refusal.problem.code != "wrong_state":
                raise self._refused(refusal) from refusal
            if (await self._refresh()).over:
                return self
            raise SignalNotSent(
                f"Signal {number} was not sent: {refusal.problem.detail}. Nothing has changed; it may be sent again.",
                execution_id=self.id, sandbox_id=self.sandbox_id,
            ) from refusal  # fmt: skip

    async def _ask(self, method: str, action: str) -> protocol.Execution:
        try:
            return await self._exchange.ask(
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
