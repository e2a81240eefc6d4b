"""What happens to an execution, as those who follow it see it; and how the server says it.

`Accepted`, `Started`, `OutputPiece`, `Gap`, `Ended` are for users, in that order; the last is always `Ended`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypeVar

from remote_env import protocol
from remote_env.fields import Time
from remote_env.sse import Garbled, Message

if TYPE_CHECKING:
    from remote_env.execution import Execution

Result = TypeVar("Result", default="Execution")
StreamName = Literal["merged", "stdout", "stderr"]
STREAMS: dict[str, tuple[StreamName, ...]] = {"merged": ("merged",), "split": ("stdout", "stderr")}
"""`Execution.streams` → the streams that such an execution has, in the order of a position's offsets."""


@dataclass(frozen=True)
class Accepted:
    """The server has the command in its journal. `streams` says whether stdout and stderr come apart ("split")."""

    execution_id: str
    sandbox_id: str
    epoch: str
    run_id: str
    streams: str
    accepted_at: datetime | None


@dataclass(frozen=True)
class Started:
    """It runs. `started_at` is None where only that much is known."""

    started_at: datetime | None


@dataclass(frozen=True)
class OutputPiece:
    """Bytes that it wrote. `offset` counts all that it wrote to this stream: of the first byte of `data`, from 0.

    No piece ends within a UTF-8 character unless the output itself does.
    """

    stream: StreamName
    offset: int
    data: bytes

    @property
    def text(self) -> str:
        """`data` as UTF-8; what is not UTF-8 is replaced by U+FFFD."""
        return self.data.decode("utf-8", "replace")

    @property
    def end(self) -> int:
        """The offset of what comes next."""
        return self.offset + len(self.data)


@dataclass(frozen=True)
class Gap:
    """Bytes [start, end) of this stream are not to be had any more: dropped by the output limit, or purged."""

    stream: StreamName
    start: int
    end: int


@dataclass(frozen=True)
class Ended(Generic[Result]):
    """It is over. `result` is what `Sandbox.run` would have returned."""

    result: Result


Happened = Accepted | Started | OutputPiece | Gap
Event = Happened | Ended["Execution"]


# ---------------------------------------------------------------------------------------------------------- the wire


@dataclass(frozen=True)
class Greeting:
    """`accepted`, the first event of every connection. `position`: what comes next begins there, where it says so."""

    accepted: Accepted
    position: str | None


@dataclass(frozen=True)
class Heartbeat:
    """Nothing happened, and the connection lives."""


@dataclass(frozen=True)
class Stopping:
    """The server stops; come again after so many seconds."""

    retry_after_s: float


@dataclass(frozen=True)
class End:
    """`end`: the execution as GET answers it."""

    record: protocol.Execution


_TIME: TypeAdapter[datetime | None] = TypeAdapter(Time | None)
WireEvent = Greeting | Started | OutputPiece | Gap | Heartbeat | Stopping | End


def decode(message: Message) -> WireEvent | None:
    """What the message says; None for an event that a newer server may send. Raises Garbled."""
    read = _READERS.get(message.event)
    if read is None:
        return None
    try:
        return read(json.loads(message.data), message)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError, binascii.Error) as error:
        raise Garbled(f"event {message.event!r}: {type(error).__name__}") from error


def _accepted(data: dict[str, Any], message: Message) -> Greeting:
    accepted = Accepted(
        execution_id=str(data["id"]),
        sandbox_id=str(data["sandbox_id"]),
        epoch=str(data["epoch"]),
        run_id=str(data["run_id"]),
        streams=str(data.get("streams", "merged")),
        accepted_at=_TIME.validate_python(data.get("accepted_at")),
    )
    return Greeting(accepted, message.id)


def _output(data: dict[str, Any], message: Message) -> OutputPiece:
    text = data.get("text")
    piece = text.encode() if isinstance(text, str) else base64.b64decode(data["base64"], validate=True)
    return OutputPiece(_stream(data), _offset(data["offset"]), piece)


def _gap(data: dict[str, Any], message: Message) -> Gap:
    return Gap(_stream(data), _offset(data["from"]), _offset(data["to"]))


def _stopping(data: dict[str, Any], message: Message) -> Stopping:
    return Stopping(min(60.0, max(0.0, float(data.get("retry_after_s") or 0.0))))


_READERS: dict[str, Callable[[dict[str, Any], Message], WireEvent]] = {
    "accepted": _accepted,
    "started": lambda data, message: Started(_TIME.validate_python(data.get("started_at"))),
    "output": _output,
    "gap": _gap,
    "heartbeat": lambda data, message: Heartbeat(),
    "stopping": _stopping,
    "end": lambda data, message: End(protocol.Execution.model_validate_json(message.data)),
}


def _stream(data: dict[str, Any]) -> StreamName:
    for names in STREAMS.values():
        for name in names:
            if data["stream"] == name:
                return name
    raise ValueError("no such stream")


def _offset(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("not an offset")
    return value
