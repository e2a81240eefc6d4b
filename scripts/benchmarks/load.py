"""A client process of the throughput's: runs `true` with so many clients at once, window by window.

It is told what to do on standard input, a line of JSON each: first the kind and a target for each client, then the length of a
window and of its warm-up, in seconds. It answers each with a line: `{}` when it is ready, then the calls that ended within the
window, and the CPU seconds that this process and what it started cost meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

COMMAND = "true"
Target = dict[str, Any]
Window = Callable[[float, float], int]
"""Calls that ended within so many seconds, after a warm-up of so many."""
RUN: dict[str, Any] = {"shell": "sh", "idempotent": False, "check": True}


def _sandbox_calls(targets: list[Target], pick: str, at_end: ExitStack) -> list[Callable[[], object]]:
    from remote_env import Client

    client = Client(targets[0]["url"], targets[0]["token"])
    boxes = {target["sandbox"]: client.sandbox(target["sandbox"]) for target in targets}
    found: list[Callable[[], object]] = []
    for target in targets:
        box = boxes[target["sandbox"]]
        if pick == "session.run":
            session = box.session(shell="sh")
            at_end.callback(session.close)  # a sandbox has room for so many
            found.append(partial(session.run, COMMAND, check=True))
        else:
            found.append(partial(box.run, COMMAND, **RUN))
    return found


def _docker_calls(targets: list[Target], pick: str) -> list[Callable[[], object]]:
    container = targets[0]["container"]
    if pick == "docker exec":
        argv = ["docker", "exec", container, "sh", "-c", COMMAND]
        return [lambda: subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)] * len(targets)
    if pick == "docker SDK exec_run":
        import docker as sdk

        pool = sdk.from_env(timeout=300, max_pool_size=len(targets)).containers.get(container)
        return [lambda: pool.exec_run(["sh", "-c", COMMAND])] * len(targets)
    from minisweagent.environments.docker import DockerEnvironment

    shared = DockerEnvironment(
        image=targets[0]["image"],
        interpreter=["sh", "-c"],
        run_args=["--rm", "--label", targets[0]["label"]],
        logger=logging.getLogger("peers"),
    )
    shared.__dict__["cleanup"] = lambda: None  # the run removes all of its containers together, at once
    return [lambda: shared.execute({"command": COMMAND})] * len(targets)


def threaded(calls: list[Callable[[], object]]) -> Window:
    """A window of clients in threads."""
    for call in calls[:1]:
        call()

    def window(seconds: float, warm_s: float) -> int:
        begin = time.perf_counter() + warm_s
        end = begin + seconds

        def client(call: Callable[[], object]) -> int:
            done = 0
            while True:
                call()
                now = time.perf_counter()
                if now >= end:
                    return done
                done += now >= begin

        with ThreadPoolExecutor(len(calls)) as pool:
            return sum(pool.map(client, calls))

    return window


def asynchronous(kind: str, targets: list[Target], loop: asyncio.AbstractEventLoop, at_end: ExitStack) -> Window:
    """A window of clients in one event loop. What they hold is closed with `at_end`."""

    async def prepare() -> list[Callable[[], Coroutine[Any, Any, object]]]:
        if kind == "SWE-ReX execute":
            from swerex.runtime.abstract import Command
            from swerex.runtime.remote import RemoteRuntime

            command = Command(command=COMMAND, shell=True, check=True)
            runtimes = [RemoteRuntime(host="http://127.0.0.1", port=each["port"], auth_token=each["token"]) for each in targets]
            return [partial(runtime.execute, command) for runtime in runtimes]
        from remote_env.aio import AsyncClient

        client = AsyncClient(targets[0]["url"], targets[0]["token"])
        at_end.callback(lambda: loop.run_until_complete(client.close()))
        boxes = {target["sandbox"]: await client.sandbox(target["sandbox"]) for target in targets}
        return [partial(boxes[target["sandbox"]].run, COMMAND, **RUN) for target in targets]

    calls = loop.run_until_complete(prepare())
    loop.run_until_complete(calls[0]())

    def window(seconds: float, warm_s: float) -> int:
        begin = time.perf_counter() + warm_s
        end = begin + seconds

        async def client(call: Callable[[], Coroutine[Any, Any, object]]) -> int:
            done = 0
            while True:
                await call()
                now = time.perf_counter()
                if now >= end:
                    return done
                done += now >= begin

        async def all_of_them() -> int:
            return sum(await asyncio.gather(*(client(call) for call in calls)))

        return loop.run_until_complete(all_of_them())

    return window


def prepare(kind: str, targets: list[Target], at_end: ExitStack) -> Window:
    if kind in ("AsyncClient run", "SWE-ReX execute"):
        return asynchronous(kind, targets, asyncio.new_event_loop(), at_end)
    return threaded(_sandbox_calls(targets, kind, at_end) if "sandbox" in targets[0] else _docker_calls(targets, kind))


def cpu_seconds() -> float:
    return sum(os.times()[:4])


def main() -> None:
    answer, sys.stdout = sys.stdout, sys.stderr  # peers print; standard output is for answers
    spec = json.loads(sys.stdin.readline())
    with ExitStack() as at_end:
        window = prepare(spec["kind"], spec["targets"], at_end)
        reply: dict[str, float] = {}
        while True:
            answer.write(json.dumps(reply) + "\n")
            answer.flush()
            line = sys.stdin.readline()
            if not line:
                break
            before = cpu_seconds()
            reply = {"calls": window(*json.loads(line))}
            reply["cpu_s"] = cpu_seconds() - before


if __name__ == "__main__":
    main()
