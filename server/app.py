"""The HTTP application: its routes, and what becomes of everything that goes wrong on the way to them."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from remote_env.problems import NO_SUCH_ROUTE
from remote_env.protocol import PROTOCOL_VERSION, Problem
from server.api import docs
from server.api.direct import Direct
from server.api.events import event_routes
from server.api.execute import execute_routes
from server.api.executions import execution_routes, start_route
from server.api.files import file_routes
from server.api.output import output_routes
from server.api.reattach import Reattaches
from server.api.sandboxes import sandbox_routes
from server.api.services import Services
from server.api.snapshots import snapshot_routes
from server.api.status import status_routes
from server.api.terminal import terminal_routes
from server.auth import Auth
from server.gate import Gate, named_id
from server.journal import CommitFailed
from server.lifetime import Lifetime
from server.metrics import Metrics
from server.problems import ProblemError, problem_response
from server.settings import Settings


def create_app(services: Services, settings: Settings, auth: Auth, metrics: Metrics, lifetime: Lifetime | None = None) -> FastAPI:
    """The application.

    Args:
        services: does what is asked for.
        lifetime: tells when the server stops, and is told of a failed commit. Default: one that lasts.
    """
    life = lifetime or Lifetime()
    life.on_stop(services.end_waits)
    app = FastAPI(
        title="remote-env", version=f"{PROTOCOL_VERSION}", summary="Runs a command at most once, and never loses its result.",
        docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False,
    )  # fmt: skip
    # First those that every command takes: routes are tried in order.
    reattaches = Reattaches(metrics)
    start = start_route(services, reattaches)
    app.include_router(execution_routes(services, reattaches, start))
    app.include_router(output_routes(services))
    app.include_router(event_routes(services, metrics))
    app.include_router(terminal_routes(services, services.terminals, metrics))
    app.include_router(sandbox_routes(services))
    app.include_router(file_routes(services, life))
    app.include_router(snapshot_routes(services))
    app.include_router(execute_routes(services, settings, life))
    app.include_router(status_routes(services, metrics, life))
    app.openapi = docs.openapi_of(app)  # type: ignore[method-assign]

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        problem = error.problem
        if problem.code == "commit_failed":
            life.restart(problem.detail)
        if problem.id is None:
            problem = problem.model_copy(update={"id": named_id(request.scope)})
        return problem_response(problem, error.about.headers() if error.about is not None else None)

    async def on_commit_failed(request: Request, error: Exception) -> Response:
        life.restart(str(error))
        detail = f"whether the request was accepted is unknown: {error}; the server starts again from its journal"
        return problem_response(Problem.of("commit_failed", detail, id=named_id(request.scope)))

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
        detail = f"{request.method} {request.url.path} {NO_SUCH_ROUTE}"
        return problem_response(Problem.of(code, detail, id=named_id(request.scope)), error.headers)

    app.add_middleware(Direct, start=start, on_problem=on_problem, on_commit_failed=on_commit_failed)
    app.add_middleware(Gate, auth=auth, lifetime=life, instance_id=services.instance_id)  # whoever is added last is passed first
    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(CommitFailed, on_commit_failed)
    app.add_exception_handler(HTTPException, on_http_exception)
    return app
