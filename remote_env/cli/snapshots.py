"""`diff` and `snapshot`: what a sandbox has become, and an image of it."""

from __future__ import annotations

from typing import Annotated

import typer

from remote_env.cli import screen
from remote_env.cli.invocation import Invocation, command
from remote_env.cli.quantities import show_size

_LETTERS = {"added": "A", "modified": "C", "deleted": "D"}  # as `docker diff` has them

Name = Annotated[str, typer.Argument(metavar="SANDBOX", hidden=True)]


def register(app: typer.Typer) -> None:
    command(app, "diff")(diff)
    command(app, "snapshot")(snapshot)


def diff(invocation: Invocation, name: Name) -> None:
    """Show what is otherwise in a sandbox than in its image.

    One path a line, after a letter: A added, C changed, D deleted. A directory is changed when something in it is.

    \b
    Examples:
      remote-env diff $SANDBOX
      remote-env diff --json $SANDBOX | jq -r '.changes[] | select(.kind == "added").path'
    """
    from remote_env.cli.lookup import find_sandbox

    with invocation.client() as client:
        changes = find_sandbox(client, name).diff()
    if invocation.as_json:
        screen.print_json({"changes": [change.model_dump(mode="json") for change in changes]})
        return
    for change in changes:
        screen.print_line(f"{_LETTERS[change.kind]} {change.path}")
    if not changes:
        screen.note("nothing has changed")


def snapshot(
    invocation: Invocation,
    name: Name,
    image: Annotated[str, typer.Argument(metavar="IMAGE", hidden=True)],
) -> None:
    """Make an image of a sandbox, and print the image's id.

    The image starts as the sandbox's own does (ENTRYPOINT, CMD, ENV, USER, WORKDIR), with what has changed in the file system
    since. An image that has the name loses it. The sandbox goes on meanwhile: let commands that write end first, since a file
    that is being written may be in the image half written. Mounted directories (--bind) are not in it.

    \b
    Examples:
      remote-env snapshot $SANDBOX my-project:deps-installed
      remote-env run my-project:deps-installed -- make test
    """
    from remote_env.cli.lookup import find_sandbox

    with invocation.client() as client:
        taken = find_sandbox(client, name).snapshot(image)
    if invocation.as_json:
        screen.print_json(taken.model_dump(mode="json"))
    else:
        screen.print_line(taken.image_id or taken.image)
        screen.note(f"{taken.image}, {show_size(taken.size_bytes or 0)} in all its layers")
