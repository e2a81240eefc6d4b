"""An unpacking that is given up, even while it cleans up, leaves no handle with the agent."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server import fileunpacking
from server.fileagent import FileAgent
from server.fileunpacking import TreeUnpacker, unpack


def test_a_cancel_during_the_cleaning_up_gives_the_directory_s_handle_back(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[int] = []

    async def ask(*args: Any, **more: Any) -> Any:
        return SimpleNamespace(handle=7)

    async def writes() -> bool:
        return True

    async def cancelled(self: TreeUnpacker, *args: Any) -> None:
        raise asyncio.CancelledError

    agent = cast(FileAgent, SimpleNamespace(ask=ask, writes=writes, release=released.append))
    monkeypatch.setattr(fileunpacking.TreeUnpacker, "take", cancelled)
    monkeypatch.setattr(fileunpacking.TreeUnpacker, "close", cancelled)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(unpack(agent, b"/tree", cast(Any, None), hashed=True, parents=False))
    assert released == [7]
