"""POST /execute: the whole thing in one call, for curl and simple clients. The same path as any other execution."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from remote_env.answer import execute_answer
from remote_env.protocol import COMMAND_TIMEOUT_S, ExecuteAnswer, ExecuteRequest, Execution, ExecutionSpec, new_id
from server.api import docs
from server.api.exchange import JSON, answer, epoch, read
from server.api.services import Services
from server.correlation import Correlation
from server.gate import ABOUT
from server.lifetime import Lifetime
from server.problems import ProblemError
from server.settings import Settings


def execute_routes(services: Services, settings: Settings, lifetime: Lifetime) -> APIRouter:
    router = APIRouter(tags=["execute"])

    async def accept(request: Request) -> tuple[str, ExecutionSpec, str | None]:
        asked = await read(request, ExecuteRequest)
        if asked.cwd and not asked.cwd.startswith("/"):
            raise ProblemError("invalid", "cwd: not an absolute path", id=asked.id)
        spec = ExecutionSpec(
            id=asked.id or new_id(), command=asked.command, workdir=asked.cwd or None,
            timeout_s=asked.timeout or min(COMMAND_TIMEOUT_S, settings.max_timeout_s),
        )  # fmt: skip
        request.scope[ABOUT] = spec.id
        given_epoch = epoch(request) if asked.id else None  # EPOCHREQ: an id of the caller's says whose command it is
        sid = asked.sandbox
        if sid is None:
            sid, own_epoch = await services.default_sandbox()
            given_epoch = given_epoch or own_epoch
        return sid, spec, given_epoch

    async def kept_output(execution: Execution) -> bytes:
        inline = execution.output.inline()
        if inline is not None or not execution.over or execution.output.purged:
            return inline or b""
        part = await services.output(execution.id, execution.epoch, 0, None, 0)
        return b"".join([chunk async for chunk in part.chunks])

    async def later(execution: Execution) -> AsyncIterator[bytes]:
        while not execution.over and not lifetime.stopping:
            yield b" "  # JSON may begin with white space; nothing on the way sees a silent connection
            execution = await services.get_execution(execution.id, execution.epoch, settings.keep_alive_s)
        result = execute_answer(execution, await kept_output(execution))
        yield result.__pydantic_serializer__.to_json(result)

    async def execute(request: Request) -> Response:
        sid, spec, given_epoch = await accept(request)
        execution, _ = await services.start_execution(sid, spec, given_epoch, settings.keep_alive_s)
        about = Correlation.of(execution).headers()
        if execution.over:
            return answer(execute_answer(execution, await kept_output(execution)), headers=about)
        return StreamingResponse(later(execution), 200, about, JSON)

    router.add_api_route(
        "/execute", execute, methods=["POST"], summary="Run a command and answer with its result",
        **docs.described(body=ExecuteRequest, answer=ExecuteAnswer),
    )  # fmt: skip
    return router
