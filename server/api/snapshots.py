"""/v1/sandboxes/{id}/diff and /snapshot: what a sandbox has become, and an image of it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from remote_env.filemodels import Changes, Snapshot, SnapshotRequest
from remote_env.protocol import EPOCH_HEADER, SANDBOX_HEADER
from server.api import docs
from server.api.exchange import answer, epoch, path_id, preferred_wait, read
from server.api.services import Services


def snapshot_routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["sandboxes"])

    async def diff(request: Request) -> Response:
        sid, life = path_id(request), epoch(request)
        return answer(await services.diff(sid, life), headers={SANDBOX_HEADER: sid, EPOCH_HEADER: life})

    async def snapshot(request: Request) -> Response:
        sid, life = path_id(request), epoch(request)
        taken = await services.snapshot(sid, life, await read(request, SnapshotRequest), preferred_wait(request))
        return answer(taken, 201 if taken.state == "ready" else 202, {SANDBOX_HEADER: sid, EPOCH_HEADER: life})

    router.add_api_route(
        "/v1/sandboxes/{id}/diff", diff, methods=["GET"], summary="What changed against the image",
        **docs.described(docs.ID, docs.EPOCH, answer=Changes),
    )  # fmt: skip
    router.add_api_route(
        "/v1/sandboxes/{id}/snapshot", snapshot, methods=["POST"], summary="Make an image of a sandbox",
        **docs.described(docs.ID, docs.EPOCH, docs.PREFER, body=SnapshotRequest, answer=Snapshot, statuses=(201, 202)),
    )  # fmt: skip
    return router
