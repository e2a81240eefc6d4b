"""`run_batch` for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from remote_env.aio.client import AsyncClient
from remote_env.aio.sandbox import AsyncSandbox
from remote_env.batch.batchresult import BatchResult, Environment, environment_of, is_infrastructure
from remote_env.creation import forget_sandbox
from remote_env.errors import InvalidSpec

J = TypeVar("J")
V = TypeVar("V")

_END: Any = object()


async def run_batch(
    jobs: Iterable[J] | AsyncIterable[J],
    fn: Callable[[AsyncSandbox, J], Awaitable[V]],
    *,
    workers: int = 8,
    image: Environment[J] = None,
    client: AsyncClient | None = None,
    **options: Any,
) -> AsyncGenerator[BatchResult[J, V], None]:
    """Awaits `fn(sandbox, job)` for every job, `workers` at a time, and yields the results in the order in which they are complete.

    Args:
        jobs: taken one by one as workers become free; may be asynchronous.
        fn: a coroutine function; gets an `AsyncSandbox` that was made for this job alone and is removed after it.
        workers: tasks, and sandboxes at once at most. Where the server has no room a job waits, up to `Timings.queue_s`.
        image: of the sandboxes; or a function of the job: an image, or a mapping of arguments of `AsyncClient.create_sandbox`,
            which come before `options`. None: `options`, or the job itself (a mapping), has one under "image".
        client: a client to share; None: one is made, for the server that the process's environment names.
        options: further arguments of `AsyncClient.create_sandbox`, for all jobs; sizes in bytes.

    Yields:
        A `BatchResult` for each job, as `remote_env.run_batch` does. Cancellation is no result: it ends the batch.

    Raises:
        InvalidSpec: an argument cannot be used; nothing was begun.
        What iterating over `jobs` raises: after the results of those that were begun.

    Leaving the loop early, `aclose()`, or a cancellation of who iterates cancels what runs and removes its sandboxes before it
    goes on; wrap it in `contextlib.aclosing` to have that at once and not when the generator is collected.
    """
    if workers < 1:
        raise InvalidSpec(f"workers must be at least 1, not {workers}")
    source = _numbered(jobs)
    done: asyncio.Queue[BatchResult[J, V] | BaseException | None] = asyncio.Queue()
    taking = asyncio.Lock()
    stopped = False
    shared = client or AsyncClient()

    async def take() -> Any:
        nonlocal stopped
        async with taking:
            if stopped:
                return _END
            try:
                return await anext(source)
            except StopAsyncIteration:
                stopped = True
                return _END
            except BaseException:
                stopped = True  # the others finish what they have
                raise

    async def work() -> None:
        nonlocal stopped
        failure: BaseException | None = None
        try:
            while (taken := await take()) is not _END:
                done.put_nowait(await _carry_out(shared, fn, image, options, *taken))
        except BaseException as error:  # raised again by whoever takes the results; a cancellation, too, which may be the function's own
            failure = error
            stopped = True
        done.put_nowait(failure)

    tasks = [asyncio.create_task(work(), name=f"remote-env-batch-{number}") for number in range(workers)]
    failure: BaseException | None = None
    try:
        working = len(tasks)
        while working:
            found = await done.get()
            if isinstance(found, BatchResult):
                yield found
                continue
            working -= 1
            failure = failure or found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if client is None:
            await shared.close()
    if failure is not None:
        raise failure


async def _numbered(jobs: Iterable[J] | AsyncIterable[J]) -> AsyncIterator[tuple[int, J]]:
    index = 0
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield index, job
            index += 1
    else:
        for job in jobs:
            yield index, job
            index += 1


async def _carry_out(
    client: AsyncClient, fn: Callable[[AsyncSandbox, J], Awaitable[V]], image: Environment[J], options: dict[str, Any], index: int, job: J
) -> BatchResult[J, V]:
    began, began_at = time.monotonic(), time.time()
    value: V | None = None
    exception: BaseException | None = None
    infrastructure = True  # until the function is called
    sandbox: AsyncSandbox | None = None
    try:
        arguments = environment_of(image, options, job)
        sandbox = await client.create_sandbox(arguments.pop("image"), **arguments)
        infrastructure = False
        value = await fn(sandbox, job)
        infrastructure = sandbox.gone is not None
    except Exception as error:  # kept with its job
        exception = error
        infrastructure = infrastructure or is_infrastructure(error)
    finally:
        if sandbox is not None:
            sandbox.mark_gone("its job has ended")
            await forget_sandbox(client.exchange, sandbox.id, wait_s=client.timings.farewell_s)
    return BatchResult(index, job, value, exception, infrastructure, sandbox.id if sandbox else None, began_at, time.monotonic() - began)
