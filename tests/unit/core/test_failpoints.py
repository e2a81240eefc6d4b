"""Failpoints: armed by the environment, they kill the process exactly where and when they were asked to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import server
from server.failpoints import KNOWN

SOURCES = Path(str(server.__file__)).parent


WALK = """
import sys
from server.failpoints import failpoint
for name in sys.argv[1:]:
    print(name, flush=True)
    failpoint(name)
"""


def pass_by(armed: str, *names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WALK, *names], env={**os.environ, "REMOTE_ENV_FAILPOINTS": armed}, cwd=SOURCES.parent,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_an_armed_failpoint_kills_at_the_time_it_was_asked_for() -> None:
    done = pass_by("after_send:2,after_ack", "after_send", "before_cancel_commit", "after_send", "after_ack")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["after_send", "before_cancel_commit", "after_send"]


def test_an_unarmed_failpoint_does_nothing() -> None:
    assert pass_by("", "after_send", "after_ack").returncode == 0


@pytest.mark.parametrize("armed", ["no_such_place", "after_send,nowhere:2"])
def test_a_failpoint_that_does_not_exist_is_refused_by_name(armed: str) -> None:
    done = pass_by(armed, "after_send")
    assert done.returncode == 1 and "there is no failpoint" in done.stderr


def test_every_failpoint_that_is_known_stands_in_the_code_and_the_reverse() -> None:
    """A test that arms a failpoint which nothing passes would prove nothing."""
    standing: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        standing.update(re.findall(r'failpoint\("(\w+)"\)', path.read_text()))
    assert standing == KNOWN
