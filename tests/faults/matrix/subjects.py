"""Who is being tested. `RemoteEnv` is ours; `peers` holds the others, which stand in the rows about transport."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import remote_env
from remote_env import Client, CommandLost, Execution, NotRunError, OutcomeUnknownError, Sandbox, SandboxGone, Timings
from remote_env.protocol import Bind
from tests.faults.matrix.traffic import COUNT_DIR, Call, Command, Fate
from tests.support.server import BUSYBOX, SMALL, Server


class Subject(Protocol):
    """A server that runs commands, and a client of it."""

    name: str
    marker: bytes  # what the head of a request that carries a command contains
    count_dir: str  # the directory of marks, as commands see it

    @property
    def port(self) -> int:
        """Where its server listens on 127.0.0.1."""

    def connect(self, url: str) -> None:
        """From now on the client comes to the server by this URL."""

    def run(self, command: Command) -> Call:
        """Run the command and say what the caller was told. Does not raise for what happens to it."""

    def close(self) -> None:
        """End client and server."""


class RemoteEnv:
    """Our client and server, one busybox sandbox with the count directory mounted.

    Attributes:
        server, client, sandbox: for rows that hurt them; `sandbox` is as the client sees it that `connect` made.
    """

    name = "remote-env"
    marker = b"/executions HTTP/1.1"
    count_dir = COUNT_DIR

    def __init__(self, server: Server, count: Path, timings: Timings, secret: str) -> None:
        self.server = server
        self.timings = timings
        self.secret = secret
        self.on_undelivered: remote_env.OnUndelivered = "raise"
        self._count = count
        self._clients: list[Client] = []
        self.client = self.new_client(server.url)
        self.sandbox = self.new_sandbox()

    @property
    def port(self) -> int:
        return self.server.port

    def new_client(self, url: str) -> Client:
        """One more client of the server, closed with the subject."""
        self._clients.append(Client(url, self.server.token, timings=self.timings, fingerprint=self.server.fingerprint))
        return self._clients[-1]

    def new_sandbox(self, image: str = BUSYBOX, **spec: object) -> Sandbox:
        """One more sandbox that counts into the same directory."""
        options: dict[str, object] = {"memory_bytes": SMALL, "network": "none", "env": {"SECRET_OF_THE_ROW": self.secret}, **spec}
        binds = (Bind(source=str(self._count), target=COUNT_DIR, read_only=False),)
        return self.client.create_sandbox(image, binds=binds, **options)

    def connect(self, url: str) -> None:
        self.client = self.new_client(url)
        self.sandbox = self.client.sandbox(self.sandbox.id)

    def run(self, command: Command, sandbox: Sandbox | None = None, **spec: object) -> Call:
        return told(command, lambda: (sandbox or self.sandbox).run(command.text, on_undelivered=self.on_undelivered, **spec))

    def close(self) -> None:
        for client in self._clients:
            client.close()


def told(command: Command, run: object) -> Call:
    """What the caller of `run()` was told. `run` returns an `Execution` that is over, or raises."""
    began = time.monotonic()
    try:
        execution = run()  # type: ignore[operator]
        call = _ended(command, execution)
    except (NotRunError, SandboxGone) as error:
        call = Call(command, Fate.NOT_RUN, f"{type(error).__name__}: {error}", execution_id=error.execution_id)
    except OutcomeUnknownError as error:
        call = Call(command, Fate.UNKNOWN, f"{type(error).__name__}: {error}", execution_id=error.execution_id)
    except CommandLost as error:
        call = Call(command, Fate.LOST, f"{type(error).__name__}: {error}", execution_id=error.execution_id)
    except Exception as error:  # whatever else it is, it is the answer that this caller got
        call = Call(command, Fate.FAILED, f"{type(error).__name__}: {error}")
    call.seconds = time.monotonic() - began
    return call


def _ended(command: Command, execution: Execution) -> Call:
    outcome = execution.outcome
    assert outcome is not None
    if outcome.kind == "lost":
        return Call(command, Fate.LOST, f"lost: {outcome.reason}", output=execution.text, execution_id=execution.id, outcome=outcome.kind)
    if outcome.kind == "not_run" or outcome.ran is False:
        return Call(command, Fate.NOT_RUN, f"{outcome.kind}: {outcome.reason}", execution_id=execution.id, outcome=outcome.kind)
    return Call(
        command, Fate.RESULT, outcome.reason or "", execution.returncode, execution.text, execution.id, outcome=outcome.kind,
        truncated=execution.record.output.truncated, total_bytes=execution.record.output.total_bytes,
    )  # fmt: skip
