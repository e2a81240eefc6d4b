"""SWE-ReX's own client in a process of its own, which knows nothing of this project: requests and answers as lines of JSON.

{"number", "connect": [host, port, token]} → {"number"}          from now on commands go there
{"number", "alive": true}                  → {"number", "alive"}
{"number", "command"}                      → {"number", "output", "exit_code"} or {"number", "error"}
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from swerex.runtime.abstract import Command  # type: ignore[import-not-found]
from swerex.runtime.remote import RemoteRuntime  # type: ignore[import-not-found]


async def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    runtime: Any = None
    under_way: set[asyncio.Task[None]] = set()

    async def carry_out(request: dict[str, Any], runtime: Any) -> None:
        try:
            answer = await perform(request, runtime)
        except Exception as error:  # whatever it is, it is the answer that its caller gets
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps({"number": request["number"], **answer}) + "\n")
        answers.flush()

    while line := await lines.readline():
        request = json.loads(line)
        if "connect" in request:
            host, port, token = request["connect"]
            runtime = RemoteRuntime(host=host, port=port, auth_token=token)
        task = asyncio.create_task(carry_out(request, runtime))
        under_way.add(task)
        task.add_done_callback(under_way.discard)


async def perform(request: dict[str, Any], runtime: Any) -> dict[str, Any]:
    if "alive" in request:
        return {"alive": bool(await runtime.is_alive(timeout=1.0))}
    if "command" not in request:
        return {}
    response = await runtime.execute(Command(command=request["command"], shell=True))
    return {"output": response.stdout + response.stderr, "exit_code": response.exit_code}


if __name__ == "__main__":
    asyncio.run(main())
