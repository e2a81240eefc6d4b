"""Requests about the files of one sandbox: sent until they are answered, and refused in words about the path.

All of them may be sent again when their fate is unknown. Reads change nothing. A PUT says what the file's content shall be, and a
DELETE that there shall be nothing: done twice they leave what they leave done once. The server takes a body only when it is
whole (its SHA-256 comes last), under a temporary name, so a copy that broke off leaves nothing. What remains: a copy that was held
up on the way, whole, may come after something else has written to the same path, as with any two writers of one file.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError

from remote_env.carrier import Body, MaybeSent, NotSent, Reply, StreamBroken, StreamedReply
from remote_env.correlation import About
from remote_env.errors import Damaged, EpochChanged, FileChanged, FileError, FileTooLarge, InvalidSpec, RemoteEnvError, SandboxGone
from remote_env.exchange import ERRORS, BrokenAnswer, Exchange, Refused, older_server
from remote_env.filemodels import DIGEST_BYTES, HASHED
from remote_env.packing import Source, Unreadable
from remote_env.protocol import EPOCH_HEADER, Problem
from remote_env.sourcing import Framed

Path = str | os.PathLike[str]
Model = TypeVar("Model", bound=BaseModel)
Answer = TypeVar("Answer")

_ANSWER_LIMIT = 64 << 20  # bytes: a list of 100,000 files
_PROBLEM_LIMIT = 1 << 20
_RESENDS = 4  # of a body whose request broke off after some of it was sent

_IN_FILES: dict[str, type[RemoteEnvError]] = {
    "damaged": Damaged,
    "too_large": FileTooLarge,
    "wrong_state": FileError,
    "range_not_satisfiable": FileChanged,
}
"""Codes that mean something else of a file than of a command."""


_OF_THE_PATH = frozenset({
    "file_not_found", "is_directory", "not_directory", "permission_denied", "not_regular", "no_space", "file_too_large", "read_only",
    "too_many_links", "name_too_long", "directory_not_empty",
})  # fmt: skip
"""Codes whose detail is a path of the sandbox and what its kernel says of it: the title would say it again."""
_SAID = frozenset({"invalid", "wrong_state", "file_agent_failed", "sandbox_full"})
"""Codes whose detail is a whole sentence."""


def _words(problem: Problem, path: str) -> str:
    """A refusal for people: what it is about, which side of a copy that is on, and what is wrong, each once."""
    if problem.code in _OF_THE_PATH:
        return f"{problem.detail} (in the sandbox)"
    if problem.code in _SAID:
        return problem.detail
    if problem.code in ("changed", "range_not_satisfiable"):
        return f"{path}: the file was changed while it was read (in the sandbox)"
    if problem.code == "too_large":
        return f"{path}: {problem.detail}"
    return f"{problem.title}: {problem.detail}"


class FileRequests:
    """Args:
    epoch: the sandbox's: files are of one of its lives.
    on_gone: told why, when the server says that the sandbox is no more.
    """

    def __init__(
        self, exchange: Exchange, sandbox_id: str, epoch: str, on_gone: Callable[[str], None] = lambda reason: None
    ) -> None:  # fmt: skip
        self.transport = exchange.transport
        self._exchange = exchange
        self._on_gone = on_gone
        self._about = About(sandbox_id=sandbox_id, epoch=epoch)
        self._base = f"/v1/sandboxes/{sandbox_id}/files"
        self._headers = {EPOCH_HEADER: epoch}

    def url(self, path: Path, *, below: str = "", **query: object) -> str:
        """The request's target. What is None or False is left out. Raises InvalidSpec."""
        name = os.fspath(path)
        if not name or "\0" in name:
            raise InvalidSpec(f"{name!r} is no path: it is empty or has a NUL byte in it.")
        given = {key: "1" if value is True else value for key, value in query.items() if value is not None and value is not False}
        rest = f"&{urlencode(given, errors='surrogateescape')}" if given else ""
        return f"{self._base}{below}?path={quote(os.fsencode(name), safe='/')}{rest}"

    async def ask(self, model: type[Model], method: str, url: str, path: Path) -> Model:
        """A request without a body; its answer. Raises FileError and its kinds, and what any request raises."""

        async def attempt() -> Model:
            async with self._answered(method, url, {}, None) as reply:
                return self._parsed(model, reply, await _whole(reply))

        return await self.persist(attempt, method, path)

    async def ask_once(self, method: str, url: str) -> None:
        """As `ask`, sent once, its answer's body of no interest. Raises NotSent, MaybeSent, Refused, ProtocolMismatch, EpochChanged."""
        async with self._answered(method, url, {}, None) as reply:
            await _whole(reply)

    async def send(
        self, model: type[Model], url: str, source: Source, path: Path, *, on_sent: Callable[[int], None] = lambda size: None
    ) -> Model:
        """A PUT of the source, framed. `on_sent` hears how many bytes of it have been sent; it begins anew with each copy.

        Raises FileError and its kinds, what any request raises, and OSError where the source cannot be read.
        """
        patience = _Patience(self, path)

        async def attempt() -> Model:
            headers = {"Content-Type": HASHED}
            if source.size is not None:
                headers["Content-Length"] = str(source.size + DIGEST_BYTES)
            body = Framed(source, self.transport.aside, on_sent)
            try:
                with patience.of_attempt(lambda: body.sent > 0):
                    async with self._answered("PUT", url, headers, body) as reply:
                        return self._parsed(model, reply, await _whole(reply))
            finally:
                await body.close()

        try:
            return await self.persist(attempt, "PUT", path, budget_s=float("inf"))
        except Unreadable as unreadable:
            raise unreadable.error from unreadable

    async def receive(self, url: str, path: Path, take: Callable[[StreamedReply], Awaitable[Answer]]) -> Answer:
        """A GET whose raw answer `take` reads, anew for each attempt. Raises as `ask`, and what `take` raises."""
        patience = _Patience(self, path)

        async def attempt() -> Answer:
            begun = False
            with patience.of_attempt(lambda: begun):
                async with self._answered("GET", url, {}, None) as reply:
                    begun = True
                    return await take(reply)

        return await self.persist(attempt, "GET", path, budget_s=float("inf"))

    async def receive_once(
        self, url: str, headers: Mapping[str, str], take: Callable[[StreamedReply], Awaitable[Answer]]
    ) -> Answer:  # fmt: skip
        """As `receive`, asked once, with headers. Raises NotSent, MaybeSent, Refused, ProtocolMismatch, EpochChanged."""
        async with self._answered("GET", url, headers, None) as reply:
            return await take(reply)

    @asynccontextmanager
    async def _answered(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> AsyncIterator[StreamedReply]:
        """A success of ours about this sandbox, to be read. Raises NotSent, MaybeSent, Refused, ProtocolMismatch, EpochChanged."""
        silence_s = self.transport.timings.request_s
        reply: StreamedReply | None = None
        try:
            reply = await self.transport.open(method, url, {**self._headers, **headers}, body=body, silence_s=silence_s)
            problem = await reply.read_all(_PROBLEM_LIMIT) if reply.status >= 300 else b""
            self._exchange.require_ours(Reply(reply.status, reply.headers, problem), self._about, named=True)
            yield reply
        except StreamBroken as error:
            raise MaybeSent(str(error)) from error
        finally:
            if reply is not None:
                reply.release()

    def _parsed(self, model: type[Model], reply: StreamedReply, body: bytes) -> Model:
        try:
            return model.model_validate_json(body)
        except ValidationError:
            kind = reply.headers.get("Content-Type", "no content type")
            raise BrokenAnswer(f"an answer that is not remote-env's: HTTP {reply.status}, {kind}, {len(body)} bytes") from None

    async def persist(self, attempt: Callable[[], Awaitable[Answer]], method: str, path: Path, *, budget_s: float | None = None) -> Answer:
        """`Exchange.persist`, with a refusal in words about the path."""

        async def renewed() -> Answer:
            try:
                return await attempt()
            except Refused as refusal:
                if refusal.problem.code != "unauthorized" or not self.transport.token.reload():
                    raise
                return await attempt()

        budget_s = self.transport.timings.reconnect_budget_s if budget_s is None else budget_s
        try:
            return await self._exchange.persist(renewed, f"{method} {self._base}", budget_s=budget_s)
        except Refused as refusal:
            raise self.error(refusal, path) from refusal

    def gave_up(self, failure: Exception, path: Path, seconds: float) -> RemoteEnvError:
        if isinstance(failure, Refused):
            return self.error(failure, path)
        return self._exchange.gave_up(failure, isinstance(failure, MaybeSent), seconds)

    def error(self, refusal: Refused, path: Path) -> RemoteEnvError:
        problem = refusal.problem
        if problem.no_such_route:
            return older_server(problem)
        kind = _IN_FILES.get(problem.code) or ERRORS[problem.code]
        error = kind(_words(problem, os.fspath(path)), sandbox_id=self._about.sandbox_id)
        if isinstance(error, FileError):
            error.path = os.fspath(path)
        elif isinstance(error, (SandboxGone, EpochChanged)):
            self._on_gone(str(error))
        return error


class _Patience:
    """How long a request is sent again that takes as long as its body does, which no budget of seconds can be held against:
    the reconnect budget counts while not a byte gets through, and a body is sent, or an answer begun, some few times."""

    def __init__(self, requests: FileRequests, path: Path) -> None:
        self._requests = requests
        self._path = path
        self._began = self._silent_since = time.monotonic()
        self._broken = 0

    @contextmanager
    def of_attempt(self, moved: Callable[[], bool]) -> Iterator[None]:
        """Raises the error that gives up, where it is time."""
        try:
            yield
        except (NotSent, MaybeSent, Refused) as error:
            now = time.monotonic()
            if moved():
                self._broken += 1
                self._silent_since = now
            if self._broken > _RESENDS or now - self._silent_since > self._requests.transport.timings.reconnect_budget_s:
                raise self._requests.gave_up(error, self._path, now - self._began) from error
            raise


async def _whole(reply: StreamedReply) -> bytes:
    body = await reply.read_all(_ANSWER_LIMIT)
    length = reply.headers.get("Content-Length")
    if length is not None and length != str(len(body)):
        raise MaybeSent(f"the answer was cut: {len(body)} of {length} bytes")
    return body
