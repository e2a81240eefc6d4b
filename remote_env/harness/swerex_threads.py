"""The one place where the synchronous client meets asyncio.

Every call runs in a daemon thread of its own. Not in the event loop's executor: SWE-agent wraps each single call into an `asyncio.run`,
which would wait at its end for whatever that executor still does, and an interpreter that ends would wait for it, too.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

log = logging.getLogger("remote_env")


async def in_thread(call: Callable[[], Result]) -> Result:
    """What `call` returns or raises. Where the awaiting task is cancelled (Ctrl-C, `asyncio.wait_for`) the call goes on in its
    thread, as a request to SWE-ReX's own server would, and nobody hears of its end."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Result] = loop.create_future()

    def settle(result: list[Result], error: BaseException | None) -> None:
        if outcome.done():
            log.debug("a call for SWE-ReX has ended that nobody waits for any more", exc_info=error)
        elif error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result[0])

    def run() -> None:
        result: list[Result] = []
        error: BaseException | None = None
        try:
            result.append(call())
        except BaseException as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: its `asyncio.run` was interrupted
            log.debug("a call for SWE-ReX has ended after its event loop", exc_info=error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="remote-env-swerex", daemon=True).start()
    return await outcome
