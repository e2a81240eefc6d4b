"""Places where a test can kill the server: ``REMOTE_ENV_FAILPOINTS="after_accept_commit:3,before_ack:1"`` sends SIGKILL to
this process when it passes that place for the third, or the first, time. They stand before and after every durable step.
Without the variable a failpoint is one look into an empty dict.
"""

from __future__ import annotations

import os
import signal

KNOWN = frozenset(
    {
        "before_accept_commit",
        "after_accept_commit",
        "after_send",
        "after_started",
        "before_output_taken",
        "after_output_taken",
        "after_final_commit",
        "after_ack",
        "before_cancel_commit",
        "after_cancel_commit",
        "after_hello_read",
        "after_hello_reconciled",
        "after_sandbox_commit",
        "before_container_start",
        "after_container_start",
        "after_incarnation_commit",
        "after_removing_commit",
        "after_container_remove",
        "after_removed_commit",
        "before_socket_rename",
    }
)


def _parse(text: str) -> dict[str, int]:
    armed: dict[str, int] = {}
    for item in filter(None, text.split(",")):
        name, _, count = item.partition(":")
        if name not in KNOWN:
            raise ValueError(f"REMOTE_ENV_FAILPOINTS: there is no failpoint {name!r}")
        armed[name] = int(count or 1)
    return armed


_armed = _parse(os.environ.get("REMOTE_ENV_FAILPOINTS", ""))


def failpoint(name: str) -> None:
    """Die here, as `kill -9` would have it, if a test asked for that."""
    if not _armed or name not in _armed:
        return
    _armed[name] -= 1
    if _armed[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
