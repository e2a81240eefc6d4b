"""`batch run` itself: opens the directory, runs the batch, shows what it tells, passes signals on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from remote_env.batch.directory import DirectoryError, read_results
from remote_env.batch.events import Listener
from remote_env.batch.jobfile import JobFile
from remote_env.batch.jobs import Job
from remote_env.batch.opening import open_batch
from remote_env.batch.plan import Impossible
from remote_env.batch.results import JobOutcome
from remote_env.batch.resume import Changed, resume
from remote_env.batch.runner import Batch, Options
from remote_env.batch.servers import Address
from remote_env.batch.summary import EXIT_INFRASTRUCTURE
from remote_env.cli import screen
from remote_env.cli.batch_lines import JsonLines, PlainLines
from remote_env.cli.codes import INTERRUPTED, USAGE
from remote_env.cli.troubles import tell_troubles

KEPT_LEASE_S = 86400.0  # for whoever looks into a sandbox that was kept
_SHOW_CURSOR = b"\033[?25h\n"  # who draws may have hidden it


def run(
    jobs: JobFile, out: Path, servers: tuple[Address, ...], *, workers: int, server_timeout_s: float, lease_s: float,
    keep_failed: int, retry: Collection[JobOutcome], only: Sequence[str] | None, limit: int | None, quiet: bool, as_json: bool,
) -> int:  # fmt: skip
    """The exit code of `batch run`. Raises InvalidSpec for a server's address that cannot be used."""
    chosen = _choose(jobs.jobs, only, limit)
    if chosen is None:
        return USAGE
    if keep_failed:
        lease_s = max(lease_s, KEPT_LEASE_S)
    urls = [address.resolved().url for address in servers]
    options = {"workers": workers, "server_timeout_s": server_timeout_s, "lease_s": lease_s, "keep_failed": keep_failed}
    try:
        directory, info = open_batch(out, jobs, servers=urls, options=options)
        with directory:
            resumed = resume(chosen, directory.entries(), read_results(out), retry)
            tell_troubles()
            with _shown(quiet, as_json) as listener:
                asked = Options(workers, servers, server_timeout_s, lease_s, keep_failed)
                batch = Batch(directory, info.run_id, resumed, jobs.base, asked, [listener])
                with _signals(batch):
                    batch.run()
            return batch.exit_code
    except Changed as error:
        screen.complain(f"{error}. What has come of them would be another job's: run them into another --out, or anew with --retry.")
    except (DirectoryError, Impossible) as error:
        screen.complain(str(error))
    except (BrokenPipeError, screen.NotWritten):
        raise
    except OSError as error:
        screen.complain(f"{error.filename or out}: {error.strerror or error}. What runs goes on; the same command line takes it up again.")
        return EXIT_INFRASTRUCTURE
    return USAGE


def _choose(jobs: Sequence[Job], only: Sequence[str] | None, limit: int | None) -> list[Job] | None:
    unknown = set(only or ()) - {job.id for job in jobs}
    if unknown:
        screen.complain(f"--only: there is no job {', '.join(sorted(unknown))}")
        return None
    chosen = [job for job in jobs if not only or job.id in only]
    return chosen[:limit]


@contextmanager
def _shown(quiet: bool, as_json: bool) -> Iterator[Listener]:
    """Whoever shows what the batch tells, until this is left."""
    lines = PlainLines(quiet=quiet)
    if as_json:
        yield JsonLines()
    elif quiet or not sys.stderr.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        yield lines
    else:
        from remote_env.cli.batch_live import LiveView

        view = LiveView(sys.stderr, lines.line)
        try:
            yield view
        finally:
            view.close()


@contextmanager
def _signals(batch: Batch) -> Iterator[None]:
    """Ctrl-C and SIGTERM are the batch's, for as long as this is entered; the third Ctrl-C leaves at once: all is journaled."""
    count = 0

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 2:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _SHOW_CURSOR)
            os._exit(INTERRUPTED)
        batch.interrupt()

    def terminated(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 2
        batch.terminate()

    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {signal.SIGINT: interrupted, signal.SIGTERM: terminated}
    # What was ignored when we were started stays ignored: `nohup`, and jobs in the background.
    heard = {number: handler for number, handler in handlers.items() if signal.getsignal(number) is not signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
