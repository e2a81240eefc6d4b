"""A server that starts itself again waits a little longer each time, and as before once it has been well for a while."""

from __future__ import annotations

from server.restarts import HEALTHY_S, VARIABLE, Restarts


def delays(lives: list[float]) -> list[float]:
    """The waits after lives of so many seconds, one after the other."""
    environ: dict[str, str] = {}
    found = []
    for lived_s in lives:
        restarts = Restarts(environ)
        found.append(restarts.delay_s(lived_s))
        environ[VARIABLE] = str(restarts.count + 1)
    return found


def test_the_wait_doubles_with_each_short_life_up_to_half_a_minute() -> None:
    assert delays([1.0] * 9) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_life_that_lasted_starts_the_count_anew() -> None:
    assert delays([1.0, 1.0, 1.0, HEALTHY_S, 1.0]) == [0.5, 1.0, 2.0, 0.5, 1.0]


def test_only_a_life_that_began_with_a_restart_tries_on() -> None:
    environ = {VARIABLE: "3", "PATH": "/bin"}
    assert Restarts(environ).within_one
    assert environ == {"PATH": "/bin"}
    assert not Restarts(environ).within_one
    assert not Restarts({VARIABLE: "nonsense"}).within_one
