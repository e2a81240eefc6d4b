"""/v1/sandboxes/{id}/files: read, write, list, look at and remove a sandbox's files."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from remote_env.filemodels import DIGEST_BYTES, HASHED, MODE_HEADER, FileInfo, FileList, RemovedFile, WrittenFile
from remote_env.protocol import EPOCH_HEADER, SANDBOX_HEADER, Problem
from server.api import docs
from server.api.exchange import answer, epoch, path_id
from server.api.output import parse_range
from server.api.services import Services
from server.bodies import Bodies
from server.fileagent import AgentError, AgentLost
from server.filecontent import FileCut, off_loop
from server.filepacking import TreePacker
from server.files import OpenFile
from server.fileunpacking import unpack
from server.lifetime import Lifetime
from server.problems import ProblemError, problem_response

log = logging.getLogger("server.files")

_BYTES = "application/octet-stream"
_TAR = "application/x-tar"
_SMALL = 256 << 10  # bytes that are read at once and sent as they are
_MODE = re.compile(r"0?o?[0-7]{1,4}")
_MOST_PARAMETERS = 20


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {"type": "string"}, "description": description}


_PATH = docs.query("path", "Absolute, or relative to the sandbox's working directory; any bytes, percent-encoded.") | {"required": True}
_USER = docs.query("user", "Whose permissions count, and who owns what is made; the sandbox's user.")
_MODE_BITS = docs.query("mode", "Permission bits, octal.")
_PARENTS = docs.query("parents", "Make the directories above it that are missing.", "boolean")
_DIGEST = docs.query("digest", f"Send the 32 bytes of the content's SHA-256 behind it, as {HASHED}.", "boolean")
_TREE = docs.query("as", "`tar`: unpack the body, a tar archive, into the directory `path`.")
_IF_RANGE = _header("If-Range", "An ETag: the whole file where it has another.")
_IF_MATCH = _header("If-Match", "ETags: `changed` where it has another.")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {"required": True, "content": {_BYTES: _BINARY, HASHED: _BINARY, _TAR: _BINARY}}


class Asked:
    """What the query of a request about a file says. Raises ProblemError `invalid`."""

    def __init__(self, request: Request) -> None:
        text = request.scope["query_string"].decode("latin-1")
        try:
            pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=_MOST_PARAMETERS)
        except ValueError:
            raise ProblemError("invalid", "the query cannot be read") from None
        self._values = dict(pairs)
        self.path = self._values.get("path", "").encode(errors="surrogateescape")
        if not self.path:
            raise ProblemError("invalid", "path: say which file, as ?path=…")
        self.user = self._values.get("user") or None
        if self.user is not None and (len(self.user) > 255 or not self.user.isprintable()):
            raise ProblemError("invalid", "user: a name or number, as of a command's user")
        self.form = self._values.get("as")

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._values.get(name)
        if value is None:
            return default
        if value.lower() not in ("1", "true", "", "0", "false"):
            raise ProblemError("invalid", f"{name}: 1 or 0")
        return value.lower() not in ("0", "false")

    def mode(self) -> int | None:
        value = self._values.get("mode")
        if value is None:
            return None
        if not _MODE.fullmatch(value):
            raise ProblemError("invalid", "mode: permission bits in octal, such as 0644")
        return int(value.lstrip("0o") or "0", 8)

    def form_of(self, *forms: str) -> str | None:
        if self.form is not None and self.form not in forms:
            raise ProblemError("invalid", f"as: {' or '.join(forms)}")
        return self.form


class Streamed(StreamingResponse):
    """Bytes whose source is let go of however the answer ends, also where it never begins."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], source: AsyncExitStack, **more: Any) -> None:
        super().__init__((), **more)
        self._pieces = pieces
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._source, aclosing(self._pieces):
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except (AgentError, AgentLost, FileCut, OSError) as error:
            log.warning("the sending of a file was broken off: %s", error)
            return  # without an end: the connection is closed, and whoever reads it knows
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _framed(pieces: AsyncGenerator[bytes, None], digest: hashlib._Hash) -> AsyncGenerator[bytes, None]:
    """The pieces, then what `digest`, which whoever makes them feeds, is by then."""
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece
    yield digest.digest()


def _changed(request: Request, etag: str | None) -> bool:
    header = request.headers.get("if-match")
    return header is not None and header.strip() != "*" and etag not in [each.strip() for each in header.split(",")]


async def _shape(request: Request, file: OpenFile, digested: bool, source: AsyncExitStack, about: dict[str, str]) -> Response:
    """The answer for a file: 200 whole, 206 part, 412 changed, 416 beyond the end."""
    headers = {
        **about, MODE_HEADER: f"{file.mode:04o}", "Last-Modified": formatdate(file.mtime_ns // 1_000_000_000, usegmt=True),
        "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store, no-transform",
    }  # fmt: skip
    if file.etag is not None:
        headers |= {"ETag": file.etag, "Accept-Ranges": "bytes"}
    if _changed(request, file.etag):
        return problem_response(Problem.of("changed", "the file is another one than If-Match says"), headers)
    span = parse_range(request.headers.get("range")) if file.etag is not None else None
    if request.headers.get("if-range") not in (None, file.etag):
        span = None
    start, end = span or (0, None)
    end = file.size if end is None else min(end, file.size)
    if span is not None:
        if start >= file.size:
            problem = Problem.of("range_not_satisfiable", f"the file ends after {file.size} bytes")
            return problem_response(problem, {**headers, "Content-Range": f"bytes */{file.size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    status = 200 if span is None else 206
    # With the length said beforehand a broken stream cannot look like a whole one.
    headers["Content-Length"] = str(end - start + (DIGEST_BYTES if digested else 0))
    media_type = HASHED if digested else _BYTES
    if request.method == "HEAD":
        return Response(None, status, headers, media_type)
    digest = hashlib.sha256() if digested else None
    if end - start <= _SMALL:
        body = await file.part(start, end, digest)
        return Response(body if digest is None else body + digest.digest(), status, headers, media_type)
    pieces = file.pieces(start, end, digest)
    if digest is not None:
        pieces = _framed(pieces, digest)
    return Streamed(pieces, source.pop_all(), status_code=status, headers=headers, media_type=media_type)


def file_routes(services: Services, lifetime: Lifetime) -> APIRouter:
    router = APIRouter(tags=["files"])
    bodies = Bodies(lifetime)

    def begin(request: Request) -> tuple[str, str, Asked, dict[str, str]]:
        """The sandbox, its epoch, the query, and the headers by which every answer says what it is about."""
        sid, given_epoch = path_id(request), epoch(request)
        return sid, given_epoch, Asked(request), {SANDBOX_HEADER: sid, EPOCH_HEADER: given_epoch}

    async def read(request: Request) -> Response:
        sid, given_epoch, asked, about = begin(request)
        form, digested = asked.form_of("tar", "stat", "list"), asked.flag("digest")
        async with AsyncExitStack() as source:
            files = await source.enter_async_context(services.files(sid, given_epoch, asked.user))
            path = files.absolute(asked.path)
            if form is not None and request.method == "HEAD":
                raise ProblemError("invalid", "HEAD: of a file's content only")
            if form == "stat":
                return answer(await files.stat(path, asked.flag("follow", True)), headers=about)
            if form == "list":
                listed = await files.listed(path)
                return await off_loop(lambda: answer(FileList.model_construct(entries=listed), headers=about))
            if form == "tar":
                digest = hashlib.sha256() if digested else None
                packer = TreePacker(files.agent, path, digest)
                source.callback(packer.close)
                await packer.begin()
                headers = {**about, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store, no-transform"}
                media_type = HASHED if digested else _TAR
                pieces = packer.pieces() if digest is None else _framed(packer.pieces(), digest)
                return Streamed(pieces, source.pop_all(), headers=headers, media_type=media_type)
            file = await files.open(path)
            async with AsyncExitStack() as opened:
                opened.callback(file.close)
                return await _shape(request, file, digested, opened, about)

    async def write(request: Request) -> Response:
        sid, given_epoch, asked, about = begin(request)
        form, parents = asked.form_of("tar"), asked.flag("parents")
        hashed = request.headers.get("content-type", "").partition(";")[0].strip().lower() == HASHED
        async with services.files(sid, given_epoch, asked.user) as files:
            path = files.absolute(asked.path)
            with bodies.of(request) as body:
                if form == "tar":
                    tree = await unpack(files.agent, path, body, hashed=hashed, parents=parents)
                    return answer(tree, headers=about)
                written, replaced = await files.write(path, body, hashed=hashed, mode=asked.mode(), parents=parents)
        return answer(written, 200 if replaced else 201, about)

    async def remove(request: Request) -> Response:
        sid, given_epoch, asked, about = begin(request)
        recursive = asked.flag("recursive")
        async with services.files(sid, given_epoch, asked.user) as files:
            return answer(await files.remove(files.absolute(asked.path), recursive), headers=about)

    async def make_directory(request: Request) -> Response:
        sid, given_epoch, asked, about = begin(request)
        mode, parents = asked.mode(), asked.flag("parents")
        async with services.files(sid, given_epoch, asked.user) as files:
            made, there = await files.make_directory(files.absolute(asked.path), parents=parents, mode=mode)
        return answer(made, 200 if there else 201, about)

    url = "/v1/sandboxes/{id}/files"
    router.add_api_route(
        url, read, methods=["GET"], summary="Read a file, list a directory, or look at either",
        **docs.described(
            docs.ID, docs.EPOCH, _PATH, _USER,
            docs.query("as", "`stat`: a FileInfo. `list`: a FileList. `tar`: a tree. Left out: the file's content."),
            docs.query("follow", "With `as=stat`: what a symlink leads to, which is the default, or the link itself.", "boolean"),
            _DIGEST, docs.RANGE, _IF_RANGE, _IF_MATCH, statuses=(200, 206),
        ),
    )  # fmt: skip
    router.add_api_route(url, read, methods=["HEAD"], include_in_schema=False)
    written = docs.described(docs.ID, docs.EPOCH, _PATH, _USER, _MODE_BITS, _PARENTS, _TREE, answer=WrittenFile, statuses=(201, 200))
    written["openapi_extra"]["requestBody"] = _BODY
    router.add_api_route(url, write, methods=["PUT"], summary="Write a file, whole or not at all", **written)
    router.add_api_route(
        url, remove, methods=["DELETE"], summary="Remove a file, a directory or a tree",
        **docs.described(
            docs.ID, docs.EPOCH, _PATH, _USER, docs.query("recursive", "A directory with all that is in it.", "boolean"), answer=RemovedFile
        ),
    )  # fmt: skip
    router.add_api_route(
        f"{url}/directory", make_directory, methods=["POST"], summary="Make a directory",
        **docs.described(docs.ID, docs.EPOCH, _PATH, _USER, _MODE_BITS, _PARENTS, answer=FileInfo, statuses=(201, 200)),
    )  # fmt: skip
    return router
