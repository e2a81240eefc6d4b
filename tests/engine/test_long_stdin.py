"""Standard input longer than a request may be: laid down in the sandbox, read by the command, gone afterwards."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from remote_env import Ended, NotRunError, Sandbox
from tests.engine.conftest import MakeSandbox
from tests.support.server import SANDBOX, Server

LONG = b"".join(b"%015d\n" % number for number in range(1_250_000))  # 20 MB


def left_over(sandbox: Sandbox) -> str:
    return sandbox.run("ls -A /tmp /dev/shm | grep remote-env-stdin || true").text


@pytest.mark.parametrize("user", [None, "nobody"])
def test_command_reads_all_of_it_and_nothing_is_left(debian: Sandbox, user: str | None) -> None:
    done = debian.run("sha256sum; id -un", stdin=LONG, user=user)
    assert done.text == f"{hashlib.sha256(LONG).hexdigest()}  -\n{user or 'root'}\n"
    assert left_over(debian) == ""


def test_text_is_sent_as_it_is(debian: Sandbox) -> None:
    text = "größe \udcff\n" * 300_000
    data = text.encode("utf-8", "surrogateescape")
    execution = debian.start(["sha256sum"], stdin=text).wait()
    assert execution.text.split()[0] == hashlib.sha256(data).hexdigest()
    *_, end = debian.stream("wc -c", stdin=LONG)
    assert isinstance(end, Ended) and end.result.text == f"{len(LONG)}\n"
    assert left_over(debian) == ""


def test_root_file_system_that_cannot_be_written_is_no_hindrance(make_sandbox: MakeSandbox, sandbox_image: str) -> None:
    sandbox = make_sandbox(SANDBOX, read_only=True, memory_bytes=256 << 20)
    assert sandbox.run("wc -c", stdin=LONG).text == f"{len(LONG)}\n"


def test_place_that_nobody_can_write_to_means_that_it_did_not_run(make_sandbox: MakeSandbox, sandbox_image: str) -> None:
    sandbox = make_sandbox(SANDBOX)
    sandbox.run("chmod 755 /tmp /dev/shm", check=True)
    with pytest.raises(NotRunError, match="standard input"):
        sandbox.run("touch /var/tmp/ran", stdin=LONG, user="nobody")
    assert sandbox.run("test -e /var/tmp/ran").returncode == 1


def test_command_line_passes_on_all_that_is_piped_in(server: Server, debian: Sandbox) -> None:
    command = [sys.executable, "-m", "remote_env.cli.main", "exec", "-i", debian.id, "--", "sha256sum"]
    done = subprocess.run(command, input=LONG, capture_output=True, env={**os.environ, **server.env}, timeout=60, check=True)
    assert done.stdout.split()[0].decode() == hashlib.sha256(LONG).hexdigest()
