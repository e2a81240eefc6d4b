"""A client with a run of its own, which makes sandboxes, starts commands in them, and waits to be killed.

python -m tests.faults.matrix.tenant       reads one line of JSON: what to make; writes one: the sandboxes' ids
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remote_env import Client, Timings
from remote_env.protocol import Bind
from tests.faults.matrix.subjects import RemoteEnv
from tests.faults.matrix.traffic import COUNT_DIR, Command
from tests.support.server import BUSYBOX, SMALL

ROOT = Path(__file__).parents[3]


class Tenant:
    """The parent's side. Returns from its making when every command was accepted.

    Args:
        sandboxes: for each its commands, with the ids that they get.
        lease_s: of the run, in seconds.
        timeout_s: of every command, in seconds.
    """

    def __init__(
        self, ours: RemoteEnv, log: Path, sandboxes: Sequence[Sequence[tuple[str, Command]]], *, count: Path, lease_s: float,
        timeout_s: float, on_lease_end: str,
    ) -> None:  # fmt: skip
        with open(log, "ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.matrix.tenant"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                cwd=ROOT, text=True, start_new_session=True,
            )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        wanted = {
            "url": ours.server.url, "token": ours.server.token, "count": str(count), "lease_s": lease_s, "timeout_s": timeout_s,
            "on_lease_end": on_lease_end, "sandboxes": [[(eid, each.text) for eid, each in commands] for commands in sandboxes],
        }  # fmt: skip
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said, f"the tenant ended with {self.process.wait()}"
        self.sandboxes: list[str] = json.loads(said)

    def kill(self) -> None:
        """SIGKILL: nobody renews its lease any more."""
        self.process.kill()
        self.process.wait()


def main() -> None:
    wanted: dict[str, Any] = json.loads(sys.stdin.readline())
    client = Client(wanted["url"], wanted["token"], timings=Timings(), on_lease_end=wanted["on_lease_end"])
    bind = Bind(source=wanted["count"], target=COUNT_DIR, read_only=False)
    made = []
    for commands in wanted["sandboxes"]:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL, network="none", binds=(bind,), lease_s=wanted["lease_s"])
        for execution_id, text in commands:
            sandbox.start(text, id=execution_id, timeout_s=wanted["timeout_s"])
        made.append(sandbox.id)
    sys.stdout.write(json.dumps(made) + "\n")
    sys.stdout.flush()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
