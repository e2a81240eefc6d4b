"""`cp`: files and trees between here and a sandbox."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from remote_env.cli import options, screen
from remote_env.cli.codes import FAILED
from remote_env.cli.invocation import Invocation, command
from remote_env.cli.placing import Place, parse_place
from remote_env.cli.quantities import show_size, show_span

NO_FILE = "not_regular"  # why a socket, FIFO or device is left out: nobody expects a copy of one


def register(app: typer.Typer) -> None:
    command(app, "cp")(cp)


def cp(
    invocation: Invocation,
    source: Annotated[str, typer.Argument(metavar="SRC", hidden=True)],
    destination: Annotated[str, typer.Argument(metavar="DST", hidden=True)],
    user: options.User = None,
    tar: Annotated[bool, typer.Option("--tar", help="What goes over - is a tar: unpack it below DST, or make one of SRC.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with a file that an earlier download left as NAME.part.")
    ] = True,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no summary.")] = False,
) -> int:
    """Copy a file or tree into a sandbox, or out of one.

    One of SRC and DST is SANDBOX:PATH, PATH being absolute or relative to the sandbox's working directory; the other is a
    path here (one with a colon in it as ./a:b), or - for standard input or output: a file's content, or with --tar (and
    for a directory) a tar.

    \b
    Where the copy goes, as with cp -r and docker cp:
      DST is a directory, or ends with a slash   into it, under SRC's own name
      DST is anything else                       DST is the copy's name
      SRC ends with /.                           the directory's contents go into DST

    Directories above DST are made where they are missing. Files are replaced one by one, each at once and only when all of
    it has come and its SHA-256 is right. Permission bits and symbolic links stay; owner is the sandbox's user, or you.
    A download that breaks off leaves NAME.part; the same command goes on from there.

    \b
    Examples:
      remote-env cp ./project $SANDBOX:/srv/project
      remote-env cp $SANDBOX:results/report.html .
      remote-env cp $SANDBOX:/var/log/. logs
      remote-env cp $SANDBOX:/etc/os-release - | head -1
      tar c . | remote-env cp --tar - $SANDBOX:/srv
    """
    from remote_env.cli.copying import Copy
    from remote_env.errors import RemoteEnvError

    here, there = _sides(source, destination, tar)
    copy = Copy(user=user, tar=tar, resume=resume, quiet=quiet or invocation.as_json)
    began = time.monotonic()
    try:
        with invocation.client() as client:
            done = copy.carry_out(client, here, there)
    except KeyboardInterrupt:
        if not quiet and copy.left is not None and os.path.exists(copy.left):
            screen.note(f"{copy.left} is kept; the same command goes on from there")
        raise
    except (RemoteEnvError, BrokenPipeError, screen.NotWritten):
        raise
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        screen.complain(message)
        if invocation.as_json:
            screen.print_json({"error": {"kind": type(error).__name__, "message": message, "exit_code": FAILED}})
        return FAILED
    seconds = time.monotonic() - began
    for path, reason in done.skipped.items():
        why = "it is no file, directory or symbolic link" if reason == NO_FILE else reason.replace("_", " ")
        screen.warn(f"{path} was left out: {why}")
    if invocation.as_json:
        screen.print_json(
            {
                "source": source, "destination": str(Place(there.sandbox, done.path)), "files": done.files, "bytes": done.bytes,
                "sha256": done.sha256, "skipped": done.skipped, "seconds": round(seconds, 3),
            }
        )  # fmt: skip
    elif not quiet and not there.is_stream:
        what = f"{done.files} files, " if done.files != 1 else ""
        rate = show_size(int(done.bytes / max(seconds, 0.001)))
        screen.note(f"{what}{show_size(done.bytes)} to {Place(there.sandbox, done.path)} in {show_span(seconds)} ({rate}/s)")
    return FAILED if set(done.skipped.values()) - {NO_FILE} else 0


def _sides(source: str, destination: str, tar: bool) -> tuple[Place, Place]:
    """Raises usage errors."""
    here, there = parse_place(source), parse_place(destination)
    if here.sandbox is None and there.sandbox is None:
        raise typer.BadParameter("one of them is SANDBOX:PATH; both of these are here", param_hint="SRC DST")
    if here.sandbox is not None and there.sandbox is not None:
        by_way = f"remote-env cp {here} - | remote-env cp - {there}"
        raise typer.BadParameter(f"one of them is a path here; between two sandboxes: {by_way}", param_hint="SRC DST")
    if tar and not (here.is_stream or there.is_stream):
        raise typer.BadParameter("goes with - for SRC or DST; without it, trees are copied as they are", param_hint="--tar")
    return here, there
