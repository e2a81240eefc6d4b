"""What every request passes on its way in and every answer on its way out, whatever its route. Pure ASGI: it is on the
hot path of every command."""

from __future__ import annotations

import logging
import re

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from remote_env.protocol import BODY_LIMIT, ID_PATTERN, INSTANCE_HEADER, PROTOCOL_VERSION, Problem
from server.auth import Auth, Credentials
from server.lifetime import RETRY_AFTER_STOP_S, Lifetime
from server.problems import ProblemError, problem_response

log = logging.getLogger("server.gate")

AUTHORIZED = "remote_env.authorized"  # scope key: whether the request showed the token
ABOUT = "remote_env.about"  # scope key: the id that the request is about, once it is known
MARKS = "remote_env.marks"  # scope key: the headers by which every answer is known as ours
STREAM = "remote_env.stream"  # scope key: the answer has no end of its own: it is cut rather than waited for
_HEALTH = "/health"  # the one path that is answered without a token
_PROTOCOL_HEADER = (b"x-remote-env-protocol", str(PROTOCOL_VERSION).encode())
_NAMING_PATH = re.compile(rf"/v1/[a-z]+/({ID_PATTERN.pattern})(?:/.*)?")
_FILES = re.compile(rf"/v1/sandboxes/{ID_PATTERN.pattern}/files")  # a PUT there may be of any size: it is not held in memory
_FIRST_WORDS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_LONGEST_LENGTH = 18  # digits of a Content-Length


def named_id(scope: Scope) -> str | None:
    """The id that a request is about, as far as it has been read."""
    named: str | None = scope.get(ABOUT)
    if named is None and (match := _NAMING_PATH.fullmatch(scope["path"])):
        named = match[1]
    return named


class Gate:
    """Checks token, Host and Origin, refuses new work while the server stops, bounds the body, marks every answer as ours,
    and turns what nobody caught into a problem (its traceback goes to the log alone)."""

    def __init__(self, app: ASGIApp, *, auth: Auth, lifetime: Lifetime, instance_id: str, body_limit: int = BODY_LIMIT) -> None:
        self._app = app
        self._auth = auth
        self._lifetime = lifetime
        self._body_limit = body_limit
        self._marks = (_PROTOCOL_HEADER, (INSTANCE_HEADER.lower().encode(), instance_id.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        begun = False
        marks: tuple[tuple[bytes, bytes], ...] = self._marks

        async def marked_send(message: Message) -> None:
            nonlocal begun
            if message["type"] in _FIRST_WORDS:
                begun = True
                message["headers"] = [*message.get("headers", ()), *marks]
            await send(message)

        host = origin = authorization = length = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value if host is None or host == value else b"?"  # two different ones: neither is believed
            elif name == b"origin":
                origin = value
            elif name == b"authorization":
                authorization = value
            elif name == b"content-length":
                length = value
        if authorization is None and scope["path"] == _HEALTH:
            marks = (_PROTOCOL_HEADER,)  # to strangers it says nothing of this server
        problem = self._refusal(scope, Credentials(host, origin, authorization), length)
        if problem is not None:
            await problem_response(problem.model_copy(update={"id": named_id(scope)}))(scope, receive, marked_send)
            return
        scope[AUTHORIZED] = authorization is not None
        scope[MARKS] = marks
        try:
            await self._app(scope, self._bounded(scope, receive), marked_send)
        except ClientDisconnect:
            return  # it went away while it still sent its body: nothing was taken, nobody waits for an answer
        except Exception as error:
            if begun:
                raise  # the connection is closed, and the client sees an answer cut short
            # Not what was expected to go wrong (that is a ProblemError, answered further in).
            log.error("request failed", exc_info=error, extra={"method": scope.get("method"), "path": scope["path"]})
            problem = Problem.of("internal", "the server failed to answer; its log says why", id=named_id(scope))
            await problem_response(problem)(scope, receive, marked_send)

    def _refusal(self, scope: Scope, credentials: Credentials, length: bytes | None) -> Problem | None:
        is_health = scope["path"] == _HEALTH
        problem = self._auth.refusal(credentials, token_needed=not is_health)
        if problem is not None:
            return problem
        if self._lifetime.stopping and not is_health:
            return Problem.of("stopping", "the server is stopping; this request was not taken", retry_after_s=RETRY_AFTER_STOP_S)
        if length is not None and (len(length) > _LONGEST_LENGTH or (length.isdigit() and int(length) > self._limit(scope))):
            return self._too_large()
        return None

    def _limit(self, scope: Scope) -> float:
        """Bytes of the body."""
        return float("inf") if scope.get("method") == "PUT" and _FILES.fullmatch(scope["path"]) else self._body_limit

    def _too_large(self) -> Problem:
        return Problem.of("too_large", f"the body is larger than {self._body_limit} bytes; send large data as a file")

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        left = self._limit(scope)

        async def bounded_receive() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise ProblemError("too_large", self._too_large().detail)
            return message

        return bounded_receive
