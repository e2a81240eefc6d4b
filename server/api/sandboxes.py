"""/v1/sandboxes and /v1/leases."""

from __future__ import annotations

from typing import get_args

from fastapi import APIRouter, Request
from starlette.responses import Response

from remote_env.protocol import LeaseAnswer, LeaseRenewal, Sandbox, SandboxList, SandboxSpec, SandboxState
from server.api import docs
from server.api.exchange import answer, path_id, preferred_wait, queried_id, queried_wait, read
from server.api.services import Services
from server.gate import ABOUT
from server.problems import ProblemError

_STATES = (*get_args(SandboxState), "all")
_TRUE = ("true", "1", "")


def sandbox_routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["sandboxes"])

    async def create(request: Request) -> Response:
        spec = await read(request, SandboxSpec)
        request.scope[ABOUT] = spec.id
        sandbox, new = await services.create_sandbox(spec, preferred_wait(request))
        if sandbox.state == "creating":
            return answer(sandbox, 202)
        return answer(sandbox, 201 if new else 200)

    async def show(request: Request) -> Response:
        return answer(await services.get_sandbox(path_id(request), queried_wait(request)))

    async def show_all(request: Request) -> Response:
        state = request.query_params.get("state")
        if state is not None and state not in _STATES:
            raise ProblemError("invalid", f"state: one of {', '.join(_STATES)}")
        return answer(SandboxList(sandboxes=services.list_sandboxes(queried_id(request, "run_id"), state)))

    async def remove(request: Request) -> Response:
        sid = path_id(request)
        purge = request.query_params.get("purge", "false").lower() in _TRUE
        sandbox = await services.remove_sandbox(sid, purge, preferred_wait(request))
        return answer(sandbox, 202 if sandbox.state == "removing" else 200)

    async def renew(request: Request) -> Response:
        renewal = await read(request, LeaseRenewal)
        answers = [services.renew(run_id) for run_id in dict.fromkeys((renewal.run_id, *renewal.run_ids))]
        return answer(_together(answers) if len(answers) > 1 else answers[0])

    run_id = docs.query("run_id", "Only this run's.")
    router.add_api_route(
        "/v1/sandboxes", create, methods=["POST"], summary="Make a sandbox",
        **docs.described(docs.PREFER, body=SandboxSpec, answer=Sandbox, statuses=(201, 200, 202)),
    )  # fmt: skip
    router.add_api_route(
        "/v1/sandboxes", show_all, methods=["GET"], summary="List sandboxes",
        **docs.described(run_id, docs.query("state", "One state, or `all`; live ones by default."), answer=SandboxList),
    )  # fmt: skip
    router.add_api_route(
        "/v1/sandboxes/{id}", show, methods=["GET"], summary="Show a sandbox",
        **docs.described(docs.ID, docs.WAIT, answer=Sandbox),
    )  # fmt: skip
    router.add_api_route(
        "/v1/sandboxes/{id}", remove, methods=["DELETE"], summary="Remove a sandbox",
        **docs.described(
            docs.ID, docs.PREFER, docs.query("purge", "Erase its results at once.", "boolean"), answer=Sandbox, statuses=(200, 202)
        ),
    )  # fmt: skip
    router.add_api_route(
        "/v1/leases", renew, methods=["POST"], summary="Renew a run's leases", **docs.described(body=LeaseRenewal, answer=LeaseAnswer)
    )
    return router


def _together(answers: list[LeaseAnswer]) -> LeaseAnswer:
    """One answer for several runs: sandbox ids are unique among them."""
    return LeaseAnswer(
        run_id=answers[0].run_id,
        run_ids=[each.run_id for each in answers[1:]],
        expires_in_s=min((each.expires_in_s for each in answers if each.expires_in_s is not None), default=None),
        live=[sandbox_id for each in answers for sandbox_id in each.live],
        gone={sandbox_id: reason for each in answers for sandbox_id, reason in each.gone.items()},
    )
