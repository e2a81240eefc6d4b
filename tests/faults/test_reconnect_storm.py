"""Many clients lose their server at one moment and come back to the next one, each by itself and spread over time."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.reconnect_storm import storm
from tests.support.server import Server


def test_every_client_of_a_killed_server_is_connected_again_after_its_restart(make_server: Callable[..., Server]) -> None:
    """Broken: SIGKILL of the server under 60 clients in 2 processes. Must hold: each link notices, each comes back."""
    seen = storm(make_server().start(), 60, 2, outage_s=0.2, scale=0.05)
    assert len(seen.connected_again_s) == 60
    assert seen.failures >= 60, "a link that did not notice: nothing was tested"
