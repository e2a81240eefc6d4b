"""Opens a batch's directory: makes a batch of it, or finds the one that is there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from remote_env.batch.directory import BatchDirectory, BatchInfo, DirectoryError, read_batch, write_batch
from remote_env.batch.jobfile import JobFile
from remote_env.protocol import new_id
from remote_env.version import __version__

_OWN = (".lock", "journal.jsonl", "results.jsonl", ".batch.json.new")


def open_batch(out: Path, jobs: JobFile, *, servers: Sequence[str], options: dict[str, Any]) -> tuple[BatchDirectory, BatchInfo]:
    """The directory, in this process's hands, and which batch it is. Raises DirectoryError, OSError."""
    directory = BatchDirectory(out)
    try:
        info = read_batch(out)
        if info is None:
            strangers = sorted(each.name for each in out.iterdir() if each.name not in _OWN)
            if strangers or (out / "journal.jsonl").stat().st_size:
                raise DirectoryError(f"{out} is no batch's directory, and not empty: {', '.join(strangers[:3]) or 'journal.jsonl'}")
            info = BatchInfo(
                run_id=new_id(), created_at=datetime.now(timezone.utc).isoformat(), jobs_file=jobs.name, jobs_sha256=jobs.sha256,
                job_count=len(jobs.jobs), servers=list(servers), client_version=__version__, options=options,
            )  # fmt: skip
            write_batch(out, info)
    except BaseException:
        directory.close()
        raise
    return directory, info
