"""`batch run`, `batch check`, `batch schema`: many jobs, each in a sandbox of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remote_env.cli import screen
from remote_env.cli.batch_report import report
from remote_env.cli.codes import USAGE
from remote_env.cli.invocation import Invocation, command, parsed
from remote_env.cli.quantities import parse_duration
from remote_env.cli.usage import Group

if TYPE_CHECKING:
    from remote_env.batch.jobfile import JobFile

JobsFile = Annotated[str, typer.Argument(metavar="JOBS.jsonl", hidden=True)]


HELP = """Run many jobs, each in a sandbox of its own.

\b
Examples:
  remote-env batch check jobs.jsonl
  remote-env batch run jobs.jsonl --out results/ --workers 32
  remote-env batch report results/
"""


def register(app: typer.Typer) -> None:
    batch = typer.Typer(cls=Group, rich_markup_mode=None, help=HELP)
    for name, function in (("run", run), ("report", report), ("check", check), ("schema", schema)):
        command(batch, name)(function)
    app.add_typer(batch, name="batch")


def run(
    invocation: Invocation,
    jobs: JobsFile,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where results go; the same again goes on with it.")],
    workers: Annotated[int, typer.Option("--workers", "-n", min=1, max=1000, metavar="N", help="Jobs at a time, at most.")] = 8,
    servers: Annotated[
        list[str] | None,
        typer.Option(
            "--server", metavar="URL[,TOKEN_FILE]", help="A server; may be repeated. [default: that of --url]", show_default=False
        ),
    ] = None,
    server_timeout: Annotated[
        str, typer.Option("--server-timeout", metavar="DURATION", help="A server that is silent for so long is given up.")
    ] = "5m",
    lease: Annotated[
        str, typer.Option("--lease", metavar="DURATION", help="How long sandboxes outlive this process, for another to take them up.")
    ] = "5m",
    keep_failed: Annotated[
        int, typer.Option("--keep-failed", min=0, metavar="N", help="Leave the sandboxes of N jobs that do not pass, for a day.")
    ] = 0,
    retry: Annotated[
        str | None,
        typer.Option("--retry", metavar="OUTCOME,...", help="Run jobs anew that ended so: lost, error, failed, timed_out, passed."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="ID", help="Only this job; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N jobs.", show_default=False)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing but the summary and errors.")] = False,
) -> int:
    """Run the jobs of a file, one JSON object a line (`batch schema`; - reads standard input).

    Started again with the same --out, it goes on: what has a result is kept, what was running is taken up where it stands,
    and no command runs twice. What was lost is run anew only where --retry says so.

    \b
    Examples:
      remote-env batch run jobs.jsonl --out results/ --workers 32
      remote-env batch run jobs.jsonl --out results/ --retry lost,error
      remote-env batch run jobs.jsonl --out results/ --server http://a:9527 --server http://b:9527

    \b
    Exit code: 0 all passed; 1 some failed or timed out; 3 some were lost or
    never judged; 130 by Ctrl-C; 2 wrong usage, or a bad line in the file.
    The first Ctrl-C lets what runs come to its end, the second cancels it, the third leaves at once.
    """
    outcomes = parsed("--retry", _outcomes, retry) or ()
    timeout_s, lease_s = parsed("--server-timeout", parse_duration, server_timeout), parsed("--lease", parse_duration, lease)
    found = _read(jobs, invocation.as_json)
    if found is None:
        return USAGE

    from remote_env.batch.servers import Address
    from remote_env.cli import batch_run

    addresses = tuple(Address.parse(server) for server in servers or [])
    if not addresses:
        addresses = (Address(invocation.url, Path(invocation.token_file) if invocation.token_file else None),)
    elif invocation.token_file is not None:
        addresses = tuple(Address(each.url, each.token_file or Path(invocation.token_file)) for each in addresses)
    return batch_run.run(
        found, out, addresses, workers=workers, server_timeout_s=timeout_s, lease_s=lease_s, keep_failed=keep_failed,
        retry=outcomes, only=only, limit=limit, quiet=quiet, as_json=invocation.as_json,
    )  # fmt: skip


def check(invocation: Invocation, jobs: JobsFile) -> int:
    """Say all that is wrong with a job file; run nothing.

    \b
    Example:
      remote-env batch check jobs.jsonl
    """
    found = _read(jobs, invocation.as_json)
    if found is None:
        return USAGE
    if invocation.as_json:
        screen.print_json({"jobs": len(found.jobs), "sha256": found.sha256})
    else:
        screen.print_line(f"{found.name}: {len(found.jobs)} {'job' if len(found.jobs) == 1 else 'jobs'}, nothing wrong")
    return 0


def schema(invocation: Invocation) -> int:
    """Print the JSON Schema of a job.

    \b
    Example:
      remote-env batch schema > job.schema.json
    """
    from remote_env.batch.schema import job_schema

    screen.print_line(json.dumps(job_schema(), indent=2, ensure_ascii=False))
    return 0


def _read(name: str, as_json: bool) -> JobFile | None:
    """The jobs; None where something is wrong with them, which has been told then."""
    from remote_env.batch.jobfile import JobFileError, read_jobs

    try:
        if name == "-":
            return read_jobs(sys.stdin.buffer.read(), name="standard input", base=Path.cwd())
        return read_jobs(Path(name).read_bytes(), name=name, base=Path(name).resolve().parent)
    except OSError as error:
        screen.complain(f"{name}: {error.strerror}")
    except JobFileError as error:
        count = len(error.problems)
        screen.complain(f"{name}: {count} {'thing is' if count == 1 else 'things are'} wrong, and nothing was started")
        for problem in error.problems:
            screen.write_note(f"  {problem}\n")
        if as_json:
            screen.print_json({"problems": [{"line": each.line, "id": each.id, "reason": each.reason} for each in error.problems]})
    return None


def _outcomes(text: str) -> tuple[Any, ...]:
    from remote_env.batch.results import OUTCOMES

    chosen = tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = [part for part in chosen if part not in OUTCOMES]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is not one of {', '.join(OUTCOMES)}")
    return chosen
