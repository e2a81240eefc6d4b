"""The same client for asyncio: the same names and the same rules, with `await`. Needs the extra `remote-env[async]`.

from remote_env.aio import AsyncClient

async with AsyncClient() as client, await client.create_sandbox("python:3.12-slim") as sandbox:
    execution = await sandbox.run("python --version")
    print(await execution.text())
"""

from __future__ import annotations

from remote_env.aio.batch import run_batch
from remote_env.aio.client import AsyncClient
from remote_env.aio.eventstream import AsyncEventStream
from remote_env.aio.execution import AsyncExecution
from remote_env.aio.sandbox import AsyncSandbox
from remote_env.aio.session import AsyncSession
from remote_env.aio.terminal import AsyncTerminal

__all__ = ["AsyncClient", "AsyncEventStream", "AsyncExecution", "AsyncSandbox", "AsyncSession", "AsyncTerminal", "run_batch"]
