"""The clients that sandboxes of Inspect share, and the sandboxes that are to be cleaned up. Of this process; threads may share it."""

from __future__ import annotations

import getpass
import importlib
import socket
import threading
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from remote_env.client import Client
from remote_env.harness.inspect_config import SandboxConfig
from remote_env.sandbox import Sandbox
from remote_env.timings import Timings

# On every sandbox that Inspect has made: whose it is. `inspect sandbox cleanup` must not end the evaluations of others.
OWNER_LABEL = "inspect_ai.owner"
TASK_LABEL = "inspect_ai.task"
SAMPLE_LABEL = "inspect_ai.sample"
SERVICE_LABEL = "inspect_ai.service"

_CONNECTIONS = 256  # that a client keeps: each command under way waits on one


@dataclass(frozen=True)
class ServerKey:
    """What tells one client from another."""

    url: str | None
    token_file: str | None
    ca_file: str | None
    fingerprint: str | None
    create_s: float

    @classmethod
    def of(cls, config: SandboxConfig) -> ServerKey:
        return cls(config.url, config.token_file, config.ca_file, config.fingerprint, config.create_timeout)


@dataclass(frozen=True)
class Made:
    """A sandbox that somebody has to remove."""

    sandbox: Sandbox
    client: Client
    key: ServerKey
    config: BaseModel | str | None
    scope: object
    service: str
    sample: str


class Servers:
    """One client for each server, for as long as a task or a sandbox uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[ServerKey, tuple[Client, int]] = {}
        self._made: dict[str, Made] = {}

    def acquire(self, key: ServerKey) -> Client:
        """The client, which stays open until it was released as often. Raises InvalidSpec."""
        with self._lock:
            client, users = self._clients.get(key) or (self._open(key), 0)
            self._clients[key] = (client, users + 1)
            return client

    def release(self, key: ServerKey) -> None:
        with self._lock:
            client, users = self._clients[key]
            if users > 1:
                self._clients[key] = (client, users - 1)
                return
            del self._clients[key]
        client.close()

    def keep(self, made: Made) -> None:
        """Notes a sandbox whose client was acquired for it."""
        with self._lock:
            self._made[made.sandbox.id] = made

    def forget(self, made: Made) -> None:
        """Its sandbox is removed, or is left to its lease. May be repeated."""
        with self._lock:
            known = self._made.pop(made.sandbox.id, None)
        if known is not None:
            self.release(known.key)

    def left(self, config: BaseModel | str | None) -> list[Made]:
        """The sandboxes of this configuration that the evaluation at hand has made and not removed."""
        scope = lifecycle_scope()
        with self._lock:
            return [made for made in self._made.values() if made.scope is scope and made.config == config]

    def made(self, sandbox_id: str) -> Made | None:
        with self._lock:
            return self._made.get(sandbox_id)

    @staticmethod
    def _open(key: ServerKey) -> Client:
        timings = Timings(create_s=key.create_s, queue_s=key.create_s)
        return Client(
            key.url, token_file=key.token_file, ca_file=key.ca_file, fingerprint=key.fingerprint, timings=timings, pool_size=_CONNECTIONS
        )


SERVERS = Servers()


def lifecycle_scope() -> object:
    """Inspect's evaluation at hand; None outside of one, and in releases that do not tell."""
    try:
        module: Any = importlib.import_module("inspect_ai.util._sandbox.lifecycle")
    except ImportError:
        return None
    return module.sandbox_lifecycle_state()


def owner() -> str:
    """Who runs evaluations here: user and machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
