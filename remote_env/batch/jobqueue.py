"""Which job a worker takes next, and where. Threads share it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from remote_env.batch.jobs import Job
from remote_env.batch.placing import Health, Room, choose
from remote_env.batch.resume import Item
from remote_env.batch.servers import Server


@dataclass(frozen=True)
class Waiting:
    """A job in the queue."""

    item: Item
    queued_at: float
    tries: int = 0  # how often it was begun, and nothing of it ran, by bad luck
    told: bool = False  # that it waits for room


@dataclass(frozen=True)
class Task:
    """A job in a worker's hands."""

    waiting: Waiting
    server: Server


class Queue:
    """Jobs in the order of their lines; those that an earlier process has begun come first, each to its own server."""

    def __init__(self, waiting: Sequence[Waiting], servers: Sequence[Server]) -> None:
        self._changed = threading.Condition()
        self._open = deque(each for each in waiting if each.item.open is not None)
        self._waiting = deque(each for each in waiting if each.item.open is None)
        self._servers = {server.url: server for server in servers}
        self._active = 0
        self._draining = False

    def take(self) -> Task | None:
        """Waits until there is something to do; None when there is nothing any more. `done` or `put_back` has to follow."""
        with self._changed:
            while True:
                task = self._next()
                if task is not None:
                    self._active += 1
                    task.server.room.enter()
                    return task
                if self._over():
                    self._changed.notify_all()
                    return None
                self._changed.wait(self._patience())

    def done(self, task: Task) -> None:
        with self._changed:
            self._leave(task)

    def put_back(self, task: Task, waiting: Waiting, *, refused: bool = False) -> None:
        """Nothing of it ran: it is the next again. `refused`: the server has no room."""
        with self._changed:
            self._waiting.appendleft(waiting)
            self._leave(task)
            if refused:
                task.server.room.refused(time.monotonic())

    def ready(self, server: Server) -> None:
        with self._changed:
            server.room.taken()
            self._changed.notify_all()

    def learn(self, server: Server, health: Health, reason: str | None, silent: bool) -> bool:
        """False where it is nothing new."""
        with self._changed:
            news = server.learn(health, reason, silent)
            self._changed.notify_all()
        return news

    def drain(self) -> None:
        """Nothing new is begun. What runs, here or by an earlier process, comes to its end."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def _next(self) -> Task | None:
        if self._open:
            waiting = self._open.popleft()
            assert waiting.item.open is not None
            return Task(waiting, self._servers[waiting.item.open.begun.server])
        if self._draining or not self._waiting:
            return None
        room = choose(self._rooms_for(self._waiting[0].item.job), time.monotonic())
        return None if room is None else Task(self._waiting.popleft(), self._servers[room.name])

    def _rooms_for(self, job: Job) -> list[Room]:
        """Of the servers that may ever hold it; of all, where none may: then one of them has to say so."""
        servers = [server for server in self._servers.values() if server.room.health is not Health.DEAD]
        return [server.room for server in servers if server.may_hold(job)] or [server.room for server in servers]

    def _over(self) -> bool:
        if self._open:
            return False
        if self._draining or self._no_server():
            return True
        return not self._waiting and not self._active  # what is active may come back

    def _no_server(self) -> bool:
        """Nothing can be begun, as far as this run goes."""
        return all(server.room.health is Health.DEAD or not server.room.open for server in self._servers.values())

    def _leave(self, task: Task) -> None:
        self._active -= 1
        task.server.room.leave()
        self._changed.notify_all()

    def _patience(self) -> float | None:
        times = [at for server in self._servers.values() if (at := server.room.waits_until()) is not None]
        return max(0.0, min(times) - time.monotonic()) if times and self._waiting else None
