"""Times as the wire has them, and as users get them."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from pydantic import ValidationError

from remote_env import protocol
from remote_env.events import Greeting, Started, decode
from remote_env.sse import Garbled, Message

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def execution_at(text: str) -> protocol.Execution:
    record = protocol.Execution(id="e" * 32, sandbox_id="s" * 32, epoch="1", run_id="r" * 32, state="running")
    return protocol.Execution.model_validate_json(record.model_dump_json().replace('"accepted_at":null', f'"accepted_at":"{text}"'))


@pytest.mark.parametrize("text", ["2026-01-01T12:00:00Z", "2026-01-01T14:30:00+02:30"])
def test_times_are_in_utc_by_the_standard_librarys_own_time_zone(text: str) -> None:
    accepted_at = execution_at(text).accepted_at
    greeting = decode(Message("accepted", f'{{"id":"e","sandbox_id":"s","epoch":"1","run_id":"r","accepted_at":"{text}"}}'))
    started = decode(Message("started", f'{{"started_at":"{text}"}}'))
    assert isinstance(greeting, Greeting)
    assert isinstance(started, Started)
    for time in (accepted_at, greeting.accepted.accepted_at, started.started_at):
        assert time == NOON
        assert time.tzinfo is timezone.utc


def test_a_time_outside_the_calendar_is_refused_as_anything_else_is() -> None:
    with pytest.raises(ValidationError):
        execution_at("0001-01-01T00:00:00+05:00")
    with pytest.raises(Garbled):
        decode(Message("started", '{"started_at":"0001-01-01T00:00:00+05:00"}'))
