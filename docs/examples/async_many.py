"""A thousand commands at once from one process: `python async_many.py [IMAGE] [COMMANDS]`.

Needs `pip install 'remote-env[async]'` and a server (REMOTE_ENV_URL, REMOTE_ENV_TOKEN). A thousand connections are a thousand file
descriptors: raise `ulimit -n` where it is 1024.
"""

# ruff: noqa: T201

from __future__ import annotations

import asyncio
import sys

from remote_env import NotRunError, OutcomeUnknownError
from remote_env.aio import AsyncClient, AsyncSandbox

SANDBOXES = 4


async def squared(sandbox: AsyncSandbox, number: int) -> int | None:
    try:
        execution = await sandbox.run(f"echo $(({number} * {number}))", timeout_s=60)
    except NotRunError:  # it did not run and never will: it may be sent again, as a new command
        return None
    except OutcomeUnknownError as error:  # it may have run: ask for it by its id, do not send it again
        print(f"{number}: {error} ({error.execution_id})", file=sys.stderr)
        return None
    return int(await execution.text())


async def main(image: str = "python:3.12-slim", commands: str = "1000") -> None:
    numbers = range(int(commands))
    async with AsyncClient() as client:
        sandboxes = await asyncio.gather(*(client.create_sandbox(image, memory_bytes=512 << 20) for _ in range(SANDBOXES)))
        try:
            squares = await asyncio.gather(*(squared(sandboxes[number % SANDBOXES], number) for number in numbers))
        finally:
            await asyncio.gather(*(sandbox.remove() for sandbox in sandboxes))
    print(f"{sum(square == number * number for number, square in zip(numbers, squares, strict=True))} of {len(numbers)} are right")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
