"""/v1/executions/{id}/input, …/resize and …/terminal: a person's, or a program's, end of a terminal."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from contextlib import aclosing
from typing import Any, Literal

from fastapi import APIRouter, Request, WebSocket
from pydantic import ValidationError
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect, WebSocketState

from remote_env.digest import DIGEST_HEADER, is_damaged
from remote_env.protocol import (
    COUNTED_SUBPROTOCOL,
    INPUT_LIMIT,
    OFFSET_HEADER,
    TERMINAL_SUBPROTOCOL,
    TYPIST_OFFSET_BYTES,
    Execution,
    InputAnswer,
    ResizeRequest,
    SignalRequest,
)
from server.api import docs
from server.api.exchange import answer, answer_execution, epoch, path_id, read
from server.api.services import Services
from server.events import End, Gap, Piece, Stopping
from server.lifetime import RETRY_AFTER_STOP_S
from server.metrics import Metrics
from server.problems import ProblemError, describe
from server.terminals import Place, Terminals, TerminalView

log = logging.getLogger("server.terminal")

_OFFSET_DIGITS = 18
_TYPIST = re.compile(r"[A-Za-z0-9_-]{8,64}")
_UNREAD = 4 << 20  # bytes typed that no program reads, for which one connection is answered for; then it is closed
_NORMAL, _GOING_AWAY = 1000, 1001  # RFC 6455 §7.4.1
_PROBLEM = 4000  # and the status of the problem


def terminal_routes(services: Services, terminals: Terminals, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["executions"])
    seats: dict[tuple[str, str], _Connection] = {}

    async def type_in(request: Request) -> Response:
        eid, given_epoch, offset = path_id(request), epoch(request), _offset(request)
        body = await request.body()
        if len(body) > INPUT_LIMIT:
            raise ProblemError("too_large", f"at most {INPUT_LIMIT} bytes of input at once", id=eid)
        if is_damaged(body, request.headers.get(DIGEST_HEADER)):
            raise ProblemError("damaged", "the body's sha-256 is another one than the request says; none of it was typed", id=eid)
        return answer(InputAnswer(offset=await terminals.type_in(eid, given_epoch, body, offset)), 202)

    async def resize(request: Request) -> Response:
        eid, given_epoch = path_id(request), epoch(request)
        asked = await read(request, ResizeRequest)
        return answer_execution(await terminals.resize(eid, given_epoch, asked.rows, asked.cols))

    async def terminal(websocket: WebSocket) -> None:
        # Refused before it is accepted, a WebSocket is answered as any request is.
        eid, given_epoch = path_id(websocket), epoch(websocket)
        offset, typist = _from(websocket), _typist(websocket)
        offered = websocket.scope["subprotocols"]
        subprotocol = COUNTED_SUBPROTOCOL if typist is not None and COUNTED_SUBPROTOCOL in offered else TERMINAL_SUBPROTOCOL
        view = terminals.view(eid, given_epoch, offset, typist if subprotocol == COUNTED_SUBPROTOCOL else None)
        if subprotocol not in offered:
            raise ProblemError("invalid", f"Sec-WebSocket-Protocol: offer {TERMINAL_SUBPROTOCOL}", id=eid)
        headers = [(name.lower().encode(), value.encode()) for name, value in view.about.headers().items()]
        if typist is None or subprotocol == TERMINAL_SUBPROTOCOL:
            await websocket.accept(subprotocol, headers)
            with metrics.terminal():
                await _Connection(websocket, services, terminals, view, given_epoch, None).run()
            return
        connection = _Connection(websocket, services, terminals, view, given_epoch, typist)
        older = seats.get((eid, typist))
        if older is not None:
            older.leave()  # dead for its typist, whatever it is for us; what it has still to type comes over this one
        seats[eid, typist] = connection
        try:
            await websocket.accept(subprotocol, headers)
            with metrics.terminal():
                await connection.run()
        finally:
            if seats.get((eid, typist)) is connection:
                del seats[eid, typist]

    router.add_api_route(
        "/v1/executions/{id}/input", type_in, methods=["POST"], summary="Type into a terminal, exactly once",
        **docs.described(
            docs.ID, docs.EPOCH,
            {
                "name": OFFSET_HEADER, "in": "header", "required": True, "schema": {"type": "string"},
                "description": "Bytes of input sent before these, or `restart`.",
            },
            answer=InputAnswer, statuses=(202,),
        ),
    )  # fmt: skip
    router.add_api_route(
        "/v1/executions/{id}/resize", resize, methods=["POST"], summary="Set a terminal's size",
        **docs.described(docs.ID, docs.EPOCH, body=ResizeRequest, answer=Execution),
    )  # fmt: skip
    router.add_api_websocket_route("/v1/executions/{id}/terminal", terminal)
    return router


def _offset(request: Request) -> int | Literal["restart"]:
    value = request.headers.get(OFFSET_HEADER, "")
    if value == "restart":
        return "restart"
    return _number(value, f"{OFFSET_HEADER}: bytes of input sent before these, or restart")


def _from(websocket: WebSocket) -> int | None:
    value = websocket.query_params.get("from")
    return None if value is None else _number(value, "from: an offset into the output")


def _typist(websocket: WebSocket) -> str | None:
    value = websocket.query_params.get("typist")
    if value is not None and not _TYPIST.fullmatch(value):
        raise ProblemError("invalid", "typist: 8 to 64 letters, digits, _ and -")
    return value


def _number(value: str, what: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= _OFFSET_DIGITS):
        raise ProblemError("invalid", what)
    return int(value)


class _Connection:
    """One accepted WebSocket. It ends with the execution, the server, or whoever sits at the other end.

    `typist`: says of each message of input where it stands.
    """

    def __init__(
        self, websocket: WebSocket, services: Services, terminals: Terminals, view: TerminalView, epoch: str, typist: str | None
    ) -> None:
        self._websocket = websocket
        self._services = services
        self._terminals = terminals
        self._view = view
        self._id, self._epoch = view.about.execution_id, epoch
        self._typist = typist
        self._typed: asyncio.Queue[tuple[bytes, Place | None]] = asyncio.Queue()
        self._unread = 0
        self._left = asyncio.Event()

    def leave(self) -> None:
        """Its typist has another link now."""
        self._left.set()

    async def run(self) -> None:
        tasks = [asyncio.create_task(each) for each in (self._show(), self._hear(), self._leave(), self._type())]
        typing, others = tasks[-1], tasks[:-1]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if done == {typing} and typing.exception() is None:  # the program's end is why it takes no more: show that
                done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        first = next(task for task in tasks if task in done)
        code, reason = self._why(first)
        if self._websocket.application_state is WebSocketState.CONNECTED and self._websocket.client_state is WebSocketState.CONNECTED:
            await self._websocket.close(code, reason)
        log.info("terminal closed", extra={"execution_id": self._id, "code": code, "reason": reason or None})

    @staticmethod
    def _why(task: asyncio.Task[tuple[int, str]]) -> tuple[int, str]:
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, ProblemError):
            return _PROBLEM + error.problem.status, error.problem.code
        if isinstance(error, WebSocketDisconnect):
            return error.code, error.reason or ""
        raise error

    async def _show(self) -> tuple[int, str]:
        await self._say({"type": "at", "offset": self._view.offset, "input": self._view.input_count})
        async with aclosing(self._view.events) as events:
            async for event in events:
                if isinstance(event, Piece):
                    await self._websocket.send_bytes(event.data)
                elif isinstance(event, Gap):
                    await self._say({"type": "gap", "from": event.start, "to": event.end})
                elif isinstance(event, End):
                    await self._say({"type": "ended", "execution": event.execution.model_dump(mode="json")})
                    return _NORMAL, ""
                elif isinstance(event, Stopping):
                    break
        return _GOING_AWAY, f"the server stops: come again in {RETRY_AFTER_STOP_S:g} s"

    async def _leave(self) -> tuple[int, str]:
        await self._left.wait()
        return _GOING_AWAY, "its typist has come over another link"

    async def _say(self, message: dict[str, Any]) -> None:
        await self._websocket.send_text(json.dumps(message))

    async def _hear(self) -> tuple[int, str]:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code") or 1005), str(message.get("reason") or "")
            data = message.get("bytes")
            if data is None:
                try:
                    await self._obey(message.get("text") or "")
                except ProblemError as error:
                    if error.problem.code != "wrong_state":  # it is over: that is shown
                        raise
            elif data:
                typed, place = self._placed(data)
                self._unread += len(typed)
                if self._unread > _UNREAD:
                    raise ProblemError("too_many", f"execution {self._id} does not read what is typed", id=self._id)
                self._typed.put_nowait((typed, place))

    async def _type(self) -> tuple[int, str]:
        while True:
            data, place = await self._typed.get()
            try:
                await self._terminals.type_on(self._id, self._epoch, data, place)
            except ProblemError as error:
                if error.problem.code == "invalid":
                    raise
                return _NORMAL, ""
            self._unread -= len(data)

    def _placed(self, message: bytes) -> tuple[bytes, Place | None]:
        if self._typist is None:
            return message, None
        if len(message) < TYPIST_OFFSET_BYTES:
            raise ProblemError("invalid", f"a binary message begins with an offset of {TYPIST_OFFSET_BYTES} bytes", id=self._id)
        offset = int.from_bytes(message[:TYPIST_OFFSET_BYTES], "big")
        return message[TYPIST_OFFSET_BYTES:], Place(self._typist, offset)

    async def _obey(self, text: str) -> None:
        """Resize, or a signal. Raises ProblemError."""
        try:
            order = json.loads(text)
            kind = order.pop("type")
            if kind == "resize":
                size = ResizeRequest.model_validate(order)
                await self._terminals.resize(self._id, self._epoch, size.rows, size.cols)
            elif kind == "signal":
                await self._services.signal(self._id, self._epoch, SignalRequest.model_validate(order).signal)
            else:
                raise ProblemError("invalid", "type: resize or signal", id=self._id)
        except ValidationError as error:
            raise ProblemError("invalid", describe(error), id=self._id) from None
        except (ValueError, RecursionError, KeyError, AttributeError, TypeError):
            raise ProblemError("invalid", "a text message is a JSON object with a type", id=self._id) from None
