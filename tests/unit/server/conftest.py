from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.server.harness import RunningServer


@pytest.fixture
def server() -> Iterator[RunningServer]:
    running = RunningServer()
    yield running
    running.stop()
