"""How the routes show in /openapi.json. Costs nothing when a request comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from remote_env.filemodels import SnapshotRequest
from remote_env.protocol import (
    EPOCH_HEADER,
    AbandonRequest,
    ExecuteRequest,
    ExecutionSpec,
    LeaseRenewal,
    Problem,
    ResizeRequest,
    SandboxSpec,
    SignalRequest,
)
from server.problems import MEDIA_TYPE

_REFERENCE = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (
    SandboxSpec, ExecutionSpec, LeaseRenewal, AbandonRequest, SignalRequest, ResizeRequest, ExecuteRequest, SnapshotRequest,
    Problem,
)  # fmt: skip

ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
EPOCH = {"name": EPOCH_HEADER, "in": "header", "required": True, "schema": {"type": "string"}, "description": "The sandbox's epoch."}
PREFER = {"name": "Prefer", "in": "header", "schema": {"type": "string"}, "description": "`wait=N`: seconds to wait, up to 60."}
RANGE = {"name": "Range", "in": "header", "schema": {"type": "string"}, "description": "`bytes=a-b` or `bytes=a-`."}
WAIT = {"name": "wait", "in": "query", "schema": {"type": "number"}, "description": "Seconds to wait, up to 60."}


def query(name: str, description: str, kind: str = "string") -> dict[str, Any]:
    """One query parameter."""
    return {"name": name, "in": "query", "schema": {"type": kind}, "description": description}


def described(
    *parameters: dict[str, Any], body: type[BaseModel] | None = None, answer: type[BaseModel] | None = None,
    statuses: tuple[int, ...] = (200,),
) -> dict[str, Any]:  # fmt: skip
    """The keyword arguments for a route that reads its request itself.

    Args:
        parameters: as OpenAPI has them.
        body: the model of the request's JSON.
        answer: the model of the answer's JSON, for each of `statuses`.
    """
    extra: dict[str, Any] = {"parameters": list(parameters)}
    if body is not None:
        schema = {"$ref": _REFERENCE.format(model=body.__name__)}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    responses: dict[int | str, dict[str, Any]] = {status: {"model": answer} if answer else {} for status in statuses}
    problem = {"schema": {"$ref": _REFERENCE.format(model=Problem.__name__)}}
    responses["default"] = {"description": "A problem (RFC 9457)", "content": {MEDIA_TYPE: problem}}
    return {"openapi_extra": extra, "responses": responses, "status_code": statuses[0], "response_model": None}


def openapi_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What `app.openapi` should be: FastAPI's own, with the models of the bodies that routes read themselves."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes, summary=app.summary)
            _, bodies = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REFERENCE)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name, schema in bodies.get("$defs", {}).items():
                schemas.setdefault(name, schema)
            document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    return openapi
