"""`run_batch`: a function for each of many jobs, each in a sandbox of its own. For programs; `remote-env batch run` is for job files.

The function runs here, its commands in the sandbox. What it raises is kept with its job. Nothing is written down: a process that
dies leaves its sandboxes to their lease, and a job is never run again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Generic, TypeVar

from remote_env.batch.batchresult import BatchResult, Environment, environment_of, is_infrastructure
from remote_env.client import Client
from remote_env.environment import RemoteDockerEnvironment
from remote_env.errors import InvalidSpec

J = TypeVar("J")
V = TypeVar("V")

_CONNECTIONS = 3  # of one job at most at a time: a command, its output, a cancel
_CLIENT_OPTIONS = (
    "url", "token", "token_file", "ca_file", "fingerprint", "timings", "run_id", "on_lease_end", "on_undelivered", "reads",
    "on_disconnected", "on_reconnected",
)  # fmt: skip
_END: Any = object()


def run_batch(
    jobs: Iterable[J],
    fn: Callable[[RemoteDockerEnvironment, J], V],
    *,
    workers: int = 8,
    image: Environment[J] = None,
    client: Client | None = None,
    **options: Any,
) -> Generator[BatchResult[J, V], None, None]:
    """Calls `fn(env, job)` for every job, `workers` at a time in threads, and yields the results in the order in which they
    are complete.

    Args:
        jobs: taken one by one as workers become free, so they may come from a generator, in one thread at a time.
        fn: gets an environment that was made for this job alone; it is closed, and its sandbox removed, after it.
        workers: threads, and sandboxes at once at most. Where the server has no room a job waits, up to `Timings.queue_s`.
        image: of the sandboxes; or a function of the job: an image, or a mapping of arguments of `RemoteDockerEnvironment`, which
            come before `options`. None: `options`, or the job itself (a mapping), has one under "image".
        client: a client to share; None: one is made, with those of `options` that are a client's (`url`, `token_file`, …).
        options: further arguments of `RemoteDockerEnvironment`, for all jobs: `timeout` and the like in seconds, sizes in bytes.

    Yields:
        A `BatchResult` for each job. Whatever happened to it is in there: what `fn` returned or raised, and whether the fault
        was the infrastructure's.

    Raises:
        InvalidSpec: an argument cannot be used; nothing was begun.
        What iterating over `jobs` raises: after the results of those that were begun.
        KeyboardInterrupt: Ctrl-C while a result is waited for. It, and closing the iterator (leaving the loop, `close()`), begin
            nothing more, remove the sandboxes of what runs, which ends its commands, and wait for the workers.
    """
    if workers < 1:
        raise InvalidSpec(f"workers must be at least 1, not {workers}")
    own = {name: options.pop(name) for name in _CLIENT_OPTIONS if name in options} if client is None else {}
    return _Batch(jobs, fn, workers, image, client, own, options).results()


class _Batch(Generic[J, V]):
    """Threads share the iterator of jobs and the set of open environments, under one lock each."""

    def __init__(
        self, jobs: Iterable[J], fn: Callable[[RemoteDockerEnvironment, J], V], workers: int, image: Environment[J],
        client: Client | None, client_options: Mapping[str, Any], options: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._jobs = enumerate(jobs)
        self._fn = fn
        self._image = image
        self._options = options
        self._workers = workers
        self._owns_client = client is None
        self._client = client or Client(**{"pool_size": workers * _CONNECTIONS, **client_options})
        self._taking = threading.Lock()
        self._guard = threading.Lock()
        self._open: set[RemoteDockerEnvironment] = set()
        self._stopped = False
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def results(self) -> Generator[BatchResult[J, V], None, None]:
        threads = [threading.Thread(target=self._work, name=f"remote-env-batch-{number}", daemon=True) for number in range(self._workers)]
        failure: BaseException | None = None
        try:
            for thread in threads:
                thread.start()
            working = len(threads)
            while working:
                found = self._done.get()
                if isinstance(found, BatchResult):
                    yield found
                    continue
                working -= 1
                failure = failure or found
        finally:
            self._stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            if self._owns_client:
                self._client.close()
        if failure is not None:
            raise failure

    def _work(self) -> None:
        """Leaves behind None, or what the jobs' iterator raised."""
        failure: BaseException | None = None
        try:
            while (taken := self._take()) is not _END:
                self._done.put(self._carry_out(*taken))
        except BaseException as error:  # raised again by whoever takes the results
            failure = error
        self._done.put(failure)

    def _take(self) -> Any:
        with self._taking:
            if self._stopped:
                return _END
            try:
                return next(self._jobs, _END)
            except BaseException:
                self._stopped = True  # the others finish what they have
                raise

    def _carry_out(self, index: int, job: J) -> BatchResult[J, V]:
        began, began_at = time.monotonic(), time.time()
        value: V | None = None
        exception: BaseException | None = None
        infrastructure = True  # until the function is called
        env: RemoteDockerEnvironment | None = None
        try:
            env = self._environment(job)
            infrastructure = False
            value = self._fn(env, job)
        except BaseException as error:  # kept with its job
            exception = error
            infrastructure = infrastructure or is_infrastructure(error)
        if env is not None:
            infrastructure = infrastructure or env.lost
            self._close(env)
        return BatchResult(
            index, job, value, exception, infrastructure, env.sandbox.id if env else None, began_at, time.monotonic() - began
        )

    def _environment(self, job: J) -> RemoteDockerEnvironment:
        env = RemoteDockerEnvironment(client=self._client, **environment_of(self._image, self._options, job))
        with self._guard:
            if not self._stopped:
                self._open.add(env)
                return env
        env.close()
        raise KeyboardInterrupt

    def _close(self, env: RemoteDockerEnvironment) -> None:
        with self._guard:
            self._open.discard(env)
        env.close()

    def _stop(self) -> None:
        """What runs is ended by the removal of its sandbox."""
        with self._guard:
            self._stopped = True
            running = list(self._open)
        for env in running:
            env.close()
