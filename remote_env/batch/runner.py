"""A batch: the workers, what they share, and what Ctrl-C does.

The main thread waits for what its workers, its servers' links and the user tell it; workers do the jobs (`job`), the queue says
which and where (`queue`), the directory keeps what must survive (`directory`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

from remote_env.batch.directory import BatchDirectory
from remote_env.batch.entries import Begun, TakenUp
from remote_env.batch.events import (
    BatchEnded,
    BatchEvent,
    BatchStarted,
    BatchState,
    JobFinished,
    JobQueued,
    JobStarted,
    JobWaiting,
    Listener,
    Message,
    ServerState,
)
from remote_env.batch.fate import SILENT, Fate
from remote_env.batch.job import Finished, JobRun, Left, Unbegun
from remote_env.batch.jobqueue import Queue, Task, Waiting
from remote_env.batch.placing import Health
from remote_env.batch.plan import Attempt, follow
from remote_env.batch.results import JobOutcome
from remote_env.batch.resume import Resumed
from remote_env.batch.servers import Address, Server, timings_for
from remote_env.batch.summary import EXIT_INTERRUPTED, Summary, latest, summarize
from remote_env.errors import RemoteEnvError
from remote_env.protocol import new_id

TRIES_MOST = 3  # times that a job is begun anew because of bad luck
KEPT: tuple[JobOutcome, ...] = ("failed", "timed_out", "error")  # of the lost ones there is nothing to keep
CANCEL_S = 20.0  # that what runs has to end in, once it is cancelled

log = logging.getLogger("remote_env")
Told = Literal["interrupted", "terminated", "over", "failed"]


@dataclass(frozen=True)
class Options:
    """How a batch is run. Durations in seconds."""

    workers: int = 8
    servers: tuple[Address, ...] = (Address(None),)
    server_timeout_s: float = 300.0
    lease_s: float = 300.0
    keep_failed: int = 0  # sandboxes of jobs that did not pass, at most


class Batch:
    """One run of a batch. `run` does all of it, once; `interrupt` and `terminate` may be called by a signal handler.

    Args:
        resumed: the jobs, and what earlier runs have left of them.
        listeners: called with each event, one at a time. What they raise ends the batch.
    """

    def __init__(
        self, directory: BatchDirectory, run_id: str, resumed: Resumed, base: Path, options: Options, listeners: Sequence[Listener] = ()
    ) -> None:
        self.directory = directory
        self.base = base
        self.cancelling = False
        self._run_id = run_id
        self._resumed = resumed
        self._options = options
        self._listeners = listeners
        self._telling = threading.Lock()
        self._ended = False
        self._told: SimpleQueue[Told] = SimpleQueue()
        self._results = list(resumed.results)
        self._left: set[str] = set()  # sandboxes of jobs that are left as they are, and kept ones
        self._keeping = threading.Lock()
        self._keep_more = options.keep_failed
        self._in_use = set(resumed.sandboxes)  # and those that this run asks for
        self._interrupted = False
        self._over = False  # whether what the links say concerns nobody any more
        self._failure: BaseException | None = None
        self._queue: Queue

    def interrupt(self) -> None:
        """The first time: what runs comes to its end, nothing new is begun. The second time: as `terminate`."""
        self._told.put("interrupted")

    def terminate(self) -> None:
        """What runs is cancelled and its sandboxes are removed."""
        self._told.put("terminated")

    def keeps(self, outcome: JobOutcome) -> bool:
        with self._keeping:
            keep = self._keep_more > 0 and outcome in KEPT and not self.cancelling
            self._keep_more -= keep
            return keep

    def emit(self, event: BatchEvent) -> None:
        with self._telling:
            if self._ended:  # a link may still have something to say
                return
            self._ended = isinstance(event, BatchEnded)
            try:
                for listener in self._listeners:
                    listener(event)
            except BaseException as error:  # never the fault of the job, or of the link, that it was told about
                self._ended = True
                self._fail(error)

    def run(self) -> Summary:
        """Returns when nothing runs any more. Raises InvalidSpec for a server's address that cannot be used, OSError where the
        directory cannot be written."""
        servers = self._make_servers()
        try:
            now = time.time()
            self._queue = Queue([Waiting(item, queued_at=now) for item in self._resumed.items], servers)
            self._tell_start(servers)
            for server in servers:
                self._begin_thread("remote-env-batch-probe", self._probe, server)
            for number in range(self._options.workers):
                self._begin_thread(f"remote-env-batch-{number}", self._work, number)
            self._wait(servers)
            if self._failure is None:
                self._sweep(servers)
        except BaseException:
            self.directory.seal()  # before the clients are closed: what their calls then raise is no job's end
            raise
        finally:
            self._over = True
            for server in servers:
                server.client.close()
        if self._failure is None:
            self._tell_end()
        if self._failure is not None:
            raise self._failure
        return self._summary()

    @property
    def exit_code(self) -> int:
        """130 where Ctrl-C kept anything from its end; else as `Summary.exit_code` says."""
        stopped = self._interrupted and (self.cancelling or self._unfinished())
        return EXIT_INTERRUPTED if stopped else self._summary().exit_code

    # --------------------------------------------------------------------------------------------------- servers

    def _make_servers(self) -> list[Server]:
        """Those that were given, and those where an earlier run has left something."""
        made: dict[str, Server] = {}
        addresses = [(address, True) for address in self._options.servers]
        addresses += [(Address(url), False) for url in self._resumed.servers]
        timings = timings_for(self._options.server_timeout_s)
        try:
            for address, is_open in addresses:
                if address.resolved().url in made:
                    continue
                server = Server(
                    address, run_id=self._run_id, timings=timings, workers=self._options.workers, open=is_open, on_health=self._learn
                )  # fmt: skip
                made[server.url] = server
        except BaseException:
            for server in made.values():
                server.client.close()
            raise
        return list(made.values())

    def _probe(self, server: Server) -> None:
        if server.probe():
            self._remove_all(server, self._in_use)

    def _learn(self, server: Server, health: Health, reason: str | None, silent: bool) -> None:
        try:
            if not self._over and self._queue.learn(server, health, reason, silent):
                state: Literal["connected", "disconnected", "dead"]
                state = "connected" if health is Health.CONNECTED else "dead" if health is Health.DEAD else "disconnected"
                self.emit(ServerState(time.time(), server.url, state, reason))
        except BaseException as error:  # a link's thread would only log it
            self._fail(error)

    def _give_up_silent(self, servers: Sequence[Server]) -> None:
        for server in servers:
            since = server.trouble_since
            silent_s = 0.0 if since is None else time.monotonic() - since
            if server.room.health is Health.DISCONNECTED and silent_s > self._options.server_timeout_s:
                self._learn(server, Health.DEAD, f"no answer for {silent_s:.0f} s: {server.reason}", True)

    def _sweep(self, servers: Sequence[Server]) -> None:
        """Removes what is left of the batch's sandboxes: late copies of requests, and what could not be removed when its job ended."""
        for server in servers:
            if server.room.health is Health.CONNECTED:
                self._remove_all(server, self._for_another_run())

    def _for_another_run(self) -> set[str]:
        """The sandboxes of jobs that only a later run goes on with."""
        mine = {item.open.begun.sandbox_id for item in self._resumed.items if item.open is not None}
        return (set(self._resumed.sandboxes) - mine) | self._left

    def _remove_all(self, server: Server, keep: Collection[str]) -> None:
        try:
            server.remove_all(keep)
        except RemoteEnvError as error:
            if not self._over:
                log.warning("%s: sandboxes of run %s are left to their lease: %s", server.url, self._run_id, error)

    # --------------------------------------------------------------------------------------------------- the main thread

    def _wait(self, servers: Sequence[Server]) -> None:
        working = self._options.workers
        closing_at: float | None = None
        while working:
            try:
                told = self._told.get(timeout=1.0)
            except Empty:
                self._give_up_silent(servers)
                if closing_at is not None and time.monotonic() > closing_at:
                    for server in servers:  # whoever waits for one is told so
                        server.client.close()
                    closing_at = None
                continue
            if told == "over":
                working -= 1
            elif told == "failed":
                self.directory.seal()  # what is under way stays as it is journaled, for a later run
                return
            elif told == "interrupted" and not self._interrupted:
                self._interrupted = True
                self._queue.drain()
                self.emit(BatchState(time.time(), "draining"))
            elif not self.cancelling:
                self._interrupted = True
                self.emit(BatchState(time.time(), "cancelling"))
                self._cancel(servers)
                closing_at = time.monotonic() + CANCEL_S

    def _cancel(self, servers: Sequence[Server]) -> None:
        """Has everything that runs ended by the removal of its sandbox. Each worker hears of it from its server, and then says what
        became of its job."""
        self.cancelling = True
        self._queue.drain()
        for server in servers:
            self._begin_thread("remote-env-batch-cancel", self._remove_all, server, self._for_another_run())

    # ------------------------------------------------------------------------------------------------------ the threads

    def _begin_thread(self, name: str, function: Callable[..., None], *arguments: Any) -> None:
        """A thread that cannot die without a word: what it raises ends the batch."""

        def work() -> None:
            try:
                function(*arguments)
            except BaseException as error:
                self._fail(error)

        threading.Thread(target=work, name=name, daemon=True).start()

    def _fail(self, error: BaseException) -> None:
        """The batch cannot go on."""
        self._failure = self._failure or error
        self._told.put("failed")

    def _work(self, worker: int) -> None:
        while (task := self._queue.take()) is not None:
            self._do(task, worker)
        self._told.put("over")

    def _do(self, task: Task, worker: int) -> None:
        item, server = task.waiting.item, task.server
        attempt = self._begin(task, worker)
        self.emit(JobStarted(time.time(), item.job.id, attempt.begun.attempt, server.url, worker, item.open is not None))

        def dead(error: RemoteEnvError) -> None:
            self._learn(server, Health.DEAD, str(error), isinstance(error, SILENT))

        run = JobRun(
            item.job, attempt, server, self, worker=worker, on_ready=lambda: self._queue.ready(server), on_dead_server=dead
        )  # fmt: skip
        try:
            if server.silent:
                ended = run.without_server(f"The server was given up: {server.reason}")
            elif task.waiting.tries >= TRIES_MOST:
                ended = run.give_up("it was begun again and again, and nothing of it ran")
            else:
                ended = run.carry_out()
        except OSError:  # the directory cannot be written
            raise
        except Exception as error:  # nobody has foreseen it; begun again, it would only be there again
            log.exception("job %s", item.job.id)
            ended = run.give_up(f"unexpected {type(error).__name__}: {error}")
        if isinstance(ended, Finished):
            if ended.result.kept and ended.result.sandbox_id:
                self._left.add(ended.result.sandbox_id)
            self._results.append(ended.result)
            self.emit(JobFinished(time.time(), ended.result))
            self._queue.done(task)
        elif isinstance(ended, Left):
            self._left.add(ended.sandbox_id)
            self.emit(Message(time.time(), f"{item.job.id}: left as it is, for another run of the batch: {ended.reason}", "warning"))
            self._queue.done(task)
        else:
            self._give_back(task, ended)

    def _begin(self, task: Task, worker: int) -> Attempt:
        item = task.waiting.item
        named = {"job": item.job.id, "attempt": item.attempt, "at": time.time(), "worker": worker}
        if item.open is not None:
            taken_up = TakenUp.model_validate(named)
            self.directory.note(taken_up)
            return follow(item.open, taken_up)
        begun = Begun.model_validate(
            named
            | {"digest": item.job.digest, "server": task.server.url, "sandbox_id": new_id(), "lease_s": self._options.lease_s}
            | {"queued_at": task.waiting.queued_at, "retry_of": item.retry_of}
        )
        self._in_use.add(begun.sandbox_id)
        self.directory.note(begun)
        return follow(None, begun)

    def _give_back(self, task: Task, ended: Unbegun) -> None:
        waiting = replace(task.waiting, item=replace(task.waiting.item, open=None))
        job = waiting.item.job.id
        if ended.fate is Fate.WAIT and not self.cancelling:
            if not waiting.told:
                self.emit(JobWaiting(time.time(), job, task.server.url, ended.reason))
            self._queue.put_back(task, replace(waiting, told=True), refused=True)
        else:
            self.emit(JobQueued(time.time(), job, waiting.item.attempt, ended.reason))
            self._queue.put_back(task, replace(waiting, tries=waiting.tries + (ended.fate is Fate.AGAIN)))

    # ------------------------------------------------------------------------------------------------------ what is told

    def _summary(self) -> Summary:
        counting = latest(self._results)
        return summarize(counting.values(), total=self._resumed.total)

    def _unfinished(self) -> tuple[str, ...]:
        finished = {(result.id, result.attempt) for result in self._results}
        return tuple(item.job.id for item in self._resumed.items if (item.job.id, item.attempt) not in finished)

    def _tell_start(self, servers: Sequence[Server]) -> None:
        self.emit(
            BatchStarted(
                time.time(),
                self._run_id,
                str(self.directory.path),
                self._resumed.total,
                self._options.workers,
                tuple(server.url for server in servers),
                self._resumed.kept,
            )
        )
        for item in self._resumed.items:
            self.emit(JobQueued(time.time(), item.job.id, item.attempt))

    def _tell_end(self) -> None:
        self.emit(BatchEnded(time.time(), self._summary(), self.exit_code, self._unfinished()))
