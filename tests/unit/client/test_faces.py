"""The two faces of the client beside each other: the same fate, the same result."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote_env import Client
from remote_env.aio import AsyncClient
from remote_env.aio.transport import AsyncTransport
from remote_env.config import Endpoint
from remote_env.errors import NotRunError, OutcomeUnknownError, RemoteEnvError
from remote_env.protocol import Outcome
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, TOKEN, FakeServer, Fault, refusal

START = r"/v1/sandboxes/[^/]+/executions$"
CANCELLED = Outcome(kind="cancelled", ran=True)


def in_loop(act: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(act, 60))


def transport(url: str, **options: Any) -> AsyncTransport:
    return AsyncTransport(Endpoint(url, **options), FAST)


POSTS = {
    "lost": CUT_BEFORE,
    "answer lost": CUT_AFTER,
    "proxy": Fault(answer=(502, {}, b"<html>")),
    **{code: refusal(code) for code in ("too_many", "stopping", "invalid", "gone", "internal", "unauthorized")},
}
READS = {"lost": CUT_BEFORE, "answer lost": CUT_AFTER, "token": refusal("unauthorized"), "epoch": refusal("epoch_mismatch")}
FENCES = {**READS, "gone": refusal("gone"), "busy": refusal("too_many")}


def fates(faults: dict[str, Fault], most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(faults)), max_size=most)


def scripted(posts: list[str], reads: list[str], fences: list[str]) -> FakeServer:
    fake = FakeServer()
    fake.on("POST", START, *(POSTS[name] for name in posts))
    fake.on("GET", r"/v1/executions/[^/]+$", *(READS[name] for name in reads))
    fake.on("POST", "/abandon$", *(FENCES[name] for name in fences))
    return fake


def with_threads(fake: FakeServer, **options: Any) -> object:
    with Client(fake.url, TOKEN, timings=FAST) as client:
        sandbox = client.create_sandbox("image", id="the-sandbox", run_id="the-same-run")
        try:
            return told(fake, sandbox.run("echo same", **options))
        except RemoteEnvError as error:
            return told(fake, error)


async def with_tasks(fake: FakeServer, **options: Any) -> object:
    async with AsyncClient(fake.url, TOKEN, timings=FAST) as client:
        sandbox = await client.create_sandbox("image", id="the-sandbox", run_id="the-same-run")
        try:
            return told(fake, await sandbox.run("echo same", **options))
        except RemoteEnvError as error:
            return told(fake, error)


def told(fake: FakeServer, result: Any) -> object:
    """What the caller saw, and what the server."""
    if isinstance(result, RemoteEnvError):
        result = type(result), "not run" if isinstance(result, NotRunError) else "unknown"
    else:
        result = result.returncode, result.attempts, result.outcome
    seen = [(request.method, request.path.rpartition("/")[2][:9]) for request in fake.requests if "leases" not in request.path]
    return result, fake.started, [word if word in WORDS else "an id" for _, word in seen], [method for method, _ in seen]


WORDS = ("sandboxes", "execution", "abandon")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    posts=fates(POSTS, 4),
    reads=fates(READS, 3),
    fences=fates(FENCES, 3),
    fresh=st.booleans(),
    idempotent=st.booleans(),
    again=st.booleans(),
)
def test_one_fate_has_one_result_and_the_same_requests_in_both_faces(
    posts: list[str], reads: list[str], fences: list[str], fresh: bool, idempotent: bool, again: bool
) -> None:
    options: dict[str, Any] = {"idempotent": idempotent, "on_undelivered": "redeliver" if again else "raise"}
    if not fresh:
        options["id"] = "the-command"
    with scripted(posts, reads, fences) as one, scripted(posts, reads, fences) as other:
        assert with_threads(one, **options) == asyncio.run(with_tasks(other, **options))


def test_an_unknown_outcome_is_asked_for_later_by_either_face(fake: FakeServer) -> None:
    async def act() -> str:
        async with AsyncClient(fake.url, TOKEN, timings=replace(FAST, minimum_call_s=0.05, call_margin_s=0.0)) as client:
            sandbox = await client.create_sandbox("image")
            with pytest.raises(OutcomeUnknownError) as raised:
                await sandbox.run("hang", timeout_s=0.05)
            assert raised.value.execution_id is not None
            return raised.value.execution_id

    execution_id = asyncio.run(act())
    fake.finish(execution_id, Outcome(kind="exited", ran=True, code=7), b"kept\n")
    with Client(fake.url, TOKEN, timings=FAST) as client:
        assert client.execution(execution_id).wait().text == "kept\n"
