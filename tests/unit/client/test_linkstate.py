"""The rules of the link alone: no I/O, no clock, every pair of state and event."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.linkstate import (
    Answered,
    ClientClosed,
    Disconnected,
    LinkEvent,
    LinkMachine,
    LinkState,
    Missed,
    PeerClosed,
    Reconnected,
)

UNKNOWN, CONNECTED, DEGRADED, DISCONNECTED, CLOSED = LinkState

TO_STATE: dict[LinkState, tuple[LinkEvent, ...]] = {
    UNKNOWN: (),
    CONNECTED: (Answered(1.0, "i1"),),
    DEGRADED: (Answered(1.0, "i1"), Missed(2.0, "refused")),
    DISCONNECTED: (Answered(1.0, "i1"), Missed(2.0, "refused"), Missed(3.0, "refused"), Missed(4.0, "refused")),
    CLOSED: (ClientClosed(1.0),),
}
EVENTS: dict[str, Callable[[float], LinkEvent]] = {
    "answered": lambda now: Answered(now, "i1"),
    "missed": lambda now: Missed(now, "timed out"),
    "peer closed": lambda now: PeerClosed(now, "reset"),
    "client closed": lambda now: ClientClosed(now),
}
NEXT: dict[LinkState, tuple[LinkState, LinkState, LinkState, LinkState]] = {
    UNKNOWN: (CONNECTED, DEGRADED, DEGRADED, CLOSED),
    CONNECTED: (CONNECTED, DEGRADED, DEGRADED, CLOSED),
    DEGRADED: (CONNECTED, DEGRADED, DEGRADED, CLOSED),
    DISCONNECTED: (CONNECTED, DISCONNECTED, DISCONNECTED, CLOSED),
    CLOSED: (CLOSED, CLOSED, CLOSED, CLOSED),
}


def in_state(state: LinkState, misses_allowed: int = 3) -> LinkMachine:
    machine = LinkMachine(misses_allowed, 0.0)
    for event in TO_STATE[state]:
        machine.handle(event)
    assert machine.state is state
    return machine


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", LinkState)
def test_each_event_in_each_state_leads_where_the_table_says(state: LinkState, event: str) -> None:
    machine = in_state(state)
    machine.handle(EVENTS[event](10.0))
    assert machine.state is NEXT[state][list(EVENTS).index(event)]


@pytest.mark.parametrize("event", EVENTS)
def test_nothing_changes_a_closed_link(event: str) -> None:
    machine = in_state(CLOSED)
    before = dict(vars(machine))
    assert machine.handle(EVENTS[event](10.0)) is None
    assert vars(machine) == before


def test_the_third_miss_in_a_row_is_told_once_and_the_answer_after_it_with_the_downtime() -> None:
    machine = in_state(CONNECTED)
    told = [machine.handle(Missed(now, "refused")) for now in (12.0, 22.0, 32.0, 42.0)]
    assert told == [None, None, Disconnected("refused"), None]
    assert (machine.misses, machine.failures) == (4, 4)
    assert machine.handle(Answered(50.0, "i1")) == Reconnected(38.0), "counted from the first sign of trouble"
    assert (machine.misses, machine.failures, machine.reconnects, machine.reason) == (0, 4, 1, None)


def test_an_answer_in_between_begins_the_count_anew() -> None:
    machine = in_state(CONNECTED)
    for now in (1.0, 2.0):
        machine.handle(Missed(now, "refused"))
    assert machine.handle(Answered(3.0)) is None
    assert [machine.handle(Missed(now, "refused")) for now in (4.0, 5.0)] == [None, None]
    assert machine.state is DEGRADED


def test_a_connection_that_the_peer_closed_is_no_missed_beat() -> None:
    machine = in_state(CONNECTED)
    for now in (1.0, 2.0, 3.0, 4.0):
        machine.handle(PeerClosed(now, "reset"))
    assert (machine.state, machine.misses, machine.failures) == (DEGRADED, 0, 4)


@pytest.mark.parametrize("allowed", [1, 2, 5])
def test_the_threshold_is_the_callers(allowed: int) -> None:
    machine = LinkMachine(allowed, 0.0)
    machine.handle(Answered(0.0))
    told = [machine.handle(Missed(float(number), "refused")) for number in range(allowed)]
    assert told == [None] * (allowed - 1) + [Disconnected("refused")]


def test_a_threshold_of_none_is_refused() -> None:
    with pytest.raises(ValueError):
        LinkMachine(0, 0.0)


def test_since_is_when_the_state_was_entered_not_the_latest_event() -> None:
    machine = in_state(CONNECTED)
    machine.handle(Answered(5.0, "i1"))
    assert machine.since == 1.0
    machine.handle(Missed(6.0, "refused"))
    machine.handle(Missed(7.0, "refused"))
    assert machine.since == 6.0


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=60))
def test_whatever_happens_lost_and_found_are_told_in_turn(names: list[str]) -> None:
    machine = LinkMachine(3, 0.0)
    told = [news for number, name in enumerate(names) if (news := machine.handle(EVENTS[name](float(number)))) is not None]
    assert [type(news) for news in told] == [Disconnected, Reconnected] * (len(told) // 2) + [Disconnected] * (len(told) % 2)
    assert all(news.downtime_s >= 0 for news in told if isinstance(news, Reconnected))
    assert machine.misses <= machine.failures
