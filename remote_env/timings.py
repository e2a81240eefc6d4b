"""Every duration that the client waits, in one object, so that tests can scale them and a reader can find them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Timings:
    """Seconds throughout, but for the counts. The defaults are the contract's; `scaled()` is for tests."""

    connect_s: float = 3.0  # per address
    minimum_call_s: float = 1800.0  # the whole call: max(this, command timeout + call_margin_s)
    call_margin_s: float = 30.0
    poll_slice_s: float = 20.0  # server-side wait of one long-poll: below the common idle limit of 60 s
    poll_margin_s: float = 15.0  # read timeout of a slice = slice + this
    request_s: float = 35.0  # read timeout of any other request
    reconnect_budget_s: float = 300.0
    first_contact_s: float = 2.0  # a server never reached so far: give up (or say so) sooner
    create_s: float = 1800.0  # a sandbox, image pull included
    farewell_s: float = 10.0  # best-effort requests on the way out: close, Ctrl-C
    queue_s: float = 600.0  # how long our own `accepted: false` is waited out
    retry_first_s: float = 0.1  # reads: doubling, with jitter
    retry_most_s: float = 5.0
    idle_connection_s: float = 30.0  # the server keeps them 300 s, so ours go first
    rebuild_s: float = 5.0  # pool rebuilds are never closer than this
    heartbeat_s: float = 10.0
    heartbeat_answer_s: float = 10.0  # a beat that has no answer by then is a miss
    heartbeat_misses: int = 3  # in a row: the link is disconnected
    first_beat_s: float = 1.0  # the first beat comes within this, at random: many clients may start at the same moment
    reconnect_first_s: float = 1.0  # of a disconnected link: doubling, with jitter, and never closer than rebuild_s
    reconnect_most_s: float = 30.0

    stream_silence_s: float = 45.0  # three of the server's heartbeats; there is no limit on a whole stream
    stream_connect_waits_s: tuple[float, ...] = (2.0, 4.0, 6.0)  # before a connect that failed is tried again, plus jitter
    stream_failures: int = 2  # within the window: long-polling instead
    stream_failure_window_s: float = 30.0
    stream_retry_sse_s: float = 60.0  # of long-polling, until a stream is tried again
    stream_split_poll_s: float = 1.0  # long-polling two streams: how long it waits for one before it looks at the other
    listener_grace_s: float = 1.0  # that on_output gets to catch up, once the command has ended

    def call_s(self, timeout_s: float | None) -> float:
        """The deadline of a whole call for a command with this timeout; None: it has none, and the call neither."""
        return float("inf") if timeout_s is None else max(self.minimum_call_s, timeout_s + self.call_margin_s)

    def scaled(self, factor: float) -> Timings:
        """The same proportions on another clock; for tests."""
        return Timings(**{field.name: _scaled(getattr(self, field.name), factor) for field in fields(self)})


def _scaled(value: Any, factor: float) -> Any:
    """Durations are floats; counts, which are not on the clock, are ints."""
    if isinstance(value, tuple):
        return tuple(_scaled(each, factor) for each in value)
    return value * factor if isinstance(value, float) else value
