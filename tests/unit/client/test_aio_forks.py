"""An `AsyncClient` in a process that forks: the parent's connections are the parent's, and the child says nothing of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.unit.client.fakeserver import TOKEN, FakeServer

SCRIPT = """
import asyncio, gc, os, sys
from remote_env.aio import AsyncClient

url, token, how = sys.argv[1:]

async def asks(client):
    return (await client.health()).version

async def child(client):
    if how == "used":
        await asks(client)
        await client.close()

async def parent():
    async with AsyncClient(url, token) as client:
        await asks(client)
        pid = os.fork()
        if pid == 0:
            asyncio.events._set_running_loop(None)
            asyncio.run(child(client))
            gc.collect()
            os._exit(0)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0, status
        await asks(client)

asyncio.run(parent())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("how", ["used", "unused"])
def test_forked_child_leaves_its_parents_connection_alone_and_says_nothing(fake: FakeServer, how: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, fake.url, TOKEN, how], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert fake.connections == (2 if how == "used" else 1)


ASIDE = """
import asyncio, os
from remote_env.aio.lanes import OffLoop

aside = OffLoop()
assert asyncio.run(aside.run(os.getpid)) == os.getpid()
pid = os.fork()
if pid == 0:
    assert asyncio.run(asyncio.wait_for(aside.run(os.getpid), 20)) == os.getpid()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child_does_local_work_in_threads_of_its_own() -> None:
    subprocess.run([sys.executable, "-c", ASIDE], check=True, timeout=60)
