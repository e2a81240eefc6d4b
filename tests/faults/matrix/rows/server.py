"""The server stops, dies, freezes."""

from __future__ import annotations

from tests.faults.matrix.arena import Arena
from tests.faults.matrix.row import row


@row(
    "sigterm-restart",
    "SIGTERM with 100 commands running, then a restart",
    "SIGTERM to the server's process; started again",
    "server",
    short=24,
)
def sigterm_restart(arena: Arena) -> None:
    arena.drive([arena.traffic.command()])
    waves, width = max(1, arena.commands // 100), min(100, arena.commands)
    for _ in range(waves):
        commands = arena.traffic.commands(width, sleep_s=2.0 * max(arena.scale, 0.5), lines=40)
        before = sum(arena.runs().values())
        with arena.meanwhile(commands, workers=width):
            arena.until(lambda before=before: sum(arena.runs().values()) >= before + width // 2, "half of them run")
            assert arena.server.stop() == 0
            arena.server.start()
    arena.note(f"{waves} orderly stops")
