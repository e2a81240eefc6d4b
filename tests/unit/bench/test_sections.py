"""What the sections compute of what they measured."""

from __future__ import annotations

import pytest

from scripts.benchmarks.processes import Cpu
from scripts.benchmarks.sections.cost import spent
from scripts.benchmarks.sections.leaks import growth
from scripts.benchmarks.sections.many import per_sandbox
from scripts.benchmarks.sections.profile import LOOP, itself, stacks
from scripts.benchmarks.sections.throughput import shares, warm_up_s
from scripts.benchmarks.swerex import Loop

STACKS = """\
thread (77): MainThread;main (app.py:3);handle (app.py:9) 3
thread (77): MainThread;main (app.py:3);handle (app.py:12) 2
thread (77);main (app.py:3);Runner.run (asyncio/runners.py:118) 40
thread (78): worker;wait (threading.py:1) 55
"""


def test_profile_counts_the_loops_thread_by_function_whatever_the_line() -> None:
    own = itself(stacks(STACKS, 77))
    assert own == {"handle (app.py)": 5, LOOP: 40}


@pytest.mark.parametrize(("clients", "wanted"), [(1, [1]), (2, [1, 1]), (5, [3, 2]), (64, [32, 32])])
def test_clients_are_spread_evenly_over_processes(clients: int, wanted: list[int]) -> None:
    assert shares(clients) == wanted


def test_a_window_of_the_engines_waits_until_its_queue_is_full() -> None:
    assert warm_up_s("sandbox.run", 64) == warm_up_s("sandbox.run", 1)
    assert warm_up_s("docker exec", 64) > warm_up_s("docker exec", 1)


def test_cost_of_a_process_that_began_meanwhile_counts_whole() -> None:
    before = {"server": {1: Cpu(1.0, 2.0)}, "engine": {5: Cpu(9.0, 9.0), 6: Cpu(4.0, 4.0)}}
    after = {"server": {1: Cpu(1.5, 2.25)}, "engine": {5: Cpu(9.0, 9.5), 7: Cpu(0.25, 0.0)}}
    assert spent(before, after, 10) == {"server": [0.05, 0.025], "engine": [0.025, 0.05]}


def test_memory_of_idle_sandboxes_and_of_running_commands_are_told_apart() -> None:
    levels = [
        {"sandboxes": 10, "idle": {"rss_bytes": 1_000 + 10 * 70}, "rss_bytes": 1_000 + 10 * 70 + 10 * 8},
        {"sandboxes": 40, "idle": {"rss_bytes": 1_780 + 30 * 70}, "rss_bytes": 1_780 + 30 * 70 + 30 * 8},
    ]
    assert per_sandbox({"alone": {"rss_bytes": 1_000}, "levels": levels}) == (70.0, 8.0)


def test_growth_over_many_executions_leaves_the_first_half_out() -> None:
    climbing = [{"executions": at * 1000, "fds": 10 * at} for at in range(10)]
    level = [{"executions": (10 + at) * 1000, "fds": 90} for at in range(10)]
    assert growth({"points": climbing + level}, "fds") == 0
    assert growth({"points": climbing}, "fds") == pytest.approx(1000)


def test_loop_in_its_thread_gives_results_and_raises_what_its_coroutines_raise() -> None:
    async def doubled(value: int) -> int:
        if value < 0:
            raise ValueError("negative")
        return 2 * value

    loop = Loop()
    try:
        assert loop.wait(doubled(21)) == 42
        with pytest.raises(ValueError, match="negative"):
            loop.wait(doubled(-1))
    finally:
        loop.close()
