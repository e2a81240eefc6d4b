"""/v1/executions: start, ask, list, cancel, abandon, signal. The first two are every command's path: nothing is built twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import get_args

from fastapi import APIRouter, Request
from starlette.responses import Response

from remote_env.protocol import AbandonRequest, Execution, ExecutionList, ExecutionSpec, ExecutionState, SignalRequest
from server.api import docs
from server.api.exchange import answer, answer_execution, epoch, path_id, preferred_wait, queried_id, queried_wait, read
from server.api.reattach import Reattaches
from server.api.services import Services
from server.gate import ABOUT
from server.problems import ProblemError

START_PATH = "/v1/sandboxes/{id}/executions"
_STATES = get_args(ExecutionState)
_DEFAULT_LIMIT = 100
_LARGEST_LIMIT = 1000


Start = Callable[[Request], Awaitable[Response]]


def start_route(services: Services, reattaches: Reattaches) -> Start:
    """What answers POST START_PATH: every command begins here."""

    async def start(request: Request) -> Response:
        sid = path_id(request)
        given_epoch = epoch(request)
        spec = await read(request, ExecutionSpec)
        request.scope[ABOUT] = spec.id
        execution, new = await services.start_execution(sid, spec, given_epoch, preferred_wait(request))
        reattaches.answered(execution)
        if not execution.over:
            return answer_execution(execution, 202)
        return answer_execution(execution, 201 if new else 200)

    return start


def execution_routes(services: Services, reattaches: Reattaches, start: Start) -> APIRouter:
    router = APIRouter(tags=["executions"])

    async def show(request: Request) -> Response:
        eid, given_epoch, wait_s = path_id(request), epoch(request), queried_wait(request)
        if not wait_s:
            return answer_execution(await services.get_execution(eid, given_epoch, 0))
        reattaches.asked(eid)
        execution = await services.get_execution(eid, given_epoch, wait_s)
        reattaches.answered(execution)
        return answer_execution(execution)

    async def show_all(request: Request) -> Response:
        state = request.query_params.get("state")
        if state is not None and state not in _STATES:
            raise ProblemError("invalid", f"state: one of {', '.join(_STATES)}")
        opens = request.query_params.get("opens")
        if opens not in (None, "session"):
            raise ProblemError("invalid", "opens: session")
        limit = request.query_params.get("limit", str(_DEFAULT_LIMIT))
        if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and 1 <= int(limit) <= _LARGEST_LIMIT):
            raise ProblemError("invalid", f"limit: a number from 1 to {_LARGEST_LIMIT}")
        found = services.list_executions(
            id=queried_id(request, "id"), run_id=queried_id(request, "run_id"), sandbox_id=queried_id(request, "sandbox_id"),
            state=state, opens=opens, limit=int(limit),
        )  # fmt: skip
        return answer(ExecutionList(executions=found))

    async def cancel(request: Request) -> Response:
        execution = await services.cancel(path_id(request), epoch(request))
        return answer_execution(execution, 200 if execution.over else 202)

    async def abandon(request: Request) -> Response:
        eid, given_epoch = path_id(request), epoch(request)
        asked = await read(request, AbandonRequest)
        execution = await services.abandon(eid, asked.sandbox_id, given_epoch, preferred_wait(request))
        return answer_execution(execution, 202 if execution.state == "accepted" else 200)

    async def signal(request: Request) -> Response:
        eid, given_epoch = path_id(request), epoch(request)
        asked = await read(request, SignalRequest)
        return answer_execution(await services.signal(eid, given_epoch, asked.signal))

    router.add_api_route(
        START_PATH, start, methods=["POST"], summary="Run a command, at most once",
        **docs.described(docs.ID, docs.EPOCH, docs.PREFER, body=ExecutionSpec, answer=Execution, statuses=(201, 200, 202)),
    )  # fmt: skip
    router.add_api_route(
        "/v1/executions/{id}", show, methods=["GET"], summary="Show an execution, or wait for it",
        **docs.described(docs.ID, docs.EPOCH, docs.WAIT, answer=Execution),
    )  # fmt: skip
    router.add_api_route(
        "/v1/executions", show_all, methods=["GET"], summary="List executions, newest first",
        **docs.described(
            docs.query("id", "Only this one."), docs.query("run_id", "Only this run's."), docs.query("sandbox_id", "Only this sandbox's."),
            docs.query("state", "Only those in this state."), docs.query("opens", "`session`: only the shells of sessions."),
            docs.query("limit", f"At most so many; {_DEFAULT_LIMIT}.", "integer"),
            answer=ExecutionList,
        ),
    )  # fmt: skip
    router.add_api_route(
        "/v1/executions/{id}/cancel", cancel, methods=["POST"], summary="Cancel an execution",
        **docs.described(docs.ID, docs.EPOCH, answer=Execution, statuses=(202, 200)),
    )  # fmt: skip
    router.add_api_route(
        "/v1/executions/{id}/abandon", abandon, methods=["POST"], summary="Fence an id that may never have arrived",
        **docs.described(docs.ID, docs.EPOCH, docs.PREFER, body=AbandonRequest, answer=Execution, statuses=(200, 202)),
    )  # fmt: skip
    router.add_api_route(
        "/v1/executions/{id}/signal", signal, methods=["POST"], summary="Send a signal to a command",
        **docs.described(docs.ID, docs.EPOCH, body=SignalRequest, answer=Execution),
    )  # fmt: skip
    return router
