"""Somebody else holds the journal's lock for longer than the server waits for it: commits fail, nothing is lost."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable

from remote_env.timings import Timings
from tests.support.outside import docker, runs, until
from tests.support.server import BUSYBOX, SMALL, Server


def test_an_ending_that_could_not_be_committed_is_committed_by_the_server_that_starts_again(make_server: Callable[..., Server]) -> None:
    """Broken: the final result's commit fails (a backup tool or a shell holds the write lock). Must hold: the init keeps the
    ending (ACKAFTER), the server starts itself again, the caller gets the true result, the sandbox lives."""
    server = make_server().start()
    with server.client(Timings().scaled(0.2)) as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        execution = sandbox.start("echo c >> /ran; until [ -e /go ]; do sleep 0.05; done; echo out; exit 5")
        until(lambda: runs(sandbox) == Counter(c=1), "the command runs")
        with contextlib.closing(sqlite3.connect(server.data_dir / "journal.sqlite3", isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            docker("exec", str(sandbox.container_id), "touch", "/go")
            until(lambda: "starting again" in server.log.read_text(), "the commit failed")
            somebody.execute("ROLLBACK")
        execution.wait()
        assert (execution.returncode, execution.text) == (5, "out\n")
        assert runs(sandbox) == Counter(c=1)
        assert sandbox.run("echo next >> /ran; exit 3").returncode == 3
        assert runs(sandbox) == Counter(c=1, next=1)
