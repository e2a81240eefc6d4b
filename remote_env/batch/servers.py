"""The servers of a batch: a client of each, how its link stands, and how much room it has."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from remote_env.batch.fate import SILENT
from remote_env.batch.jobs import Job
from remote_env.batch.placing import Health, Room
from remote_env.client import Client
from remote_env.config import Endpoint
from remote_env.errors import RemoteEnvError
from remote_env.sandbox import Sandbox
from remote_env.timings import Timings

_FOREVER_S = 10.0 * 365 * 86400
_SPARE_CONNECTIONS = 8  # beside one for each worker
_REMOVERS = 8  # sandboxes that are removed at a time

OnHealth = Callable[["Server", Health, str | None, bool], None]

log = logging.getLogger("remote_env")


@dataclass(frozen=True)
class Address:
    """Where a server is, and the file with its token; None: as for any client."""

    url: str | None
    token_file: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `URL` or `URL,TOKEN_FILE`."""
        url, _, token_file = text.partition(",")
        return cls(url, Path(token_file) if token_file else None)

    def resolved(self) -> Endpoint:
        """Raises InvalidSpec."""
        return Endpoint.resolve(self.url, token_file=self.token_file)


def timings_for(server_timeout_s: float) -> Timings:
    """A batch waits for its servers for so long, and for its commands and for room as long as the server is there."""
    return Timings(reconnect_budget_s=server_timeout_s, first_contact_s=server_timeout_s, queue_s=_FOREVER_S, minimum_call_s=_FOREVER_S)


class Server:
    """`room` is guarded by the lock of whoever places jobs. `on_health` is called when `room.health` is to become another, in any
    thread, with the reason, and whether it is that no answer came."""

    def __init__(
        self,
        address: Address,
        *,
        run_id: str,
        timings: Timings,
        workers: int,
        open: bool,
        on_health: OnHealth,
    ) -> None:
        self.client = Client(
            address.url,
            token_file=address.token_file,
            run_id=run_id,
            timings=timings,
            pool_size=workers + _SPARE_CONNECTIONS,
            on_disconnected=lambda reason: on_health(self, Health.DISCONNECTED, reason, False),
            on_reconnected=lambda downtime_s: on_health(self, Health.CONNECTED, f"after {downtime_s:.0f} s", False),
        )
        self.url = self.client.url
        self.room = Room(self.url, open=open)
        self.reason: str | None = None  # why it is not connected
        self.trouble_since: float | None = None  # on the monotonic clock
        self.memory_bytes: float | None = None  # of all its sandboxes together, as far as it is known
        self.silent = False  # whether it was given up because no answer came
        self._on_health = on_health

    def probe(self) -> bool:
        """Asks whether it is there, for as long as the client waits for a server, and says so; whether it is."""
        try:
            health = self.client.health()
        except RemoteEnvError as error:
            self._on_health(self, Health.DEAD, str(error), isinstance(error, SILENT))
            return False
        if health.version is None:
            self._on_health(self, Health.DEAD, "The server refused the token.", False)
            return False
        memory = (health.capacity or {}).get("capacity_memory_bytes")
        if isinstance(memory, (int, float)) and memory > 0:
            self.room.weight = self.memory_bytes = float(memory)
        self.client.keep_alive()
        self._on_health(self, Health.CONNECTED, None, False)
        return True

    def may_hold(self, job: Job) -> bool:
        """Whether it may ever have room for it."""
        return self.memory_bytes is None or (job.resources.memory or 0) <= self.memory_bytes

    def remove_all(self, keep: Collection[str]) -> None:
        """Removes the run's sandboxes, but for those that are to be kept once all are listed: of one that is asked for meanwhile the id
        has to be in there before. Raises Unreachable, LinkLost where it cannot be told which there are."""
        left = [sandbox for sandbox in self.client.sandboxes(run_id=self.client.run_id) if sandbox.id not in keep]
        if left:
            with ThreadPoolExecutor(_REMOVERS, thread_name_prefix="remote-env-batch-remove") as pool:
                list(pool.map(_remove, left))  # as a list: what one of them raises is raised here

    def learn(self, health: Health, reason: str | None, silent: bool) -> bool:
        """False where it is nothing new. Call it with the lock held."""
        if self.room.health is health:
            return False
        self.silent = silent
        self.room.health = health
        self.reason = None if health is Health.CONNECTED else reason
        if health is Health.CONNECTED:
            self.trouble_since = None
        elif self.trouble_since is None:
            self.trouble_since = time.monotonic()
        return True


def _remove(sandbox: Sandbox) -> None:
    try:
        sandbox.remove()
    except RemoteEnvError as error:
        log.warning("sandbox %s is left to its lease: %s", sandbox.id, error)
