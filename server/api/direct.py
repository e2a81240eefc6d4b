"""The one route of every command, without what FastAPI does for each request: that costs a command as much as a commit.

The route itself is the same function as in the router, which has it too: for the description, and for a path that is not quite
this one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from remote_env.protocol import ID_PATTERN
from server.api.executions import START_PATH, Start
from server.journal import CommitFailed
from server.problems import ProblemError

OnError = Callable[[Request, Exception], Awaitable[Response]]

_START = re.compile(START_PATH.replace("{id}", f"({ID_PATTERN.pattern})"))


class Direct:
    """Everything else goes on to `app`.

    Args:
        on_problem, on_commit_failed: what the application does with these errors.
    """

    def __init__(self, app: ASGIApp, *, start: Start, on_problem: OnError, on_commit_failed: OnError) -> None:
        self._app = app
        self._start = start
        self._on_problem = on_problem
        self._on_commit_failed = on_commit_failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = _START.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if match is None:
            await self._app(scope, receive, send)
            return
        scope["path_params"] = {"id": match[1]}
        request = Request(scope, receive)
        try:
            response = await self._start(request)
        except ProblemError as error:
            response = await self._on_problem(request, error)
        except CommitFailed as error:
            response = await self._on_commit_failed(request, error)
        await response(scope, receive, send)
