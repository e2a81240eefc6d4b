from __future__ import annotations

import contextlib

from server.metrics import Metrics


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"remote_env_{name}", labels)


def test_an_execution_is_counted_from_accepted_to_ended() -> None:
    metrics = Metrics()
    metrics.execution_accepted()
    metrics.started(0.003)
    metrics.ended("exited", 0.5, 1000)
    assert sample(metrics, "executions_accepted_total") == 1
    assert sample(metrics, "executions_total", outcome="exited") == 1
    assert (sample(metrics, "start_seconds_sum"), sample(metrics, "execution_seconds_sum")) == (0.003, 0.5)
    assert sample(metrics, "output_bytes_total") == 1000
    assert sample(metrics, "timeouts_total", clock="total") is None


def test_a_timeout_is_counted_by_its_clock() -> None:
    metrics = Metrics()
    metrics.ended("timed_out", 1.0, 0, "idle")
    metrics.ended("timed_out", 1.0, 0)
    assert (sample(metrics, "timeouts_total", clock="idle"), sample(metrics, "timeouts_total", clock="total")) == (1, 1)


def test_gauges_are_asked_for_at_each_scrape() -> None:
    metrics = Metrics()
    running = [5]
    metrics.watch(running=lambda: running[0], sessions=lambda: 3, sandboxes=lambda: {"running": 2, "creating": 1})
    assert sample(metrics, "executions_running") == 5
    running[0] = 6
    assert sample(metrics, "executions_running") == 6
    assert b'remote_env_sandboxes{state="creating"} 1.0' in metrics.render()


def test_streams_are_counted_while_they_are_open_however_they_end() -> None:
    metrics = Metrics()
    with metrics.stream():
        with contextlib.suppress(ConnectionError), metrics.stream():
            assert sample(metrics, "streams") == 2
            metrics.stream_bytes(70)
            raise ConnectionError
        assert sample(metrics, "streams") == 1
    assert (sample(metrics, "streams"), sample(metrics, "stream_bytes_total")) == (0, 70)


def test_mismatches_of_each_kind_are_there_before_the_first() -> None:
    metrics = Metrics()
    metrics.mismatch("epoch")
    assert [sample(metrics, "mismatches_total", kind=kind) for kind in ("epoch", "sandbox", "body")] == [1, 0, 0]


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    for event in (one.deduplicated, one.reattached, one.lease_expired):
        event()
    one.commit(0.0001)
    for name in ("deduplicated_posts_total", "reattached_total", "leases_expired_total", "commit_seconds_count"):
        assert (sample(one, name), sample(other, name)) == (1, 0)
