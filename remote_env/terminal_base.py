"""A program on a terminal of its own: what both faces type into it, and what they make of what it says.

Input is exactly once, by offsets: each request says how much was sent before it, and the server drops what it has had. Only
where the server was started again while some was on its way, nobody can tell; then InputUnknown says so, and nothing is typed twice.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from remote_env import protocol
from remote_env.carrier import MaybeSent
from remote_env.correlation import About
from remote_env.errors import ExpectEnded, ExpectTimeout, InputNotTaken, InputUnknown, InvalidSpec
from remote_env.exchange import JSON_BODY, Exchange, Refused, dump
from remote_env.execution_base import ExecutionBase
from remote_env.expecting import Match, Pattern
from remote_env.protocol import EPOCH_HEADER, INPUT_LIMIT, OFFSET_HEADER, InputAnswer, ResizeRequest, Tty
from remote_env.stream import lookup_error
from remote_env.transcript import Ended, TranscriptBase

Patterns = Pattern | Sequence[Pattern]

EXPECT_TIMEOUT_S = 30.0
INTERRUPT = b"\x03"  # Ctrl-C, as a keyboard sends it
SHELL_COMMAND = 'exec "$(command -v bash || command -v sh)" -l'
"""A login shell that a person would want: bash where the image has it."""


@dataclass(frozen=True)
class Expected:
    """What was expected has come.

    Attributes:
        output: the text in front of the match, back to the previous one. A terminal ends its lines with "\\r\\n", and shows what
            is typed, unless it was made with echo=False.
        match: the text that the pattern fits; "" for END.
        pattern: which of the patterns, counted from 0.
        groups: the pattern's groups.
        dropped: characters in front of `output` that are not in it, because more came than is kept for a match;
            `execution.output()` has them.
        execution: the program.
    """

    output: str
    match: str
    pattern: int
    groups: tuple[str | None, ...]
    dropped: int
    execution: Any


class _Effort:
    """To have input taken: for so many seconds, at growing intervals, until some of it is.

    `exposed`: whether a copy of it is out of which nobody has told us the fate.
    """

    def __init__(self, exchange: Exchange, budget_s: float) -> None:
        self.exposed = False
        self._transport = exchange.transport
        self._backoff = exchange.backoff()
        self._until = time.monotonic() + budget_s

    async def pause(self) -> bool:
        """False: long enough."""
        delay = self._backoff.next_s()
        return time.monotonic() + delay < self._until and await self._transport.pause(delay)


class TerminalBase(ABC):
    """`execution` is the program. One writer: of two that type into one terminal, neither knows how much the other has typed."""

    def __init__(self, execution: ExecutionBase, transcript: TranscriptBase, *, typed: int | None) -> None:
        """`typed`: bytes of input it was given so far; None: the server is asked."""
        self._program = execution
        self._transcript = transcript
        self._exchange: Exchange = execution._exchange
        self._typed = typed

    @property
    def id(self) -> str:
        """The program's execution id."""
        return self._program.id

    @property
    def over(self) -> bool:
        """Whether the program has ended, as far as is known here."""
        return self._program.over

    @property
    def outcome(self) -> protocol.Outcome | None:
        return self._program.outcome

    @property
    def text(self) -> str:
        """What it has said since the last match, as far as it has come: from the first `expect` or `read` on."""
        return self._transcript.text

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._program!r}>"

    # ------------------------------------------------------------------------------------------------------- input

    @property
    @abstractmethod
    def _typing(self) -> AbstractAsyncContextManager[None]:
        """Held by whoever types."""

    async def _send(self, text: str | bytes, expect: Patterns | None, timeout_s: float | None) -> Expected | None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        async with self._typing:
            try:
                await self._type(encoded(text))
            except BaseException:  # Ctrl-C, its task is cancelled, no answer came: who knows how much was typed
                self._typed = None
                raise
        return None if expect is None else await self._expect(expect, remaining(deadline))

    async def _type(self, data: bytes) -> None:
        """All of it. Raises InputUnknown, InputNotTaken, ExpectEnded (the program has ended), OutcomeUnknownError."""
        if self._typed is None:
            self._typed = await self._count()
        left = memoryview(data)
        effort = _Effort(self._exchange, self._budget_s)
        while left:
            piece = bytes(left[:INPUT_LIMIT])
            taken = await self._type_piece(piece, len(data) - len(left), effort)
            left = left[taken:]
            if taken:
                effort = _Effort(self._exchange, self._budget_s)

    async def _type_piece(self, piece: bytes, before: int, effort: _Effort) -> int:
        """How many of its bytes were taken. `before`: how many of the same call were."""
        assert self._typed is not None

        async def attempt() -> InputAnswer:
            try:
                return await self._post(piece, str(self._typed))
            except MaybeSent:
                effort.exposed = True
                raise

        try:
            answer = await self._exchange.persist(attempt, f"input for execution {self.id}", budget_s=self._budget_s)
        except Refused as refusal:
            return await self._not_taken(refusal, piece, before, effort)
        taken = answer.offset - self._typed
        if not 0 <= taken <= len(piece):
            raise self._unknown(f"somebody else types into it, too ({answer.offset} bytes have come)")
        self._typed = answer.offset
        return taken or await self._come_again(effort, before, "the server took none of it")

    async def _not_taken(self, refusal: Refused, piece: bytes, before: int, effort: _Effort) -> int:
        """What follows from a refusal. The bytes that were taken, where it can go on."""
        problem = refusal.problem
        if problem.code == "input_unknown":
            self._typed = await self._count()
            if effort.exposed:
                raise self._unknown("the server was started again while this was on its way") from refusal
            return await self._come_again(effort, before, problem.detail)  # this copy was the only one, and it was not taken
        if problem.code == "too_many":
            error = InputNotTaken(
                f"The program of execution {self.id} does not read its terminal: {before} bytes of this input and a part of the next "
                f"{len(piece)} are in its buffer, the rest is not.",
                execution_id=self.id, sandbox_id=self._program.sandbox_id,
            )  # fmt: skip
            self._typed, counted = await self._count(), self._typed or 0
            error.taken = before + max(0, self._typed - counted)
            raise error from refusal
        if problem.code == "wrong_state":
            if (await self._program._refresh()).over:
                raise self._ended(
                    "", "whether it has had this input is not known" if effort.exposed else "its input was not sent"
                ) from refusal
            await self._come_again(effort, before, problem.detail)  # it has not started yet, or cannot be reached just now
            await self._keep_step(len(piece) if effort.exposed else 0)
            return 0
        raise lookup_error(problem, self.id, self._program.sandbox_id) from refusal

    async def _come_again(self, effort: _Effort, before: int, why: str) -> int:
        """0, after a pause: none of it was taken, and it can be tried again. Raises InputNotTaken, InputUnknown when that was long
        enough."""
        if await effort.pause():
            return 0
        why = "the client was closed" if self._exchange.transport.closed else f"{why}, for {self._budget_s:g} s"
        if effort.exposed:
            raise self._unknown(why)
        error = InputNotTaken(
            f"{before} bytes of this input were typed and the rest was not: {why}.",
            execution_id=self.id, sandbox_id=self._program.sandbox_id,
        )  # fmt: skip
        error.taken = before
        raise error

    async def _keep_step(self, on_their_way: int) -> None:
        """That the server has counted what we have, and at most so many bytes more. Raises InputUnknown."""
        try:
            count = (await self._tell("0")).offset
        except Refused:
            return  # the next attempt is told the same
        if not 0 <= count - (self._typed or 0) <= on_their_way:
            raise self._unknown(f"somebody else types into it, too ({count} bytes have come)")

    async def _count(self) -> int:
        """How many bytes the server has given it. One that does not know begins to count anew."""
        try:
            return (await self._tell("0")).offset
        except Refused as refusal:
            if refusal.problem.code != "input_unknown":
                raise lookup_error(refusal.problem, self.id, self._program.sandbox_id) from refusal
        try:
            return (await self._tell("restart")).offset
        except Refused as refusal:
            raise lookup_error(refusal.problem, self.id, self._program.sandbox_id) from refusal

    async def _tell(self, offset: str) -> InputAnswer:
        """An offset and no input: nothing is typed by it, so it may be sent any number of times."""
        what = f"input for execution {self.id}"
        return await self._exchange.persist(lambda: self._post(b"", offset), what, budget_s=self._budget_s)

    async def _post(self, data: bytes, offset: str) -> InputAnswer:
        headers = {EPOCH_HEADER: self._program.epoch, OFFSET_HEADER: offset, "Content-Type": "application/octet-stream"}
        try:
            return await self._exchange.once(
                InputAnswer, "POST", f"/v1/executions/{self.id}/input", data, headers, about=self._about, read_s=self._budget_s
            )
        except Refused as refusal:
            if refusal.problem.code in ("too_many", "input_unknown"):  # asked again only in ways that make sense for these
                raise Refused(refusal.problem.model_copy(update={"retryable": False, "accepted": False})) from refusal
            raise

    async def _resize(self, rows: int, cols: int) -> None:
        try:
            body = dump(ResizeRequest(rows=rows, cols=cols))
        except ValueError:
            raise InvalidSpec("rows and cols are 1 to 65535. Nothing was sent.") from None
        path, headers = f"/v1/executions/{self.id}/resize", {EPOCH_HEADER: self._program.epoch, **JSON_BODY}
        try:
            record = await self._exchange.ask(
                protocol.Execution, "POST", path, body, headers, budget_s=self._budget_s, about=self._about
            )  # fmt: skip
        except Refused as refusal:
            if refusal.problem.code == "wrong_state" and (await self._program._refresh()).over:
                return
            raise lookup_error(refusal.problem, self.id, self._program.sandbox_id) from refusal
        self._program.learn(record)

    async def _close(self) -> None:
        if self._program.over:
            return
        await self._program._cancel()

    # ------------------------------------------------------------------------------------------------------ output

    async def _expect(self, patterns: Patterns, timeout_s: float | None) -> Expected:
        try:
            match = await self._transcript.expect(patterns, timeout_s)
        except Ended:
            raise self._ended(self._transcript.text) from None
        if match is None:
            raise self._timed_out(self._transcript.text, timeout_s)
        return self._expected(match)

    async def _read(self, timeout_s: float | None) -> str:
        try:
            return await self._transcript.read(timeout_s) or ""
        except Ended:
            return ""

    def _expected(self, match: Match) -> Expected:
        return Expected(match.before, match.match, match.index, match.groups, match.dropped, self._program)

    def _timed_out(self, text: str, timeout_s: float | None) -> ExpectTimeout:
        error = ExpectTimeout(
            f"What was expected of execution {self.id} did not come within {timeout_s} s. It goes on; the last it said: {text[-80:]!r}.",
            execution_id=self.id, sandbox_id=self._program.sandbox_id,
        )  # fmt: skip
        error.output = text
        return error

    def _ended(self, text: str, what: str = "what was expected did not come") -> ExpectEnded:
        outcome = self._program.outcome
        how = f" ({outcome.kind.replace('_', ' ')}{'' if outcome.code is None else f' with code {outcome.code}'})" if outcome else ""
        error = ExpectEnded(
            f"The program of execution {self.id} has ended{how}, and {what}.", execution_id=self.id, sandbox_id=self._program.sandbox_id
        )
        error.output = text
        return error

    def _unknown(self, why: str) -> InputUnknown:
        return InputUnknown(
            f"Whether input for execution {self.id} has arrived cannot be known: {why}. Look at what the program says.",
            execution_id=self.id, sandbox_id=self._program.sandbox_id,
        )  # fmt: skip

    @property
    def _about(self) -> About:
        return About(self.id, self._program.sandbox_id, self._program.epoch)

    @property
    def _budget_s(self) -> float:
        return self._exchange.transport.timings.reconnect_budget_s


def encoded(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)


def tty_of(tty: bool | Tty | None) -> Tty | None:
    """True: a terminal of the usual size."""
    return (Tty() if tty else None) if isinstance(tty, bool) else tty


def require_terminal(execution: ExecutionBase, sandbox_id: str) -> None:
    """Raises InvalidSpec for an execution that has no terminal in this sandbox, or is a session."""
    if not execution.record.tty or execution.record.opens is not None or execution.sandbox_id != sandbox_id:
        what = f"Execution {execution.id} does not run on a terminal of sandbox {sandbox_id}."
        raise InvalidSpec(what, execution_id=execution.id)


def position_of(from_: str | int, record: protocol.Execution) -> str | int:
    """Where to begin to read. "now" is the moment of the record, not that of the first look, before which somebody may type."""
    return record.output.total_bytes if from_ == "now" else from_


def remaining(deadline: float | None) -> float | None:
    """Seconds until then, on the monotonic clock, at least 0; None: for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
