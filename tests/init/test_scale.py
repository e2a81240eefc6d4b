"""Many at once, and many one after another."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.init.harness import Init
from tests.init.processes import children
from tests.init.soak import soak


def test_a_thousand_executions_at_once_survive_their_server(start_init: Callable[..., Init], plain_binary: Path) -> None:
    init = start_init(plain_binary)
    server = init.server
    server.connect()
    read_end, write_end = os.pipe()
    runs = [server.run(f"echo before {i}; read line; echo after {i}; exit {i % 250}", stdin=read_end) for i in range(1000)]
    server.wait_for(lambda: all(run.started for run in runs), "a thousand starts")
    server.die()
    hello = server.connect()
    assert (hello.pipes, len(hello.entries)) == (1000, 1000)
    assert all(entry.ending is None for entry in hello.entries)
    for end in (read_end, write_end):  # the end of their stdin
        os.close(end)
    for i, run in enumerate(runs):
        server.finished(run)
        assert run.text == f"before {i}\nafter {i}\n"
        assert run.exit_code == i % 250
    server.all_said()
    assert children(init.pid) == []


def test_a_thousand_kept_endings_fit_a_hello(start_init: Callable[..., Init], plain_binary: Path) -> None:
    init = start_init(plain_binary)
    server = init.server
    server.connect()
    skipped = [server.skip() for _ in range(1500)]
    server.wait_for(lambda: all(execution.ended for execution in skipped), "the endings")
    server.hang_up()
    hello = server.connect()
    assert [entry.number for entry in sorted(hello.entries, key=lambda entry: entry.number)] == list(range(1, 1501))


@pytest.mark.usefixtures("as_root")
def test_thousands_in_a_row_leave_nothing_behind(start_init: Callable[..., Init], plain_binary: Path) -> None:
    soak(start_init(plain_binary), 3_000)
