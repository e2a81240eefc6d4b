"""GET /v1/executions/{id}/events: live output and state as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from server.api import docs, sse
from server.api.exchange import epoch, path_id
from server.api.services import Services
from server.correlation import Correlation
from server.events import Event, Position
from server.gate import STREAM
from server.metrics import Metrics
from server.problems import ProblemError

LAST_EVENT_ID = "Last-Event-ID"
# No cache may keep it, and no proxy may hold it back or change it.
_HEADERS = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}


class EventStream(StreamingResponse):
    """Events one by one, each taken only when the one before could be written. Ends with the generator, or with the consumer."""

    media_type = sse.MEDIA_TYPE

    def __init__(self, events: AsyncGenerator[Event, None], about: Correlation, metrics: Metrics) -> None:
        super().__init__((), headers={**_HEADERS, **about.headers()})
        self._events = events
        self._metrics = metrics

    async def stream_response(self, send: Send) -> None:
        with self._metrics.stream():
            async with aclosing(self._events) as events:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for event in events:
                    body = sse.encode(event)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    self._metrics.stream_bytes(len(body))
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def _asked_position(request: Request) -> Position | None:
    """Where the client wants to begin; None: with what comes from now on. () stands for the beginning of every stream."""
    last = request.headers.get(LAST_EVENT_ID)
    if last:
        position = sse.parse_position(last)
        if position is None:
            raise ProblemError("invalid", f"{LAST_EVENT_ID}: no position of this execution")
        return position
    begin = request.query_params.get("from", "start")
    if begin not in ("start", "now"):
        raise ProblemError("invalid", "from: start or now")
    return () if begin == "start" else None


def event_routes(services: Services, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["executions"])

    async def events(request: Request) -> Response:
        eid, given_epoch = path_id(request), epoch(request)
        about, found = services.follow(eid, given_epoch, _asked_position(request))
        request.scope[STREAM] = True
        return EventStream(found, about, metrics)

    router.add_api_route(
        "/v1/executions/{id}/events", events, methods=["GET"], summary="Follow an execution",
        **docs.described(
            docs.ID, docs.EPOCH, docs.query("from", "`start` (the default) or `now`."),
            {"name": LAST_EVENT_ID, "in": "header", "schema": {"type": "string"}, "description": "Go on behind the event with this id."},
        ),
    )  # fmt: skip
    return router
