"""The journal's tables, and how each version of them came from the one before: a journal of any earlier version opens."""

from __future__ import annotations

SCHEMA_VERSION = 3
APPLICATION_ID = 0x52456E76  # "REnv", in the file's header (sqlite.org/fileformat2.html, offset 68)

MIGRATIONS: dict[int, str] = {
    # version → what brings the version before it forward
    1: """
    CREATE TABLE sandboxes(
        id TEXT PRIMARY KEY, run_id TEXT NOT NULL, image TEXT NOT NULL, spec TEXT NOT NULL, spec_hash BLOB NOT NULL,
        state TEXT NOT NULL, reason TEXT, container_id TEXT, container_pid INTEGER, epoch TEXT, secret BLOB,
        created_at REAL NOT NULL, ended_at REAL
    ) WITHOUT ROWID;
    CREATE INDEX sandboxes_live ON sandboxes(state) WHERE state IN ('creating', 'running', 'removing');
    CREATE INDEX sandboxes_run ON sandboxes(run_id);
    CREATE TABLE executions(
        id TEXT PRIMARY KEY, sandbox_id TEXT NOT NULL, number INTEGER NOT NULL, epoch TEXT NOT NULL, run_id TEXT NOT NULL,
        kind TEXT NOT NULL, spec TEXT, spec_hash BLOB, secrets TEXT, cancelling INTEGER NOT NULL DEFAULT 0,
        accepted_at REAL NOT NULL, ended_at REAL, final TEXT, expired INTEGER NOT NULL DEFAULT 0
    );
    CREATE UNIQUE INDEX executions_number ON executions(sandbox_id, number);
    CREATE INDEX executions_unfinished ON executions(sandbox_id) WHERE ended_at IS NULL;
    CREATE INDEX executions_run ON executions(run_id, accepted_at);
    """,
    2: """
    CREATE INDEX executions_kept ON executions(sandbox_id) WHERE ended_at IS NOT NULL AND expired = 0;
    """,
    3: """
    CREATE TABLE warm(
        id TEXT PRIMARY KEY, profile TEXT NOT NULL, image TEXT NOT NULL, made_by TEXT NOT NULL,
        container_id TEXT NOT NULL, container_pid INTEGER NOT NULL, epoch TEXT NOT NULL, secret BLOB NOT NULL
    ) WITHOUT ROWID;
    ALTER TABLE sandboxes ADD COLUMN expired INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX sandboxes_kept ON sandboxes(ended_at) WHERE ended_at IS NOT NULL AND expired = 0;
    CREATE INDEX sandboxes_age ON sandboxes(created_at);
    DROP INDEX sandboxes_run;
    CREATE INDEX sandboxes_run ON sandboxes(run_id, ended_at);
    CREATE TABLE openings(execution INTEGER PRIMARY KEY);
    INSERT INTO openings SELECT rowid FROM executions WHERE json_extract(spec, '$.opens') IS NOT NULL;
    """,
}
