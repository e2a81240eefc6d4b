"""The disk is full or fails, the journal cannot be written, is torn, set back, deleted."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

from remote_env import Sandbox
from remote_env.protocol import new_id
from server.journal import Journal, JournalError
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.disk import SmallDisk
from tests.faults.matrix.hurting import drive_while, restarts, until_restart, until_running
from tests.faults.matrix.row import row
from tests.faults.matrix.subjects import RemoteEnv
from tests.faults.matrix.traffic import Call, Command
from tests.faults.matrix.unlucky import Unlucky
from tests.faults.matrix.wal import committed, rows_of
from tests.support.server import Server

NO_ADMISSION = ["--min-free-disk", "0"]  # else no work would be taken long before the disk is full


# ------------------------------------------------------------------------------------------------------- full and failing disks


@row(
    "spool-full",
    "the disk for output full",
    "output goes to a tmpfs of 24 MiB, which is filled up while commands write; the server is killed and started while it is full",
    "journal",
    allows=("cut off", "not run"),
    short=24,
)
def spool_full(arena: Arena) -> None:
    disk = SmallDisk(arena.tmp / "data" / "spool", 24 << 20)
    arena.on_close(disk.close)
    arena.server_options += NO_ADMISSION
    arena.ours.on_undelivered = "redeliver"
    traffic, part = arena.traffic, arena.commands // 3
    arena.drive(traffic.commands(part, lines=400))
    commands = traffic.commands(part, sleep_s=1.0, lines=30_000) + traffic.commands(part, lines=400)
    with arena.meanwhile(commands, workers=16):
        until_running(arena, commands, 4)
        disk.fill()
        arena.until(lambda: "is thrown away" in arena.server.log.read_text(), "output meets the full disk")
        arena.server.restart()
    cut = sum(call.cut_off for call in arena.calls)
    assert cut, "no output met the full disk"
    disk.free()
    arena.drive(traffic.commands(arena.commands - 3 * part + 4))
    assert all(call.exact for call in arena.calls[-4:]), "output is cut although there is room again"
    arena.note(f"the output of {cut} commands cut, and said to be")


@row(
    "journal-full",
    "the disk for the journal full",
    "the data directory is a tmpfs of 24 MiB, which is filled up while commands run, and emptied again",
    "journal",
    allows=("not run",),
)
def journal_full(arena: Arena) -> None:
    disk = SmallDisk(arena.tmp / "data", 24 << 20)
    arena.on_close(disk.close)
    spool = SmallDisk(arena.tmp / "data" / "spool", 256 << 20)
    arena.on_close(spool.close)
    arena.server_options += NO_ADMISSION

    def hurt() -> None:
        for _ in range(1 if arena.short else 3):
            seen = restarts(arena)
            disk.fill()
            until_restart(arena, seen)
            arena.wait(3)
            disk.free()
            arena.drive([arena.traffic.command()], workers=1)

    hurt_while_driven(arena, hurt)
    assert "full" in arena.server.log.read_text()


@row(
    "journal-eio",
    "the journal's disk fails now and then",
    "write(2) to the journal's log, and fsync(2) of it, fail with EIO (a library preloaded into the server)",
    "journal",
    allows=("not run",),
)
def journal_eio(arena: Arena) -> None:
    unlucky = Unlucky(arena.tmp, "journal.sqlite3-wal")
    arena.server_environ |= unlucky.environ
    arena.server_options += ["--sweep-every", "1s"]  # the journal's log is emptied then, with fsync

    def hurt() -> None:
        for _ in range(1 if arena.short else 5):
            seen = restarts(arena)
            fail_once(arena, unlucky, "writes")
            until_restart(arena, seen)
            arena.drive([arena.traffic.command()], workers=1)
            fail_once(arena, unlucky, "syncs")

    hurt_while_driven(arena, hurt)
    arena.note(f"{unlucky['failed_writes']} failed writes, {unlucky['failed_syncs']} failed fsyncs")


def fail_once(arena: Arena, unlucky: Unlucky, what: str) -> None:
    failed = unlucky[f"failed_{what}"]
    unlucky[what] = 1
    arena.until(lambda: unlucky[f"failed_{what}"] > failed, f"one of the {what} failed")


@row(
    "journal-read-only",
    "the journal read-only",
    "chattr +i on the journal and its log while commands run, for 5 s",
    "journal",
    allows=("not run",),
)
def journal_read_only(arena: Arena) -> None:
    def hurt() -> None:
        files = [journal_path(arena.server), wal_path(arena.server)]
        seen = restarts(arena)
        set_immutable(files, True)
        arena.on_close(lambda: set_immutable(files, False))
        until_restart(arena, seen)
        arena.wait(5)
        set_immutable(files, False)

    hurt_while_driven(arena, hurt)


def set_immutable(files: list[Path], on: bool) -> None:
    subprocess.run(["chattr", "+i" if on else "-i", *(str(file) for file in files if file.exists())], check=True)


def hurt_while_driven(arena: Arena, hurt: Callable[[], None]) -> None:
    """Commands that run for a while and commands that do not, while commits fail."""
    arena.ours.on_undelivered = "redeliver"
    traffic = arena.traffic
    drive_while(arena, hurt, lambda: traffic.commands(8) + traffic.commands(8, sleep_s=0.5, lines=100), workers=8)
    arena.note(f"the server started itself again {restarts(arena)} times")


# ------------------------------------------------------------------------------------------ journals that do not know everything


@row(
    "journal-torn",
    "the journal torn: 1000 times at rest, and with commands running",
    "SIGKILL to the server, its journal's log cut at a random byte; each cut copy is opened, some by a server with live sandboxes",
    "journal",
    allows=("lost", "unknown"),
)
def journal_torn(arena: Arena) -> None:
    arena.server_options += ["--sweep-every", "2s"]
    tears, refused = 0, 0
    wanted = 60 if arena.short else 1000
    rounds = -(-arena.commands // 10)

    def tear(server: Server) -> None:
        nonlocal tears, refused
        database, log = (path.read_bytes() for path in (journal_path(server), wal_path(server)))
        opened, turned_down = open_torn_copies(arena, database, log, -(-wanted // rounds))
        tears, refused = tears + opened, refused + turned_down
        with open(wal_path(server), "r+b") as file:
            file.truncate(torn_at(arena, len(log)))

    set_back_again_and_again(arena, tear)
    arena.note(f"{tears} torn copies opened, {refused} of them refused; {len(arena.calls) // 20} torn journals taken up by a server")


def torn_at(arena: Arena, size: int) -> int:
    """Anywhere, but as often as not near the end, where the last commits are."""
    return arena.rng.randint(0 if arena.rng.random() < 0.5 else size * 9 // 10, size)


def open_torn_copies(arena: Arena, database: bytes, log: bytes, count: int) -> tuple[int, int]:
    """Cut the journal at `count` places and open each copy as a server would.

    A log that is cut costs what comes after the cut and nothing else. A database that is cut is refused, with a sentence,
    unless the log makes up for what is missing.

    Returns:
        Copies that were opened or refused, and how many were refused.
    """
    broken, refused = [], 0
    directory = arena.tmp / "torn"
    directory.mkdir(exist_ok=True)
    path = directory / "journal.sqlite3"
    for _ in range(count):
        in_database = arena.rng.random() < 0.2
        kept = database[: arena.rng.randint(1, len(database))] if in_database and database else database
        torn = log if in_database else log[: torn_at(arena, len(log))]
        for each in directory.iterdir():
            each.unlink()
        path.write_bytes(kept)
        path.with_name("journal.sqlite3-wal").write_bytes(torn)
        right = rows_of(committed(database, torn), directory / "expected")
        try:
            found = read_as_a_server(path)
        except JournalError:
            refused += 1
            if not in_database:
                broken.append(f"a journal whose log was cut to {len(torn)} of {len(log)} bytes was refused")
            continue
        except Exception as error:
            broken.append(f"a torn journal ({len(kept)} of {len(database)}, {len(torn)} of {len(log)} bytes): {error!r}")
            continue
        if found != right:
            broken.append(f"{len(set(right) ^ set(found))} rows of a torn journal ({len(torn)} of {len(log)} bytes) are not as committed")
    arena.verdict.check("Nothing-lost", broken)
    return count, refused


def read_as_a_server(path: Path) -> list[tuple[str, bool]]:
    """What a server that starts learns of each execution: its id, and whether it is over."""
    journal = Journal(path)
    try:
        for sandbox in journal.live_sandboxes():
            journal.unfinished(sandbox.id)
            journal.highest_number(sandbox.id)
        rows = journal.executions(run_id=None, sandbox_id=None, running=None, limit=1_000_000)
        return sorted((row.id, row.final is not None) for row in rows)
    finally:
        journal.close()


@row(
    "journal-deleted",
    "the journal deleted",
    "SIGKILL to the server while commands run, its journal deleted; every id is sent again to the server that starts",
    "journal",
    allows=("lost", "unknown"),
)
def journal_deleted(arena: Arena) -> None:
    arena.server_options += ["--sweep-every", "1s"]  # which removes the containers that no journal knows

    def delete(server: Server) -> None:
        for file in journal_files(server):
            file.unlink()

    set_back_again_and_again(arena, delete)


@row(
    "journal-restored",
    "the journal restored from an old copy",
    "SIGKILL to the server while commands run, a copy of its journal from before put in place; every id is sent again",
    "journal",
    allows=("lost", "unknown"),
)
def journal_restored(arena: Arena) -> None:
    copy = arena.tmp / "copy.sqlite3"

    def take_copy() -> None:
        """As a backup tool takes it: consistent, of a running server."""
        copy.unlink(missing_ok=True)
        with (
            contextlib.closing(sqlite3.connect(journal_path(arena.server))) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)

    def restore(server: Server) -> None:
        for file in journal_files(server):
            file.unlink()
        shutil.copyfile(copy, journal_path(server))

    set_back_again_and_again(arena, restore, take_copy)


def set_back_again_and_again(arena: Arena, damage: Callable[[Server], None], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Round after round: a sandbox, commands in it, some over and some running; the server is killed, its journal damaged, the
    server started. Whoever waited hears something, and whoever sends the same id again does not start it again."""
    ours, width = arena.ours, 10
    arena.fd_slack += 16  # several sandboxes at once fill the pool of connections to the engine
    rounds = 0
    while len(arena.calls) < 2 * arena.commands:
        sandbox = ours.new_sandbox()
        traffic = arena.traffic
        over = traffic.commands(width // 2, lines=50)
        under_way = traffic.commands(width - len(over), sleep_s=1.5, lines=50)
        run = sent_to(ours, sandbox, {command.name: new_id() for command in (*over, *under_way)})
        arena.drive(over[: width // 4], run=run)
        early = under_way[: arena.rng.randint(0, len(under_way))]
        late = under_way[len(early) :]
        with arena.meanwhile(early, workers=width, run=run):
            until_running(arena, early)
            meanwhile()
            arena.drive(over[width // 4 :], run=run)
            with arena.meanwhile(late, workers=width, run=run):
                until_running(arena, late)
                ours.server.kill()
                damage(ours.server)
                ours.server.start()
                arena.drive([*over, *under_way], workers=width, run=run)
        rounds += 1
    arena.note(f"{rounds} journals")


def sent_to(ours: RemoteEnv, sandbox: Sandbox, ids: dict[str, str]) -> Callable[[Command], Call]:
    """Runs each command there, under its id."""
    return lambda command: ours.run(command, sandbox, id=ids[command.name])


def journal_path(server: Server) -> Path:
    return server.data_dir / "journal.sqlite3"


def wal_path(server: Server) -> Path:
    return server.data_dir / "journal.sqlite3-wal"


def journal_files(server: Server) -> list[Path]:
    return sorted(server.data_dir.glob("journal.sqlite3*"))
