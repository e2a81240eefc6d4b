"""The journal is deleted, set back, damaged, or of another boot: nothing runs twice, and what cannot be known is called so."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.support.outside import until
from tests.support.server import BUSYBOX, SMALL, Server


def journal_files(server: Server) -> list[Path]:
    return sorted(server.data_dir.glob("journal.sqlite3*"))


def test_garbage_in_place_of_the_journal_stops_the_server_with_a_sentence(make_server: Callable[..., Server]) -> None:
    server = make_server().start()
    server.stop()
    for each in journal_files(server):
        each.unlink()
    (server.data_dir / "journal.sqlite3").write_bytes(b"this is no database" * 1000)
    assert server.spawn().wait(timeout=30) == 1
    said = server.log.read_text()
    assert "cannot be opened as a journal" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_rebooted_host_loses_what_ran_and_says_so(make_server: Callable[..., Server]) -> None:
    """Broken: the host rebooted (here: the journal remembers another boot id). Must hold: unfinished commands are
    `lost: host_restarted` with their output so far, the container does not stay behind."""
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        execution = sandbox.start("echo so far; exec sleep 1000")
        until(lambda: execution.refresh().record.output.total_bytes, "there is output")
        server.kill()
        with contextlib.closing(sqlite3.connect(server.data_dir / "journal.sqlite3")) as journal:
            journal.execute("UPDATE meta SET value = 'the boot before' WHERE key = 'boot_id'")
            journal.commit()
        server.start()
        execution.wait()
        assert execution.outcome is not None
        assert (execution.outcome.kind, execution.outcome.reason) == ("lost", "host_restarted")
        assert execution.output() == b"so far\n"
        until(lambda: server.containers() == [], "its container is gone")
