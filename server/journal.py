"""The journal: what was asked of the server and what became of it. SQLite, WAL, one writer (this process's event loop).

``synchronous=NORMAL`` in WAL survives the death of the process, which is all it has to survive: after a power cut the
containers are gone too and every unfinished execution is lost with the host (the boot id is kept here). Such a commit
takes some 30 µs, less than a hop to another thread and back, so the hot path commits where it runs. What waits for the disk is a
checkpoint, which some commit has to bear: so the log may grow to some thousand commits before there is one.

Secrets (an execution's environment values and stdin) live in a column of their own, are set to NULL once the command
has started, and are overwritten in the file (``secure_delete``). A sandbox's environment is never written here.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_json

from server.failpoints import failpoint
from server.schema import APPLICATION_ID, MIGRATIONS
from server.schema import SCHEMA_VERSION as SCHEMA_VERSION
from server.whole import missing_bytes

_CHECKPOINT_PAGES = 8000  # of 4 KiB in the log, some thousand commits; each checkpoint waits for the disk, with all that runs
_MEND = "put a copy of it back, or move it away to begin anew"


class JournalError(Exception):
    """The journal cannot be used; the message says why and what to do."""


class CommitFailed(Exception):
    """A commit failed: whether it took effect is unknown. The server has to start again from what the file says."""


@dataclass(frozen=True)
class SandboxRow:
    id: str
    run_id: str
    image: str
    spec: dict[str, Any]  # without environment values
    spec_hash: bytes
    state: str
    reason: str | None
    container_id: str | None
    container_pid: int | None
    epoch: str | None
    secret: bytes | None
    created_at: float
    ended_at: float | None


@dataclass(frozen=True)
class ExecutionRow:
    id: str
    sandbox_id: str
    number: int
    epoch: str
    run_id: str
    kind: Literal["run", "fence"]
    spec: dict[str, Any] | None  # without environment values and stdin
    spec_hash: bytes | None
    secrets: dict[str, Any] | None  # None once the command has started
    cancelling: bool
    accepted_at: float
    ended_at: float | None
    final: dict[str, Any] | None
    expired: bool


_SANDBOX_COLUMNS = "id, run_id, image, spec, spec_hash, state, reason, container_id, container_pid, epoch, secret, created_at, ended_at"
_EXECUTION_COLUMNS = (
    "id, sandbox_id, number, epoch, run_id, kind, spec, spec_hash, secrets, cancelling, accepted_at, ended_at, final, expired"
)


def _where(**wanted: str | int | None) -> tuple[str, tuple[str | int, ...]]:
    """The clause for the columns that are asked for, and its values: with those alone SQLite finds the index."""
    given = {column: value for column, value in wanted.items() if value is not None}
    clause = " AND ".join(f"{column} = ?" for column in given)
    return (f" WHERE {clause}" if clause else ""), tuple(given.values())


def _loads(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _sandbox(row: tuple[Any, ...]) -> SandboxRow:
    return SandboxRow(row[0], row[1], row[2], json.loads(row[3]), *row[4:])


def _execution(row: tuple[Any, ...]) -> ExecutionRow:
    (id_, sid, number, epoch, run_id, kind, spec, spec_hash, secrets, cancelling, accepted, ended, final, expired) = row
    return ExecutionRow(
        id_, sid, number, epoch, run_id, kind, _loads(spec), spec_hash, _loads(secrets), bool(cancelling), accepted,
        ended, _loads(final), bool(expired),
    )  # fmt: skip


class Journal:
    """Every method that writes has committed when it returns; every one that reads raises JournalError for a file that is
    damaged. Use from one thread.

    Args:
        path: the database file; made when missing.
        on_commit: called with the seconds that each commit took.
    Raises:
        JournalError: the file is no journal of ours, damaged, or of a newer version.
    """

    def __init__(self, path: Path, on_commit: Callable[[float], None] | None = None) -> None:
        self.path = path
        self._on_commit = on_commit
        try:
            if missing := missing_bytes(path):
                raise JournalError(f"{path} is cut short, {missing} bytes are missing; {_MEND}")
            self._db = sqlite3.connect(path, isolation_level=None, cached_statements=64)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute("PRAGMA busy_timeout=5000")  # milliseconds; only a person's sqlite3 shell competes
            self._migrate()
        except (sqlite3.DatabaseError, OSError) as error:
            raise JournalError(f"{path} cannot be opened as a journal: {error}") from error

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID and (version or self._db.execute("SELECT 1 FROM sqlite_master").fetchone()):
            raise JournalError(f"{self.path} is a database of another program; give the server another --data-dir")
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"{self.path} was written by a newer remote-env (schema {version}, this one knows {SCHEMA_VERSION}); "
                "upgrade the server or give it another --data-dir"
            )
        for step in range(version + 1, SCHEMA_VERSION + 1):
            self._db.executescript(
                f"BEGIN IMMEDIATE; {MIGRATIONS[step]} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={step}; COMMIT;"
            )
        self._db.execute("CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _commit(self) -> Iterator[sqlite3.Connection]:
        """One statement, one transaction. An error of SQLite's here leaves its fate open."""
        began = time.perf_counter()
        try:
            yield self._db
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.rollback()  # in one left open, every later commit would only look like one
            if isinstance(error, sqlite3.IntegrityError):
                raise
            raise CommitFailed(str(error)) from error
        if self._on_commit is not None:
            self._on_commit(time.perf_counter() - began)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Several statements, all of them or none. Nothing but statements may be in it."""
        with self._commit() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    def read(self, query: str, values: Sequence[str | int | float] = ()) -> list[tuple[Any, ...]]:
        """Rows, for the parts of the journal that live elsewhere (see `server.warmrows`, `server.pruning`)."""
        return self._read(query, values)

    def _read(self, query: str, values: Sequence[str | int | float] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{self.path} cannot be read: {error}; {_MEND}") from error

    # ------------------------------------------------------------------------------------------------- meta

    def meta(self, key: str) -> str | None:
        rows = self._read("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def set_meta(self, key: str, value: str) -> None:
        with self._commit() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # -------------------------------------------------------------------------------------------- sandboxes

    def add_sandbox(self, row: SandboxRow) -> None:
        with self._commit() as db:
            db.execute(
                f"INSERT INTO sandboxes({_SANDBOX_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    row.id, row.run_id, row.image, json.dumps(row.spec), row.spec_hash, row.state, row.reason,
                    row.container_id, row.container_pid, row.epoch, row.secret, row.created_at, row.ended_at,
                ),
            )  # fmt: skip
        failpoint("after_sandbox_commit")

    def sandbox_container(self, sid: str, container_id: str, spec: dict[str, Any]) -> None:
        """The container exists (it may not run yet). `spec` now holds what the image gave: user, workdir."""
        with self._commit() as db:
            db.execute("UPDATE sandboxes SET container_id = ?, spec = ? WHERE id = ?", (container_id, json.dumps(spec), sid))

    def sandbox_running(self, sid: str, pid: int, epoch: str, secret: bytes) -> None:
        """INCARN: the incarnation is committed before the first run is sent."""
        with self._commit() as db:
            db.execute(
                "UPDATE sandboxes SET state = 'running', container_pid = ?, epoch = ?, secret = ? WHERE id = ?",
                (pid, epoch, secret, sid),
            )
        failpoint("after_incarnation_commit")

    def sandbox_removing(self, sid: str, reason: str, purge: bool = False) -> None:
        """`purge`: its results are to be erased when it is removed, by whichever server does it; kept in its spec."""
        spec = "json_set(spec, '$.purge', json('true'))" if purge else "spec"
        with self._commit() as db:
            db.execute(f"UPDATE sandboxes SET state = 'removing', reason = ?, spec = {spec} WHERE id = ?", (reason, sid))
        failpoint("after_removing_commit")

    def sandbox_over(self, sid: str, state: str, reason: str | None, at: float) -> None:
        """It is removed, dead or failed: a tombstone from here on."""
        with self._commit() as db:
            db.execute("UPDATE sandboxes SET state = ?, reason = ?, ended_at = ? WHERE id = ?", (state, reason, at, sid))
        failpoint("after_removed_commit")

    def sandbox(self, sid: str) -> SandboxRow | None:
        rows = self._read(f"SELECT {_SANDBOX_COLUMNS} FROM sandboxes WHERE id = ?", (sid,))
        return _sandbox(rows[0]) if rows else None

    def live_sandboxes(self) -> list[SandboxRow]:
        query = f"SELECT {_SANDBOX_COLUMNS} FROM sandboxes WHERE state IN ('creating', 'running', 'removing')"
        return [_sandbox(row) for row in self._read(query)]

    def sandboxes(self, run_id: str | None, state: str | None, limit: int = 1000) -> list[SandboxRow]:
        where, values = _where(run_id=run_id, state=state)
        query = f"SELECT {_SANDBOX_COLUMNS} FROM sandboxes{where} ORDER BY created_at DESC LIMIT ?"
        return [_sandbox(row) for row in self._read(query, (*values, limit))]

    def gone_since(self, run_id: str, since: float) -> dict[str, str]:
        """The run's sandboxes that were over after that time, each with the reason: asked with every heartbeat."""
        query = "SELECT id, coalesce(reason, state) FROM sandboxes WHERE run_id = ? AND ended_at > ?"
        return dict(self._read(query, (run_id, since)))

    # ------------------------------------------------------------------------------------------- executions

    def accept(self, row: ExecutionRow) -> None:
        """SEQSBX: the row carries the next number of its sandbox; taken twice, the index refuses."""
        failpoint("before_accept_commit")
        opens = row.spec is not None and "opens" in row.spec  # these few are found by it, and no other pays for that
        with self.transaction() if opens else self._commit() as db:
            cursor = db.execute(
                "INSERT INTO executions(id, sandbox_id, number, epoch, run_id, kind, spec, spec_hash, secrets, accepted_at) "
                "VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    row.id, row.sandbox_id, row.number, row.epoch, row.run_id, row.kind,
                    None if row.spec is None else json.dumps(row.spec), row.spec_hash,
                    None if row.secrets is None else json.dumps(row.secrets), row.accepted_at,
                ),
            )  # fmt: skip
            if opens:
                db.execute("INSERT INTO openings VALUES (?)", (cursor.lastrowid,))
        failpoint("after_accept_commit")

    def cancel(self, eid: str) -> None:
        """CANCELJ: the flag is committed before anybody is told `cancelling`."""
        failpoint("before_cancel_commit")
        with self._commit() as db:
            db.execute("UPDATE executions SET cancelling = 1 WHERE id = ?", (eid,))
        failpoint("after_cancel_commit")

    def end(self, eid: str, final: dict[str, Any], at: float) -> None:
        """The final result. Committed before the init is told that it may forget (ACKAFTER)."""
        with self._commit() as db:
            db.execute(
                "UPDATE executions SET final = ?, ended_at = ?, secrets = NULL WHERE id = ? AND ended_at IS NULL",
                (to_json(final).decode(), at, eid),
            )
        failpoint("after_final_commit")

    def wipe_secrets(self, ids: list[str]) -> None:
        with self.transaction() as db:
            db.executemany("UPDATE executions SET secrets = NULL WHERE id = ?", [(eid,) for eid in ids])

    def execution(self, eid: str) -> ExecutionRow | None:
        rows = self._read(f"SELECT {_EXECUTION_COLUMNS} FROM executions WHERE id = ?", (eid,))
        return _execution(rows[0]) if rows else None

    def unfinished(self, sid: str) -> list[ExecutionRow]:
        query = f"SELECT {_EXECUTION_COLUMNS} FROM executions WHERE sandbox_id = ? AND ended_at IS NULL ORDER BY number"
        return [_execution(row) for row in self._read(query, (sid,))]

    def highest_number(self, sid: str) -> int:
        ((number,),) = self._read("SELECT max(number) FROM executions WHERE sandbox_id = ?", (sid,))
        return int(number or 0)

    def executions(
        self, *, run_id: str | None, sandbox_id: str | None, running: bool | None, opens: str | None = None, limit: int
    ) -> list[ExecutionRow]:  # fmt: skip
        """Newest first; `running` None: all, True: not ended, False: ended. `opens`: only those that open such a thing."""
        where, values = _where(run_id=run_id, sandbox_id=sandbox_id, expired=0)
        if running is not None:
            where += " AND ended_at IS NULL" if running else " AND ended_at IS NOT NULL"
        # In the order of an index, so that nothing has to be sorted; rows are never deleted, so rowid is an order of age too.
        # What is not ended is few, and has an index of its own.
        source, newest = "executions", "number" if sandbox_id is not None else "accepted_at" if run_id is not None or running else "rowid"
        if opens is not None:
            where, values = f"{where} AND json_extract(spec, '$.opens') = ?", (*values, opens)
            source, newest = "openings CROSS JOIN executions ON executions.rowid = openings.execution", "openings.execution"
        query = f"SELECT {_EXECUTION_COLUMNS} FROM {source}{where} ORDER BY {newest} DESC LIMIT ?"
        return [_execution(row) for row in self._read(query, (*values, limit))]

    # ------------------------------------------------------------------------------------------- retention

    def expirable(self, ended_before: float, limit: int = 200) -> list[str]:
        """Ids of ended executions whose sandbox was over before that time: beyond retention. The oldest sandbox's first."""
        query = (  # indexes keep it from looking at every sandbox and row that expired long ago
            "SELECT e.id FROM sandboxes s INDEXED BY sandboxes_kept CROSS JOIN executions e INDEXED BY executions_kept "
            "ON e.sandbox_id = s.id "
            "WHERE s.ended_at < ? AND s.expired = 0 AND e.ended_at IS NOT NULL AND e.expired = 0 ORDER BY s.ended_at LIMIT ?"
        )
        return [str(row[0]) for row in self._read(query, (ended_before, limit))]

    def expire_sandboxes(self, ended_before: float, limit: int) -> bool:
        """Look no more at those of the oldest so many sandboxes of which nothing is kept any more. Whether there was one."""
        query = (
            "SELECT s.id FROM (SELECT id FROM sandboxes INDEXED BY sandboxes_kept WHERE ended_at < ? AND expired = 0 "
            "ORDER BY ended_at LIMIT ?) s WHERE NOT EXISTS (SELECT 1 FROM executions e INDEXED BY executions_kept "
            "WHERE e.sandbox_id = s.id AND e.ended_at IS NOT NULL AND e.expired = 0)"
        )
        ids = self._read(query, (ended_before, limit))
        if ids:
            with self.transaction() as db:
                db.executemany("UPDATE sandboxes SET expired = 1 WHERE id = ?", ids)
        return bool(ids)

    def kept(self, sid: str) -> list[str]:
        """Ids of a sandbox's ended executions that are not expired."""
        query = "SELECT id FROM executions INDEXED BY executions_kept WHERE sandbox_id = ? AND ended_at IS NOT NULL AND expired = 0"
        return [str(row[0]) for row in self._read(query, (sid,))]

    def expire(self, ids: list[str]) -> None:
        """Leave of each row what answers 410, not 404, for ever (KEEP)."""
        with self.transaction() as db:
            db.executemany("UPDATE executions SET expired = 1, spec = NULL, final = NULL, secrets = NULL WHERE id = ?", [(i,) for i in ids])

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file and empty it, so that what was wiped is wiped on disk too. On this
        connection alone: SQLite before 2026 could lose commits when another connection checkpoints at the same time.

        Raises JournalError where that cannot be done now; nothing is lost by it.
        """
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"its log cannot be moved into {self.path}: {error}") from error
