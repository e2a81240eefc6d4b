"""Making a sandbox while telling a person what is being waited for."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

from remote_env.cli import screen
from remote_env.errors import RemoteEnvError

if TYPE_CHECKING:
    from remote_env.client import Client
    from remote_env.sandbox import Sandbox

_QUIET_S = 1.0  # most sandboxes are made sooner
_LOOK_S = 0.5


def create_with_progress(client: Client, image: str, options: dict[str, Any]) -> Sandbox:
    """`client.create_sandbox`, with the server's words on its progress on stderr. Raises as that does."""
    over = threading.Event()
    show = _show_live if sys.stderr.isatty() else _show_lines
    teller = threading.Thread(target=show, args=(client, image, over), name="remote-env-progress", daemon=True)
    teller.start()
    try:
        return client.create_sandbox(image, **options)
    finally:
        over.set()
        teller.join()


def _show_live(client: Client, image: str, over: threading.Event) -> None:
    if over.wait(_QUIET_S):
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(f"making a sandbox from {image}") as status:
        while not over.wait(_LOOK_S):
            words = _progress(client, image)
            if words:
                status.update(Text(words))  # not markup: the server's words hold brackets


def _show_lines(client: Client, image: str, over: threading.Event) -> None:
    """For a log: one line when it takes long, no bar."""
    if over.wait(_QUIET_S):
        return
    while not over.wait(_LOOK_S):
        words = _progress(client, image)
        if words:
            screen.note(words.partition(": ")[0])
            return


def _progress(client: Client, image: str) -> str | None:
    try:
        making = client.sandboxes(run_id=client.run_id, state="creating")
    except RemoteEnvError:
        return None  # the create itself will say what is wrong
    return next((sandbox.record.progress for sandbox in making if sandbox.record.image == image), None)
