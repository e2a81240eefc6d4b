"""Every duration that the client waits, in one object, so that tests can scale them and a reader can find them."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Timings:
    """Seconds throughout. The defaults are the contract's; `scaled()` is for tests."""

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
    reconnect_first_s: float = 1.0
    reconnect_most_s: float = 30.0

    def call_s(self, timeout_s: float) -> float:
        """The deadline of a whole call for a command with this timeout."""
        return max(self.minimum_call_s, timeout_s + self.call_margin_s)

    def scaled(self, factor: float) -> Timings:
        """The same proportions on another clock; for tests."""
        return Timings(**{field.name: getattr(self, field.name) * factor for field in fields(self)})
