"""`doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from remote_env.cli import screen
from remote_env.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from remote_env.cli.checks import Finding

_MARKS = {"good": ("✔", "good"), "warning": ("!", "warning"), "bad": ("✘", "error"), "skipped": ("–", "faint")}
_PLAIN_MARKS = {"good": "ok", "warning": "!", "bad": "X", "skipped": "-"}
_WIDTH = 16  # of a check's name


def register(app: typer.Typer) -> None:
    command(app, "doctor")(doctor)


def doctor(
    invocation: Invocation,
    image: Annotated[
        str | None, typer.Option("--image", metavar="IMAGE", help="Image to make a sandbox from. [default: a small local one]")
    ] = None,
) -> int:
    """Say what is wrong, and how to mend it.

    Looks at the engine, the server, its token, clocks, disk and limits, and makes a sandbox to run a command in.
    Exit code: 0 when nothing is wrong (warnings are no wrong), else 1.

    \b
    Examples:
      remote-env doctor
      remote-env --url https://build-host:9527 doctor --image python:3.12-slim
    """
    from remote_env.cli.checks import Examination
    from remote_env.config import Endpoint

    endpoint = Endpoint.resolve(invocation.url, token_file=invocation.token_file)
    findings = []
    with invocation.client() as client:
        for finding in Examination(endpoint, client, image).findings():
            findings.append(finding)
            if not invocation.as_json:
                _show(finding)
    wrong = sum(finding.verdict == "bad" for finding in findings)
    if invocation.as_json:
        screen.print_json({"healthy": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        screen.print_line("\n" + ("Nothing is wrong." if not wrong else f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong."))
    return 1 if wrong else 0


def _show(finding: Finding) -> None:
    mark, style = _MARKS[finding.verdict]
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        mark = _PLAIN_MARKS[finding.verdict]
    screen.print_line(f"{screen.styled(mark, style, sys.stdout)} {finding.name:<{_WIDTH}} {finding.found}")
    if finding.mend:
        screen.print_line(" " * (_WIDTH + 3) + screen.styled(f"→ {finding.mend}", style, sys.stdout))
