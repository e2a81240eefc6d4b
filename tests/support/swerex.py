"""SWE-ReX's runtime over a sandbox. Each call has an event loop of its own, as SWE-agent makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from swerex.runtime.abstract import (
    BashAction,
    BashInterruptAction,
    BashObservation,
    Command,
    CommandResponse,
)

from remote_env.harness.swerex import RemoteEnvDeployment, RemoteEnvRuntime
from tests.support.server import SANDBOX, Server

T = TypeVar("T")
PATIENCE_S = 60.0
INTERRUPT = BashInterruptAction(timeout=5.0)


def run(call: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(call)


@contextmanager
def started_runtime(server: Server) -> Iterator[RemoteEnvRuntime]:
    """Over a sandbox of the default image. Its directory is /srv, and it has a variable FROM_CONFIG."""
    options = ["--memory=512m", "-w", "/srv", "-e", "FROM_CONFIG=1"]
    deployment = RemoteEnvDeployment(image=SANDBOX, docker_args=options, url=server.url, token=server.token)
    run(deployment.start())
    try:
        yield deployment.runtime
    finally:
        run(deployment.stop())


def execute(runtime: RemoteEnvRuntime, command: str | list[str], **fields: Any) -> CommandResponse:
    return run(runtime.execute(Command(command=command, **{"timeout": PATIENCE_S, **fields})))


class Shell:
    """A session of the shared sandbox."""

    def __init__(self, runtime: RemoteEnvRuntime, name: str) -> None:
        self.runtime = runtime
        self.name = name

    def __call__(self, command: str, check: Any = "raise", timeout: float | None = PATIENCE_S, **fields: Any) -> BashObservation:
        action = BashAction(command=command, session=self.name, check=check, timeout=timeout, **fields)
        return run(self.runtime.run_in_session(action))

    def talk(self, text: str, *expect: str, **fields: Any) -> BashObservation:
        return self(text, is_interactive_command=True, expect=list(expect), **fields)

    def interrupt(self, **fields: Any) -> BashObservation:
        return run(self.runtime.run_in_session(INTERRUPT.model_copy(update={"session": self.name, **fields})))
