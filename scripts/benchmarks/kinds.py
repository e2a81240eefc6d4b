"""The ways to run a command, ours and others', all brought to one form: a block of so many in a row."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import requests

from scripts.benchmarks.arena import Arena

Group = Literal["ours", "peer", "floor"]
Block = Callable[[int], list[float]]
"""Seconds of each of so many calls in a row."""
COMMAND = "true"


@dataclass(frozen=True)
class Kind:
    """One way to run a command.

    Args:
        name: as tables show it.
        shell: which one runs the command: "sh" (the image's own, dash), "bash", or "" where there is none.
        cost: how dear a call is; of a dear one fewer are made.
    """

    name: str
    group: Group
    shell: str
    block: Block
    cost: Literal["cheap", "dear", "dearest"] = "cheap"

    @property
    def key(self) -> str:
        return f"{self.name} · {self.shell}" if self.shell else self.name


def repeat(call: Callable[[], object]) -> Block:
    """The block of a plain call."""

    def block(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
        return taken

    return block


def repeat_async(arena: Arena, call: Callable[[], Awaitable[object]]) -> Block:
    """The block of a coroutine: it runs in its event loop whole, so that no hop between threads is counted."""

    async def calls(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - began)
        return taken

    return lambda count: arena.loop.wait(calls(count))


def expect_zero(code: int) -> None:
    if code != 0:
        raise RuntimeError(f"`{COMMAND}` ended with {code}")


def ours(arena: Arena) -> list[Kind]:
    sandbox, asynchronous = arena.sandbox, arena.async_sandbox
    environment = arena.environment
    sessions = {shell: sandbox.session(shell=shell) for shell in ("sh", "bash")}
    argv = {"command": ["sh", "-c", COMMAND]}  # execute() has no parameter for the shell; by itself it takes the image's bash
    found = [
        Kind("env.execute", "ours", "sh", repeat(lambda: expect_zero(environment.execute(argv)["returncode"]))),
        Kind("env.execute", "ours", "bash", repeat(lambda: expect_zero(environment.execute(COMMAND)["returncode"]))),
    ]
    for shell in ("sh", "bash"):
        # idempotent=False: `true` must not be treated as the read that it is.
        run: dict[str, Any] = {"shell": shell, "idempotent": False, "check": True}
        found += [
            Kind("sandbox.run", "ours", shell, repeat(partial(sandbox.run, COMMAND, **run))),
            Kind("AsyncClient run", "ours", shell, repeat_async(arena, partial(asynchronous.run, COMMAND, **run))),
            Kind("session.run", "ours", shell, repeat(partial(sessions[shell].run, COMMAND, check=True))),
        ]
    return found


def docker_cli(container: str, name: str, shell: str, environ: Mapping[str, str] | None = None) -> Kind:
    argv = ["docker", "exec", container, shell, "-c", COMMAND]
    call = repeat(lambda: subprocess.run(argv, check=True, env=environ, stdin=subprocess.DEVNULL, capture_output=True))
    return Kind(name, "peer", shell, call, "dear" if environ is None else "dearest")


def docker_sdk(arena: Arena, shell: str) -> Kind:
    container = arena.sdk_container
    return Kind(
        "docker SDK exec_run", "peer", shell, repeat(lambda: expect_zero(container.exec_run([shell, "-c", COMMAND]).exit_code)), "dear"
    )


def mini_swe_agent(arena: Arena, shell: str) -> Kind:
    environment = arena.mini_environment(shell)
    call = repeat(lambda: expect_zero(environment.execute({"command": COMMAND})["returncode"]))
    return Kind("mini-swe-agent execute", "peer", shell, call, "dear")


def rex_execute(arena: Arena, runtime: Any, name: str, shell: str) -> Kind:
    from swerex.runtime.abstract import Command

    # Its own shell=True is /bin/sh -c; any other shell is named.
    command = {"sh": Command(command=COMMAND, shell=True, check=True), "bash": Command(command=["bash", "-c", COMMAND], check=True)}[shell]
    return Kind(name, "peer", shell, repeat_async(arena, lambda: runtime.execute(command)))


def rex_session(arena: Arena) -> Kind:
    from swerex.runtime.abstract import BashAction

    runtime = arena.rex_runtime
    action = BashAction(command=COMMAND, session=arena.rex_session, check="raise")
    return Kind("SWE-ReX run_in_session", "peer", "bash", repeat_async(arena, lambda: runtime.run_in_session(action)), "dearest")


def floors(arena: Arena) -> list[Kind]:
    bare, url = requests.Session(), arena.bare_url
    health, ours_url = requests.Session(), f"{arena.server.url}/health"
    spawned = {shell: partial(arena.inside.spawn, argv=[shell, "-c", COMMAND]) for shell in ("sh", "bash")}
    return [
        *(Kind("fork+exec in the container", "floor", shell, block) for shell, block in spawned.items()),
        Kind("bare HTTP round trip", "floor", "", repeat(lambda: bare.get(url).content)),
        Kind("GET /health of the server", "floor", "", repeat(lambda: health.get(ours_url).content)),
    ]


def peers(arena: Arena, wanted: frozenset[str]) -> list[Kind]:
    """Those of the wanted peers that can be had; for the others `arena.missing` says why not."""
    found: list[Kind] = []
    makers: dict[str, Callable[[], list[Kind]]] = {
        "docker-exec": lambda: [docker_cli(arena.plain, "docker exec", shell) for shell in ("sh", "bash")],
        "docker-sdk": lambda: [docker_sdk(arena, shell) for shell in ("sh", "bash")],
        "docker-ssh": lambda: [docker_cli(arena.plain, "docker exec, ssh://", "sh", arena.sshd.environ)],
        "mini-swe-agent": lambda: [mini_swe_agent(arena, shell) for shell in ("sh", "bash")],
        "swe-rex": lambda: [
            *(rex_execute(arena, arena.rex_runtime, "SWE-ReX execute", shell) for shell in ("sh", "bash")),
            rex_execute(arena, arena.rex_on_host, "SWE-ReX execute, host network", "sh"),
            rex_session(arena),
        ],
    }
    for name, make in makers.items():
        if name in wanted:
            found += arena.attempt(name, make) or []
    return found


PEERS = ("docker-exec", "docker-sdk", "docker-ssh", "mini-swe-agent", "swe-rex")
