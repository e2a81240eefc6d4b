"""Events as bytes: the text/event-stream of GET …/events (HTML Living Standard §9.2), one line of JSON an event."""

from __future__ import annotations

import base64
import re

from pydantic_core import to_json

from remote_env.digest import EVENT_CHECK, event_check
from server.events import Accepted, End, Event, Gap, Heartbeat, Piece, Position, Started, Stopping

MEDIA_TYPE = "text/event-stream; charset=utf-8"
_POSITION = re.compile(r"([0-9]{1,18})(?:,([0-9]{1,18}))?")


def encode(event: Event) -> bytes:
    """One event, with the empty line that ends it."""
    name, position, data = _parts(event)
    shown = None if position is None else show_position(position).encode()
    head = b"" if shown is None else b"id: %s\n" % shown
    # JSON has no line ends in it.
    return b"%sevent: %s\ndata: %s\n%s: %s\n\n" % (head, name, data, EVENT_CHECK, event_check(name, data, shown))


def _parts(event: Event) -> tuple[bytes, Position | None, bytes]:
    if isinstance(event, Piece):
        return b"output", event.position, to_json({"stream": event.stream, "offset": event.offset, **_shown(event.data)})
    if isinstance(event, Gap):
        return b"gap", event.position, to_json({"stream": event.stream, "from": event.start, "to": event.end})
    if isinstance(event, Accepted):
        execution = event.execution
        fields = {
            "id": execution.id, "sandbox_id": execution.sandbox_id, "epoch": execution.epoch, "run_id": execution.run_id,
            "streams": execution.streams, "accepted_at": execution.accepted_at,
        }  # fmt: skip
        return b"accepted", event.position, to_json(fields)
    if isinstance(event, Started):
        return b"started", None, to_json({"started_at": event.execution.started_at})
    if isinstance(event, Heartbeat):
        return b"heartbeat", None, to_json({"state": event.state})
    if isinstance(event, Stopping):
        return b"stopping", None, to_json({"retry_after_s": event.retry_after_s})
    assert isinstance(event, End)
    return b"end", None, event.execution.__pydantic_serializer__.to_json(event.execution)


def _shown(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def show_position(position: Position) -> str:
    """As an event's id has it: one offset, or stdout's and stderr's."""
    return ",".join(str(offset) for offset in position)


def parse_position(text: str) -> Position | None:
    """What `show_position` made the text of; None where it is no position."""
    match = _POSITION.fullmatch(text)
    return None if match is None else tuple(int(offset) for offset in match.groups() if offset is not None)
