"""What the server counts, in the Prometheus text format at GET /metrics.

One method per event, called where it happens; label children are looked up once. What can be asked for when it is wanted
(running executions, sandboxes) is asked for then: see `watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FAST_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
_COMMAND_S = (0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0)
_COMMIT_S = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.02, 0.1, 1.0)


class Stock(NamedTuple):
    """How many sandboxes of an image are kept ready, and how many are to be; why there are fewer."""

    image: str
    ready: int
    wanted: int
    trouble: str | None = None


Mismatch = Literal["epoch", "sandbox", "body"]
"""What a request had wrong of the execution or sandbox whose id it gave."""


class _Watched(Collector):
    """Numbers that are asked for at each scrape."""

    def __init__(self) -> None:
        self.running: Callable[[], int] = lambda: 0
        self.sessions: Callable[[], int] = lambda: 0
        self.sandboxes: Callable[[], Mapping[str, int]] = dict
        self.warm: Callable[[], Iterable[Stock]] = tuple

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("remote_env_executions_running", "Executions that have not ended.", value=self.running())
        yield GaugeMetricFamily("remote_env_sessions", "Sessions that have not ended.", value=self.sessions())
        by_state = GaugeMetricFamily("remote_env_sandboxes", "Sandboxes by state.", labels=["state"])
        for state, count in self.sandboxes().items():
            by_state.add_metric([state], count)
        yield by_state
        ready = GaugeMetricFamily("remote_env_warm_ready", "Sandboxes that are kept ready.", labels=["image"])
        wanted = GaugeMetricFamily("remote_env_warm_wanted", "Sandboxes that are to be kept ready.", labels=["image"])
        for image, counts in _by_image(self.warm()).items():
            ready.add_metric([image], counts[0])
            wanted.add_metric([image], counts[1])
        yield from (ready, wanted)


def _by_image(stock: Iterable[Stock]) -> dict[str, tuple[int, int]]:
    """Ready and wanted; an image may be kept with several sets of options."""
    counts: dict[str, tuple[int, int]] = {}
    for each in stock:
        ready, wanted = counts.get(each.image, (0, 0))
        counts[each.image] = ready + each.ready, wanted + each.wanted
    return counts


class Metrics:
    """The server's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._watched = _Watched()
        self.registry.register(self._watched)
        self._accepted = self._counter("executions_accepted", "Executions taken into the journal.")
        self._ended = Counter("remote_env_executions", "Executions ended, by outcome.", ["outcome"], registry=self.registry)
        self._ended_by_kind: dict[str, Counter] = {}
        self._timeouts = Counter("remote_env_timeouts", "Executions ended by a clock of theirs.", ["clock"], registry=self.registry)
        self._output = self._counter("output_bytes", "Bytes of output that commands wrote.")
        self._deduplicated = self._counter("deduplicated_posts", "POSTs of an id that was known: answered, not run again.")
        self._reattached = self._counter("reattached", "Waits that did not follow an answer of this server to the same caller.")
        self._leases = self._counter("leases_expired", "Sandboxes removed because their lease ran out.")
        mismatches = Counter(
            "remote_env_mismatches", "Requests refused because they spoke of another epoch, sandbox or body than the id's.", ["kind"],
            registry=self.registry,
        )  # fmt: skip
        self._mismatches = {kind: mismatches.labels(kind) for kind in get_args(Mismatch)}
        self._streams = Gauge("remote_env_streams", "Event streams that are open.", registry=self.registry)
        self._terminals = Gauge("remote_env_terminals", "WebSockets to terminals that are open.", registry=self.registry)
        self._stream_bytes = self._counter("stream_bytes", "Bytes of event streams sent.")
        self._start = self._histogram("start_seconds", "From accepted to started.", _FAST_S)
        self._total = self._histogram("execution_seconds", "From accepted to ended.", _COMMAND_S)
        self._commit = self._histogram("commit_seconds", "One commit of the journal.", _COMMIT_S)

    def execution_accepted(self) -> None:
        self._accepted.inc()

    def started(self, seconds: float) -> None:
        """A command has started, `seconds` after it was accepted."""
        self._start.observe(seconds)

    def ended(self, kind: str, seconds: float, output_bytes: int, clock: str | None = None) -> None:
        """An execution is over, `seconds` after it was accepted.

        Args:
            kind: the outcome's.
            clock: which one, when kind is `timed_out`.
        """
        child = self._ended_by_kind.get(kind)
        if child is None:
            child = self._ended_by_kind[kind] = self._ended.labels(kind)
        child.inc()
        self._total.observe(seconds)
        self._output.inc(output_bytes)
        if kind == "timed_out":
            self._timeouts.labels(clock or "total").inc()

    def deduplicated(self) -> None:
        self._deduplicated.inc()

    def reattached(self) -> None:
        self._reattached.inc()

    def lease_expired(self) -> None:
        self._leases.inc()

    def mismatch(self, kind: Mismatch) -> None:
        self._mismatches[kind].inc()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """An event stream is open for as long as this is entered."""
        self._streams.inc()
        try:
            yield
        finally:
            self._streams.dec()

    @contextmanager
    def terminal(self) -> Iterator[None]:
        """A terminal's WebSocket is open for as long as this is entered."""
        self._terminals.inc()
        try:
            yield
        finally:
            self._terminals.dec()

    def stream_bytes(self, count: int) -> None:
        self._stream_bytes.inc(count)

    def commit(self, seconds: float) -> None:
        self._commit.observe(seconds)

    def watch(
        self, *, running: Callable[[], int], sessions: Callable[[], int], sandboxes: Callable[[], Mapping[str, int]],
        warm: Callable[[], Iterable[Stock]] = tuple,
    ) -> None:  # fmt: skip
        """Where to ask, at each scrape, for the executions not ended, the sessions among them, the number of sandboxes by state,
        and those kept ready."""
        self._watched.running = running
        self._watched.sessions = sessions
        self._watched.sandboxes = sandboxes
        self._watched.warm = warm

    def render(self) -> bytes:
        """All of it as Prometheus text."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(f"remote_env_{name}", help, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"remote_env_{name}", help, buckets=buckets, registry=self.registry)
