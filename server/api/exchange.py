"""Reading requests and shaping answers: what all routes share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

from fastapi import Request
from fastapi.requests import HTTPConnection
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from remote_env.digest import DIGEST_HEADER, content_digest, is_damaged
from remote_env.protocol import EPOCH_HEADER, ID_PATTERN, Execution
from server.connections import CONNECTION, HttpProtocol
from server.correlation import Correlation
from server.gate import ABOUT, MARKS
from server.problems import ProblemError, describe

LONGEST_WAIT_S = 60.0  # longer silences are cut by idle limits on the way
JSON = "application/json"
_EPOCH_LIMIT = 128  # characters

Model = TypeVar("Model", bound=BaseModel)


def path_id(request: HTTPConnection) -> str:
    """The id in the path. It becomes a file's name: nothing else than an id is let in."""
    value: str = request.path_params["id"]
    if not ID_PATTERN.fullmatch(value):
        raise ProblemError("invalid", "what stands in the path is not an id: 8 to 64 characters of a-z, 0-9, _ and -")
    request.scope[ABOUT] = value
    return value


async def read(request: Request, model: type[Model]) -> Model:
    """The body as a model. Raises ProblemError `invalid` that names the fields, `too_large`, `damaged`."""
    body = await request.body()
    if is_damaged(body, request.headers.get(DIGEST_HEADER)):
        raise ProblemError("damaged", "the body's sha-256 is another one than the request says; this copy of it was not taken")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise ProblemError("invalid", describe(error), id=_id_in(body)) from None


def _id_in(body: bytes) -> str | None:
    """The id that a body names, whatever else is wrong with it."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    named = fields.get("id") if isinstance(fields, dict) else None
    return named if isinstance(named, str) and ID_PATTERN.fullmatch(named) else None


def epoch(request: HTTPConnection) -> str:
    """The epoch header (EPOCHREQ)."""
    value = request.headers.get(EPOCH_HEADER)
    if not value or len(value) > _EPOCH_LIMIT:
        raise ProblemError("epoch_required", f"send the sandbox's epoch, learnt when it was made, as {EPOCH_HEADER}")
    return value


def preferred_wait(request: Request) -> float:
    """Seconds from `Prefer: wait=N`, at most LONGEST_WAIT_S; 0 without. A preference that cannot be read is none (RFC 7240)."""
    header = request.headers.get("prefer")
    for preference in header.split(",") if header else ():
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            try:
                return _bounded(float(value.strip().strip('"')))
            except ValueError:
                return 0.0
    return 0.0


def queried_wait(request: Request) -> float:
    """Seconds from `?wait=N`, at most LONGEST_WAIT_S; 0 without."""
    value = request.query_params.get("wait") if request.scope["query_string"] else None
    if value is None:
        return 0.0
    try:
        return _bounded(float(value))
    except ValueError:
        raise ProblemError("invalid", "wait: not a number of seconds") from None


def _bounded(seconds: float) -> float:
    if not seconds >= 0:  # NaN is not either
        raise ValueError("negative")
    return min(seconds, LONGEST_WAIT_S)


def queried_id(request: Request, name: str) -> str | None:
    """An id among the query parameters, None where it is not given."""
    value = request.query_params.get(name)
    if value is not None and not ID_PATTERN.fullmatch(value):
        raise ProblemError("invalid", f"{name}: not an id")
    return value


def answer(model: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A model as the answer, straight to bytes."""
    body: bytes = model.__pydantic_serializer__.to_json(model)
    return Response(body, status, {**(headers or {}), DIGEST_HEADER: content_digest(body)}, JSON)


class ExecutionAnswer(Response):
    """An execution as the answer, marked as being about it. Sent in one write where the connection can do that."""

    def __init__(self, execution: Execution, status: int) -> None:
        body: bytes = execution.__pydantic_serializer__.to_json(execution)
        about = Correlation.of(execution).headers()
        headers = {**about, DIGEST_HEADER: content_digest(body), "content-length": str(len(body)), "content-type": JSON}
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: HttpProtocol | None = scope.get(CONNECTION)
        if connection is None or not connection.answer(scope, self.status_code, (*self.raw_headers, *scope[MARKS]), bytes(self.body)):
            await super().__call__(scope, receive, send)


def answer_execution(execution: Execution, status: int = 200) -> Response:
    """An execution as the answer, marked as being about it."""
    return ExecutionAnswer(execution, status)
