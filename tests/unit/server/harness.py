"""A real uvicorn with the real application in front of the fake services, and a client that shows every byte of an answer."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import uvicorn

from remote_env.protocol import EPOCH_HEADER, PROBLEMS
from server.app import create_app
from server.auth import Auth
from server.connections import HttpProtocol
from server.lifetime import Lifetime
from server.listen import bind
from server.metrics import Metrics
from server.settings import Settings
from tests.support.follower import Follower
from tests.unit.server.fakes import EPOCH, FakeServices

TOKEN = "the-token-of-these-tests"
EPOCH_OF_SANDBOX = {EPOCH_HEADER: EPOCH}
PATIENCE_S = 30  # after which a test has failed; nothing is measured with it

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """An answer, whole."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class RunningServer:
    """The application on free loopback ports, its event loop in a thread of its own."""

    def __init__(self, settings: Settings | None = None, *, auth: Auth | None = None) -> None:
        self.settings = settings or Settings(port=0)
        self.sockets = bind(self.settings.host, 0)
        self.port: int = self.sockets[0].getsockname()[1]
        self.metrics = Metrics()
        self._auth = auth or Auth(TOKEN)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.services = FakeServices(self.settings)
        self.lifetime = Lifetime()
        app = create_app(self.services, self.settings, self._auth, self.metrics, self.lifetime)
        server = uvicorn.Server(
            uvicorn.Config(app, http=HttpProtocol, ws="websockets-sansio", lifespan="off", log_config=None, proxy_headers=False)
        )  # fmt: skip
        self.lifetime.on_stop(lambda: setattr(server, "should_exit", True))
        self._ready.set()
        await server._serve(self.sockets)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.lifetime.stop)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str | None] | None = None, *, address: str = "127.0.0.1"
    ) -> Reply:
        """One request with the token on a connection of its own; a header that is None is left out."""
        connection = http.client.HTTPConnection(address, self.port, timeout=PATIENCE_S)
        try:
            wanted = {"Authorization": f"Bearer {TOKEN}", **(headers or {})}
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            given = {name: value for name, value in wanted.items() if value is not None}
            connection.putrequest(method, path, skip_host="Host" in wanted, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            if content is not None and "Content-Length" not in given:
                connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(content)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, headers={**EPOCH_OF_SANDBOX, **headers})

    def post(self, path: str, body: object, **headers: str) -> Reply:
        return self.request("POST", path, body, {**EPOCH_OF_SANDBOX, **headers})

    def follow(self, eid: str, **how: str) -> Follower:
        """GET …/events; see Follower."""
        return Follower(self.port, TOKEN, eid, EPOCH, **how)

    def sample(self, name: str, **labels: str) -> float | None:
        """A metric's value now."""
        return self.metrics.registry.get_sample_value(f"remote_env_{name}", labels)

    def in_background(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Background:
        return Background(lambda: self.request(method, path, body, {**EPOCH_OF_SANDBOX, **(headers or {})}))


class Background:
    """A request that another thread waits for."""

    def __init__(self, call: Any) -> None:
        self._reply: Reply | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,))
        self._thread.start()

    def _run(self, call: Any) -> None:
        try:
            self._reply = call()
        except BaseException as error:
            self._error = error

    def reply(self) -> Reply:
        self._thread.join(PATIENCE_S)
        if self._error is not None:
            raise self._error
        assert self._reply is not None
        return self._reply


def assert_problem(reply: Reply, code: str, *, id: str | None = None) -> dict[str, Any]:
    """Every error has the one shape: problem+json, with status, acceptance and retryability as the contract's table has them,
    the protocol header, and no more fields than told."""
    status, title, accepted, retryable = PROBLEMS[code]
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.headers["X-Remote-Env-Protocol"] == "1"
    problem: dict[str, Any] = reply.json()
    assert set(problem) == {"type", "title", "status", "detail", "code", "accepted", "retryable", "retry_after_s", "id"}
    assert (problem["code"], problem["title"], problem["status"]) == (code, title, status)
    assert (problem["accepted"], problem["retryable"]) == (accepted, retryable)
    assert problem["detail"]
    if problem["retry_after_s"] is not None:
        assert int(reply.headers["Retry-After"]) >= problem["retry_after_s"]
    if id is not None:
        assert problem["id"] == id
    return problem


def raw_exchange(port: int, request: bytes) -> bytes:
    """Send bytes as they are and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(request)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received
