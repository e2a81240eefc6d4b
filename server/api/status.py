"""GET /health and GET /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from remote_env.protocol import Health
from server.api import docs
from server.api.exchange import JSON, answer
from server.api.services import Services
from server.gate import AUTHORIZED
from server.lifetime import Lifetime
from server.metrics import CONTENT_TYPE, Metrics


def status_routes(services: Services, metrics: Metrics, lifetime: Lifetime) -> APIRouter:
    router = APIRouter(tags=["server"])

    async def health(request: Request) -> Response:
        short = Health(status="stopping" if lifetime.stopping else "ok")
        if lifetime.stopping or not request.scope.get(AUTHORIZED, False):
            return Response(short.model_dump_json(exclude_none=True), media_type=JSON)  # says nothing of this machine
        return answer(await services.health())

    async def show_metrics(request: Request) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    described = docs.described(answer=Health)
    router.add_api_route("/health", health, methods=["GET"], summary="Alive? With the token: what is it", **described)
    router.add_api_route("/metrics", show_metrics, methods=["GET"], summary="Prometheus text", **docs.described())
    return router
