"""Sandboxes as Inspect makes and removes them around a sample, for tests that are no coroutines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from remote_env.harness.inspect_ai import RemoteEnvSandboxEnvironment as Provider


def go(call: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
    """What the coroutine returns, in an event loop of its own."""

    async def run() -> Any:
        return await call(*args, **options)

    return anyio.run(run)


@contextmanager
def made(config: Any) -> Iterator[dict[str, Any]]:
    """The sandboxes of one sample, by name: begun and ended as Inspect does."""

    async def begin() -> dict[str, Any]:
        await Provider.task_init("test", config)
        return dict(await Provider.sample_init("test", config, {}))

    async def end() -> None:
        await Provider.sample_cleanup("test", config, environments, False)
        await Provider.task_cleanup("test", config, True)

    environments = anyio.run(begin)
    try:
        yield environments
    finally:
        anyio.run(end)


def wait_for(path: str) -> list[str]:
    """A command that ends once the path is there."""
    return ["sh", "-c", f"until [ -e {path} ]; do sleep 0.02; done"]
