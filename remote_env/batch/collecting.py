"""What a job leaves behind, into files: outputs and artifacts. Each file has its name once all of it is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from remote_env import protocol
from remote_env.batch.directory import BatchDirectory
from remote_env.batch.jobs import JobArtifact
from remote_env.batch.results import ArtifactResult, OutputResult
from remote_env.errors import FileError, RemoteEnvError
from remote_env.execution import Execution
from remote_env.sandbox import Sandbox

TAIL_CHARACTERS = 2000


def collect_output(execution: Execution, directory: BatchDirectory, stem: Path) -> tuple[OutputResult, OutputResult | None]:
    """The output of a command that has ended into `STEM.out`; where it is split, into `STEM.stdout` and `STEM.stderr`."""
    record = execution.record
    if record.stderr is None:
        return _save(execution, record.output, directory, stem.with_name(f"{stem.name}.out"), stderr=False), None
    return (
        _save(execution, record.output, directory, stem.with_name(f"{stem.name}.stdout"), stderr=False),
        _save(execution, record.stderr, directory, stem.with_name(f"{stem.name}.stderr"), stderr=True),
    )


def _save(execution: Execution, output: protocol.Output, directory: BatchDirectory, target: Path, *, stderr: bool) -> OutputResult:
    error = None
    try:
        execution.save(target, stderr=stderr)
    except RemoteEnvError as failure:
        error = str(failure)
    return OutputResult(
        file=directory.relative(target) if error is None else None, total_bytes=output.total_bytes, kept_bytes=output.kept_bytes,
        sha256=output.sha256, truncated=output.truncated, tail=_tail(target) if error is None else "", error=error,
    )  # fmt: skip


def _tail(file: Path) -> str:
    with open(file, "rb") as output:
        output.seek(max(0, output.seek(0, os.SEEK_END) - 4 * TAIL_CHARACTERS))
        return output.read().decode("utf-8", "replace")[-TAIL_CHARACTERS:]


def clear_unfinished(place: Path) -> None:
    """Removes what a process that was killed was fetching there."""
    for unfinished in [*place.glob(".*.part"), *place.glob("artifacts/.*.part")]:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        else:
            unfinished.unlink()


def fetch_artifacts(
    sandbox: Sandbox, artifacts: Sequence[JobArtifact], directory: BatchDirectory, place: Path
) -> list[ArtifactResult]:  # fmt: skip
    """Each of them to `PLACE/NAME`; one that cannot be had with its reason. Raises SandboxGone, LinkLost, Unreachable."""
    results = []
    for artifact in artifacts:
        target = place / artifact.local_name
        try:
            transfer = sandbox.download(artifact.path, target, resume=False)
        except FileError as error:
            results.append(ArtifactResult(path=artifact.path, error=str(error)))
        else:
            file = directory.relative(target)
            results.append(ArtifactResult(path=artifact.path, file=file, size=transfer.bytes, sha256=transfer.sha256))
    return results


def gone_artifacts(artifacts: Sequence[JobArtifact], why: str) -> list[ArtifactResult]:
    """None of them could be had."""
    return [ArtifactResult(path=artifact.path, error=why) for artifact in artifacts]
