"""One logic, two faces: what the client does is written once, as coroutines over a transport.

The asyncio face awaits them. The other face drives them: its transport's awaitables never suspend (they block, as a thread
may), so a coroutine over it runs from beginning to end like a function. No event loop, no thread; Ctrl-C lands where it always did.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def drive(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Runs the coroutine to its end, in this thread. Raises what it raises; RuntimeError for one that waits for an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits for an event loop, and there is none here")
