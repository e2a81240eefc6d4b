"""Jobs go where there is room; a server that says no is asked again for one more, now and then."""

from __future__ import annotations

from remote_env.backoff import Backoff
from remote_env.batch.placing import Health, Room, choose


def room(name: str = "a", *, weight: float = 1.0, health: Health = Health.CONNECTED, open: bool = True) -> Room:
    made = Room(name, open=open, weight=weight, backoff=Backoff(1.0, 8.0, lambda: 1.0))
    made.health = health
    return made


def test_jobs_spread_by_how_much_each_server_can_take() -> None:
    rooms = [room("small"), room("large", weight=3.0)]
    for _ in range(8):
        chosen = choose(rooms, 0.0)
        assert chosen is not None
        chosen.enter()
    assert [each.active for each in rooms] == [2, 6]


def test_only_servers_that_answer_and_are_meant_for_new_jobs_get_one() -> None:
    away = [room(health=health) for health in (Health.CONNECTING, Health.DISCONNECTED, Health.DEAD)]
    assert choose([*away, room(open=False)], 0.0) is None


def test_a_server_that_said_no_has_room_for_as_many_as_it_had() -> None:
    full = room()
    for _ in range(3):
        full.enter()
    full.leave()
    full.refused(now=10.0)
    assert not full.has_room(10.5)
    full.leave()
    assert full.has_room(10.5)


def test_one_more_is_tried_after_a_while_and_not_two() -> None:
    full = room()
    full.enter()
    full.refused(now=10.0)
    assert full.waits_until() == 11.0
    assert full.has_room(11.0)
    full.enter()
    assert not full.has_room(100.0)
    assert full.waits_until() is None
    full.taken()
    assert full.has_room(100.0)
    full.enter()
    full.leave()
    full.refused(now=100.0)
    assert full.waits_until() == 101.0


def test_refusals_in_a_row_are_waited_out_ever_longer() -> None:
    full = room()
    waits = []
    for _ in range(5):
        full.enter()
        full.leave()
        full.refused(now=0.0)
        waits.append(full.waits_until())
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_a_server_full_of_others_sandboxes_is_asked_again_although_none_of_ours_will_leave() -> None:
    full = room()
    full.enter()
    full.leave()
    full.refused(now=0.0)
    assert not full.has_room(0.5)
    assert full.has_room(1.0)


def test_a_try_that_ended_otherwise_than_by_yes_or_no_does_not_end_the_trying() -> None:
    full = room()
    full.enter()
    full.refused(now=0.0)
    full.enter()
    full.leave()
    assert full.has_room(1.0)
