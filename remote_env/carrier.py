"""What carries requests to one server and brings the answers back, as the logic above sees it: `transport` for threads,
`aio.transport` for asyncio. Whatever carries, a failure says whether a byte may have left, and nothing is sent twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Protocol

from remote_env.config import Endpoint, TokenSource
from remote_env.digest import DIGEST_HEADER, content_digest, is_damaged
from remote_env.hashed import Piece
from remote_env.lanes import Aside
from remote_env.stats import Stats
from remote_env.timings import Timings

Body = bytes | Iterable[Piece]  # for asyncio, an iterable that is an AsyncIterable too is taken as that


class TransportError(Exception):
    """A request without a usable answer."""


class NotSent(TransportError):
    """No connection was made: not a byte of the request has left."""


class MaybeSent(TransportError):
    """A byte may have left, and no answer came that could be trusted."""


class StreamBroken(Exception):
    """The answer was cut. `silent`: nothing came for the longest silence that was allowed."""

    def __init__(self, reason: str, *, silent: bool) -> None:
        super().__init__(reason)
        self.silent = silent


@dataclass(frozen=True)
class Reply:
    """A whole answer. Its headers are found whatever their case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def head_of(method: str, body: Body | None, headers: Mapping[str, str] | None, token: str | None) -> dict[str, str]:
    """The headers of a request: ours, and on top of them the caller's."""
    head = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": _user_agent()}
    if token:
        head["Authorization"] = f"Bearer {token}"
    if headers:
        head.update(headers)
    if isinstance(body, bytes):
        head["Content-Length"] = str(len(body))
        head[DIGEST_HEADER] = content_digest(body)
    elif body is None and method == "POST":
        head["Content-Length"] = "0"
    return head


@cache
def _user_agent() -> str:
    try:
        return f"remote-env/{metadata.version('remote-env')}"
    except metadata.PackageNotFoundError:
        return "remote-env"


def shown_path(path: str) -> str:
    """A path for a trace: without its query, which may hold a caller's own names."""
    return path.partition("?")[0]


def flaw_of(reply: Reply, method: str) -> str | None:
    """What a whole answer's own head says against its body: that it was cut, or damaged. None where it agrees."""
    length = reply.headers.get("Content-Length")
    if length is not None and method != "HEAD" and length != str(len(reply.body)):
        return f"the answer was cut: {len(reply.body)} of {length} bytes"
    if is_damaged(reply.body, reply.headers.get(DIGEST_HEADER)):
        return "the answer was damaged: its sha-256 is another one"
    return None


class StreamedReply(Protocol):
    """Status and headers, and the body piece by piece, over a connection that serves nothing else before `release`."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """What has come since, waiting for at least one byte; b"" at the end of the answer. Raises StreamBroken."""

    async def read_all(self, limit: int) -> bytes:
        """The whole body, or as much of it as `limit` bytes hold. Raises StreamBroken."""

    def release(self) -> None:
        """An answer that was read to its end gives its connection back; any other closes it."""

    def interrupt(self) -> None:
        """Wakes whoever reads."""

    def close(self) -> None:
        """The connection goes with it: what is half read is of no use to another request."""


class Carrier(Protocol):
    """The connections of one caller to one server."""

    endpoint: Endpoint
    timings: Timings
    stats: Stats
    token: TokenSource
    aside: Aside  # how its callers do local work
    reached: bool
    """Whether this server has ever given an answer of ours."""

    @property
    def closed(self) -> bool:
        """Whether its caller has closed it: nothing is sent any more."""

    async def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, *, read_s: float | None = None
    ) -> Reply:
        """Sends one request and reads the whole answer, whatever its status. Redirects are not followed.

        `path` begins with a slash; `read_s` is the longest silence while waiting for the answer, in seconds.
        Raises NotSent or MaybeSent.
        """

    async def open(self, method: str, path: str, headers: dict[str, str], *, body: Body | None = None, silence_s: float) -> StreamedReply:
        """A request whose answer is read while it comes, for as long as it lasts; `silence_s` is the longest silence in it.

        `body`, where it is not bytes, is sent piece by piece; `headers` then tell its Content-Length. Raises NotSent, MaybeSent,
        StreamBroken (silent).
        """

    async def pause(self, seconds: float) -> bool:
        """Waits; False when the carrier was closed meanwhile (or before)."""

    def drop_connections(self) -> None:
        """No connection used so far is used again."""

    def rebuild(self) -> None:
        """What is idle is not used again: the link was seen to be dead. Not more often than `Timings.rebuild_s`."""
