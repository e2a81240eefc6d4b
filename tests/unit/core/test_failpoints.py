"""Failpoints: armed by the environment and a switch, they do to the process exactly what, where and when they were asked to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import server
from server.failpoints import KNOWN, FailpointError, arm

SOURCES = Path(str(server.__file__)).parent


WALK = """
import os, sys
from server import failpoints
failpoints.arm(os.environ)
for name in sys.argv[1:]:
    print(name, flush=True)
    try:
        failpoints.failpoint(name)
    except OSError as error:
        print(error.strerror, flush=True)
"""


def walk(armed: str, *names: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WALK, *names], cwd=SOURCES.parent, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "REMOTE_ENV_SERVER_TEST": "1", "REMOTE_ENV_SERVER_FAILPOINT": armed},
    )  # fmt: skip


def pass_by(armed: str, *names: str) -> tuple[int, list[str]]:
    """Exit code, and the places that were come to."""
    process = walk(armed, *names)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said.splitlines()


def test_an_armed_failpoint_kills_at_the_time_it_was_asked_for() -> None:
    code, passed = pass_by("after_send:kill@2,after_ack:kill", "after_send", "before_cancel_commit", "after_send", "after_ack")
    assert code == -signal.SIGKILL
    assert passed == ["after_send", "before_cancel_commit", "after_send"]


def test_an_unarmed_failpoint_does_nothing() -> None:
    assert pass_by("", "after_send", "after_ack") == (0, ["after_send", "after_ack"])


def test_a_place_can_fail_at_some_of_its_passes_and_work_at_the_others() -> None:
    said = "a failpoint asked for this error"
    code, passed = pass_by("after_send:error@2,after_send:error@4", *["after_send"] * 5)
    assert (code, passed) == (0, ["after_send", "after_send", said, "after_send", "after_send", said, "after_send"])


def test_a_stopped_process_goes_on_when_it_is_continued() -> None:
    process = walk("after_send:stop", "after_send", "after_ack")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said.split()) == (0, ["after_send", "after_ack"])


def test_a_blocked_place_goes_on_by_itself() -> None:
    assert pass_by("after_send:block=0.01", "after_send", "after_ack") == (0, ["after_send", "after_ack"])


@pytest.mark.parametrize(
    ("armed", "why"),
    [
        ("no_such_place:kill", "no failpoint 'no_such_place'"),
        ("after_send:kill,nowhere:kill@2", "no failpoint 'nowhere'"),
        ("after_send", "not NAME:ACTION"),
        ("after_send:kill@0", "not NAME:ACTION"),
        ("after_send:kill@often", "not NAME:ACTION"),
        ("after_send:explode", "no action"),
        ("after_send:block=long", "no action"),
        ("after_send:block=-1", "no action"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_a_sentence(armed: str, why: str) -> None:
    with pytest.raises(FailpointError, match=re.escape(why)):
        arm({"REMOTE_ENV_SERVER_TEST": "1", "REMOTE_ENV_SERVER_FAILPOINT": armed})


def test_without_the_test_switch_nothing_is_armed() -> None:
    with pytest.raises(FailpointError, match="REMOTE_ENV_SERVER_TEST=1"):
        arm({"REMOTE_ENV_SERVER_FAILPOINT": "after_send:kill"})


def test_every_failpoint_that_is_known_stands_in_the_code_and_the_reverse() -> None:
    """A test that arms a failpoint which nothing passes would prove nothing."""
    standing: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        standing.update(re.findall(r'failpoint\("(\w+)"\)', path.read_text()))
    assert standing == KNOWN
