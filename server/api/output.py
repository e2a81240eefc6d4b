"""GET /v1/executions/{id}/output: the kept bytes as they are, in parts where asked for."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from remote_env.digest import DIGEST_HEADER, content_digest
from remote_env.protocol import Problem
from server.api import docs
from server.api.exchange import epoch, path_id, queried_wait
from server.api.services import OutputSlice, Services
from server.problems import ProblemError, problem_response

STATE_HEADER = "X-Remote-Env-State"
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")
_DIGESTED = 1 << 20  # bytes; a longer answer is not held in memory whole, the sha256 of the whole output has to do for it
_BYTES = "application/octet-stream"
_STREAM = docs.query("stream", "`stdout` or `stderr` where they are apart; left out: the merged output, or stdout.")


def parse_range(header: str | None) -> tuple[int, int | None] | None:
    """First byte and the byte after the last (None: up to the end) of `bytes=a-b` or `bytes=a-`. Other forms are no Range, as
    RFC 9110 §14.2 allows: the whole is answered."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    start, last = int(match[1]), None if match[2] is None else int(match[2])
    if last is None:
        return start, None
    return (start, last + 1) if last >= start else None


async def shape(part: OutputSlice, ranged: bool) -> Response:
    """The answer for a slice: 200 whole, 206 part, 204 nothing yet, 416 beyond the end."""
    headers = {STATE_HEADER: part.state, "Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff"}
    if part.about is not None:
        headers |= part.about.headers()
    if ranged and part.total is not None and part.start >= part.total:
        problem = Problem.of("range_not_satisfiable", f"the output ends after {part.total} bytes")
        return problem_response(problem, {**headers, "Content-Range": f"bytes */{part.total}"})
    if ranged and part.end <= part.start:
        return Response(None, 204, headers)
    if ranged:
        total = "*" if part.total is None else str(part.total)
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{total}"
    if part.end - part.start <= _DIGESTED:
        body = b"".join([chunk async for chunk in part.chunks])
        return Response(body, 206 if ranged else 200, {**headers, DIGEST_HEADER: content_digest(body)}, _BYTES)
    # With the length said beforehand a broken stream cannot look like a whole one.
    headers["Content-Length"] = str(part.end - part.start)
    return StreamingResponse(part.chunks, 206 if ranged else 200, headers, _BYTES)


def output_routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["executions"])

    async def output(request: Request) -> Response:
        eid, given_epoch, wait_s = path_id(request), epoch(request), queried_wait(request)
        stream = request.query_params.get("stream")
        if stream not in (None, "merged", "stdout", "stderr"):
            raise ProblemError("invalid", "stream: give stdout, stderr or merged", id=eid)
        span = parse_range(request.headers.get("range"))
        start, end = span or (0, None)
        part = await services.output(eid, given_epoch, start, end, wait_s, stream)
        return await shape(part, span is not None)

    router.add_api_route(
        "/v1/executions/{id}/output", output, methods=["GET"], summary="The output's kept bytes",
        **docs.described(docs.ID, docs.EPOCH, docs.WAIT, docs.RANGE, _STREAM, statuses=(200, 206, 204)),
    )  # fmt: skip
    return router
