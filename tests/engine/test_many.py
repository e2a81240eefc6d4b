"""Many sandboxes at once: what the server takes for them goes with their number, never with that of their commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tests.support.footprint import Footprint, footprint
from tests.support.outside import until
from tests.support.server import BUSYBOX, Server

SANDBOXES, COMMANDS = 8, 200  # so many commands run at the same time
SPARE = 8  # for what comes and goes with other things: connections to the engine, a pool's thread
MEMORY = 32 << 20  # bytes

T, R = TypeVar("T"), TypeVar("R")


def at_once(work: Callable[[T], R], of: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(work, of))


def at_rest(server: Server) -> Footprint:
    """Of the server when nobody is connected to it."""
    pid = server.pid
    until(lambda: server.connections() == 0, "its connections are closed")
    return footprint(pid)


def test_descriptors_and_threads_do_not_grow_with_commands(make_server: Callable[..., Server], busybox_image: str) -> None:
    server = make_server().start()
    with server.client() as client:
        ids = [box.id for box in at_once(lambda _: client.create_sandbox(BUSYBOX, memory_bytes=MEMORY), range(SANDBOXES))]
        at_once(lambda each: client.sandbox(each).run("true"), ids)
    before = at_rest(server)

    with server.client() as client:
        started = at_once(lambda n: client.sandbox(ids[n % SANDBOXES]).start("exec sleep 1000"), range(COMMANDS))
        until(lambda: client.health().capacity["executions"] == COMMANDS, "all of them run")  # type: ignore[index]
        running = [execution.id for execution in started]
    during = at_rest(server)
    assert during.threads <= before.threads + SPARE
    assert during.fds <= before.fds + COMMANDS + SPARE, "more than its output's pipe is held for a command that runs"

    with server.client() as client:
        at_once(lambda each: client.execution(each).cancel(), running)
        at_once(lambda each: client.execution(each).wait(), running)
        at_once(lambda n: client.sandbox(ids[n % SANDBOXES]).run("echo output"), range(COMMANDS))
    after = at_rest(server)
    assert after.fds <= before.fds + SPARE, "descriptors stay behind"
    assert after.threads <= before.threads + SPARE
