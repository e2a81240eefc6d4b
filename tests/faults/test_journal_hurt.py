"""The journal is deleted, set back, damaged, or of another boot: nothing runs twice, and what cannot be known is called so."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from remote_env import OutcomeUnknownError, SandboxGone
from remote_env.protocol import EPOCH_HEADER, new_id
from tests.support.outside import runs, until
from tests.support.server import BUSYBOX, SMALL, Server


def journal_files(server: Server) -> list[Path]:
    return sorted(server.data_dir.glob("journal.sqlite3*"))


def copy_journal(server: Server, to: Path) -> None:
    """A copy as a backup tool takes it: consistent, of a running server."""
    with (
        contextlib.closing(sqlite3.connect(server.data_dir / "journal.sqlite3")) as source,
        contextlib.closing(sqlite3.connect(to)) as target,
    ):
        source.backup(target)


def set_back(server: Server, copy: Path) -> None:
    for each in journal_files(server):
        each.unlink()
    shutil.copyfile(copy, server.data_dir / "journal.sqlite3")


def test_deleted_journal_is_told_as_unknown_and_its_containers_go(make_server: Callable[..., Server]) -> None:
    """Broken: the journal is deleted while a command runs. Must hold: the caller is told that nothing can be known, the
    container does not stay behind (ORPHAN), nothing is run again."""
    server = make_server("--sweep-every", "1s").start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        execution = sandbox.start("echo c >> /ran; exec sleep 1000")
        until(lambda: runs(sandbox) == Counter(c=1), "the command runs")
        server.kill()
        for each in journal_files(server):
            each.unlink()
        server.start()
        with pytest.raises((OutcomeUnknownError, SandboxGone)):
            execution.wait()
        until(lambda: server.containers() == [], "the container that no journal knows is gone")


def test_journal_set_back_behind_a_running_command_gives_the_sandbox_up(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """Broken: the journal is replaced by an older copy that does not know the command (STRICT). Must hold: the same POST,
    sent again by a client that knows no better, does not run it a second time."""
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        sandbox.run("echo before >> /ran")
        copy_journal(server, tmp_path / "copy")
        execution_id = new_id()
        body = {"id": execution_id, "command": "echo c >> /ran; sleep 1000"}
        headers = {"Authorization": f"Bearer {server.token}", EPOCH_HEADER: sandbox.epoch}
        path = f"{server.url}/v1/sandboxes/{sandbox.id}/executions"
        assert requests.post(path, json=body, headers=headers, timeout=30).status_code == 202
        until(lambda: runs(sandbox) == Counter(before=1, c=1), "the command runs")
        server.kill()
        set_back(server, tmp_path / "copy")
        server.start()
        until(lambda: "journal_set_back" in server.log.read_text(), "the init's hello has told")
        again = requests.post(path, json=body, headers={**headers, "Prefer": "wait=20"}, timeout=60)
        assert (again.status_code, again.json()["code"]) == (410, "gone")
        until(lambda: server.containers() == [], "the sandbox that cannot be trusted is ended")
        assert client.sandbox(sandbox.id).record.reason == "journal_set_back"


def test_journal_set_back_to_before_the_end_of_a_command_is_lost_not_run_again(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """Broken: the older copy has the command as unfinished; the init has forgotten it long ago. Must hold: it is not sent
    again; its caller hears `lost: journal_set_back`."""
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        execution = sandbox.start("echo c >> /ran; sleep 1")
        copy_journal(server, tmp_path / "copy")
        execution.wait()
        assert runs(sandbox) == Counter(c=1)
        server.kill()
        set_back(server, tmp_path / "copy")
        server.start()
        known = client.execution(execution.id).wait()
        assert known.outcome is not None
        assert (known.outcome.kind, known.outcome.reason) == ("lost", "journal_set_back")


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


def test_journal_that_cannot_be_written_is_unknown_and_the_server_starts_itself_again(make_server: Callable[..., Server]) -> None:
    """Broken: commits fail (another process holds the journal locked for longer than the server waits). Must hold: the
    caller of that moment is not told a result that was never committed; afterwards the server works again."""
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        execution = sandbox.start("echo c >> /ran; sleep 1; echo done")
        until(lambda: runs(sandbox) == Counter(c=1), "the command runs")
        with contextlib.closing(sqlite3.connect(server.data_dir / "journal.sqlite3", isolation_level=None)) as thief:
            thief.execute("BEGIN IMMEDIATE")
            until(lambda: "starting again" in server.log.read_text(), "the server noticed")
            thief.execute("ROLLBACK")
        assert execution.wait().text == "done\n"
        assert execution.outcome is not None
        assert execution.outcome.kind == "exited"
        assert sandbox.run("echo next >> /ran").returncode == 0
        assert runs(sandbox) == Counter(c=1, next=1)
