"""The journal's rows of warm sandboxes: containers that are ready and nobody's yet.

A row is written once the container's init has said hello, and goes in the one transaction that gives the container to
somebody's sandbox: handed out and still warm it never is, whenever this process dies. What dies before its row is written is
an orphan (ORPHAN).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from server.engine import Image
from server.failpoints import failpoint
from server.journal import Journal
from server.profiles import Profile

_COLUMNS = "id, profile, image, made_by, container_id, container_pid, epoch, secret"


@dataclass(frozen=True)
class WarmRow:
    id: str
    profile: Profile
    image: Image  # what it was made of, without its environment
    made_by: str  # version of the server that made it, whose init runs in it
    container_id: str
    container_pid: int
    epoch: str
    secret: bytes


class WarmRows:
    """Every method that writes has committed when it returns; raises as the journal's own do."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def add(self, row: WarmRow) -> None:
        profile, image = json.dumps(dataclasses.asdict(row.profile)), json.dumps([row.image.id, row.image.user, row.image.workdir])
        failpoint("before_warm_commit")
        with self._journal.transaction() as db:
            db.execute(
                f"INSERT INTO warm({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)",
                (row.id, profile, image, row.made_by, row.container_id, row.container_pid, row.epoch, row.secret),
            )
        failpoint("after_warm_commit")

    def acquire(self, warm_id: str, sandbox_id: str, container_id: str, spec: dict[str, Any]) -> None:
        """The container is that sandbox's from here on, and warm no more: one transaction."""
        failpoint("before_acquire_commit")
        with self._journal.transaction() as db:
            db.execute("DELETE FROM warm WHERE id = ?", (warm_id,))
            db.execute("UPDATE sandboxes SET container_id = ?, spec = ? WHERE id = ?", (container_id, json.dumps(spec), sandbox_id))
        failpoint("after_acquire_commit")

    def drop(self, warm_id: str) -> None:
        """It is nobody's and will be nobody's."""
        with self._journal.transaction() as db:
            db.execute("DELETE FROM warm WHERE id = ?", (warm_id,))

    def all(self) -> list[WarmRow]:
        rows = self._journal.read(f"SELECT {_COLUMNS} FROM warm")
        return [_row(row) for row in rows]


def _row(row: tuple[Any, ...]) -> WarmRow:
    image_id, user, workdir = json.loads(row[2])
    return WarmRow(row[0], Profile(**json.loads(row[1])), Image(image_id, (), user, workdir), *row[3:])
