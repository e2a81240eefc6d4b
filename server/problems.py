"""Every refusal on its way out: an exception that carries a `Problem`, and the answer made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import ValidationError
from starlette.responses import Response

from remote_env.digest import DIGEST_HEADER, content_digest
from remote_env.protocol import Problem
from server.correlation import Correlation

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A request is refused or failed.

    Args:
        code: a key of `remote_env.protocol.PROBLEMS`.
        detail: a sentence for the caller; no secrets.
        retry_after_s: seconds after which asking again makes sense.
        id: the execution's or sandbox's, where known.
        about: the execution that this is a refusal about, where it was found and is the one that the request means.
    """

    def __init__(
        self, code: str, detail: str, retry_after_s: float | None = None, id: str | None = None, about: Correlation | None = None
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.problem = Problem.of(code, detail, retry_after_s=retry_after_s, id=id)
        self.about = about


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The HTTP answer: problem+json, with Retry-After and WWW-Authenticate where they belong."""
    extra = dict(headers or {})
    if problem.retry_after_s is not None:
        extra["Retry-After"] = str(math.ceil(problem.retry_after_s))
    if problem.status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    body = problem.model_dump_json().encode()
    extra[DIGEST_HEADER] = content_digest(body)
    return Response(body, problem.status, extra, MEDIA_TYPE)


def describe(error: ValidationError) -> str:
    """What is wrong with a request, field by field, in words. Never shows a value: values may be secrets."""
    parts = []
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(str(step) for step in each["loc"])
        what = each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            what = "there is no such field"
        parts.append(f"{where}: {what}" if where else what)
    return "; ".join(parts)
