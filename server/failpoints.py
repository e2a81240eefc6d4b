"""Places where a test can make the server fail, before and after every durable step:

    REMOTE_ENV_SERVER_TEST=1 REMOTE_ENV_SERVER_FAILPOINT="after_accept_commit:kill@3,after_ack:block=5"

Each item is NAME:ACTION[@N]: at the N-th pass (default: the first) of that place the process does this to itself:

    kill            SIGKILL
    stop            SIGSTOP, until somebody sends SIGCONT
    block=SECONDS   sleeps where it is, and the event loop with it
    error           raises OSError (EIO)

Unarmed, a failpoint is one look into an empty dict.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping

log = logging.getLogger("server.failpoints")

VARIABLE = "REMOTE_ENV_SERVER_FAILPOINT"
SWITCH = "REMOTE_ENV_SERVER_TEST"  # has to be 1: a server that people rely on is never armed by accident

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
        "before_warm_commit",
        "after_warm_commit",
        "before_acquire",
        "before_acquire_commit",
        "after_acquire_commit",
    }
)
OF_WARM = frozenset(name for name in KNOWN if "warm" in name or "acquire" in name)
"""Those that only a server with warm sandboxes passes."""


class FailpointError(ValueError):
    """The variable cannot be followed; one sentence says why."""


class _Armed:
    """What one place does at which of its passes."""

    def __init__(self) -> None:
        self.passed = 0
        self.actions: dict[int, Callable[[], None]] = {}


_armed: dict[str, _Armed] = {}


def arm(environ: Mapping[str, str]) -> None:
    """Arm what the environment asks for. Raises FailpointError, and arms nothing then."""
    text = environ.get(VARIABLE, "")
    if text and environ.get(SWITCH) != "1":
        raise FailpointError(f"{VARIABLE} makes the server fail on purpose: it is for tests, which set {SWITCH}=1 as well; unset it")
    parsed: dict[str, _Armed] = {}
    for item in filter(None, text.split(",")):
        name, colon, rest = item.partition(":")
        if name not in KNOWN:
            raise FailpointError(f"{VARIABLE}: there is no failpoint {name!r}")
        action, at, count = rest.partition("@")
        if not colon or (at and not (count.isdecimal() and int(count))):
            raise FailpointError(f"{VARIABLE}: {item!r} is not NAME:ACTION or NAME:ACTION@N")
        parsed.setdefault(name, _Armed()).actions[int(count or 1)] = _action(action, item)
    _armed.clear()
    _armed.update(parsed)


def failpoint(name: str) -> None:
    """Fail here, if a test asked for that. Raises OSError where it asked for an error."""
    if not _armed or name not in _armed:
        return
    place = _armed[name]
    place.passed += 1
    action = place.actions.get(place.passed)
    if action is not None:
        log.warning("failpoint", extra={"place": name, "at_pass": place.passed})
        action()


def _action(word: str, item: str) -> Callable[[], None]:
    if word == "kill":
        return lambda: os.kill(os.getpid(), signal.SIGKILL)
    if word == "stop":
        return lambda: os.kill(os.getpid(), signal.SIGSTOP)
    if word == "error":
        return _error
    name, _, value = word.partition("=")
    if name == "block":
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if 0 <= seconds < float("inf"):
            return lambda: time.sleep(seconds)
    raise FailpointError(f"{VARIABLE}: {item!r} asks for no action that there is: kill, stop, block=SECONDS, error")


def _error() -> None:
    raise OSError(errno.EIO, "a failpoint asked for this error")
