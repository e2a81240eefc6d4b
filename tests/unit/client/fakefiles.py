"""The files of a fake server's sandboxes: kept in a directory of this machine's, spoken of as the protocol says."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import stat
import tarfile
from pathlib import Path

from remote_env.filemodels import DIGEST_BYTES, HASHED, FileInfo, FileList, WrittenFile
from remote_env.protocol import Problem
from tests.unit.client.fakehttp import Request
from tests.unit.client.fakeserver import FakeServer

Answer = tuple[int, dict[str, str], bytes]


class Refusal(Exception):
    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.problem = Problem.of(code, detail or code)


class FakeFiles(FakeServer):
    """A FakeServer whose sandboxes have files, all the same ones: below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        super().__init__()

    def _handle(self, request: Request) -> Answer:
        named = re.fullmatch(r"/v1/sandboxes/([^/]+)/files(/directory)?", request.path)
        if named is None or request.headers.get("authorization") != f"Bearer {self.token}":
            return super()._handle(request)
        refused = self._refused(request, named[1])
        if refused is not None:
            return refused
        about = {"X-Remote-Env-Sandbox": named[1], "X-Remote-Env-Epoch": self.sandboxes[named[1]].epoch or ""}
        try:
            status, headers, body = self._serve(request, named[2] is not None)
        except Refusal as refusal:
            problem = refusal.problem
            status, headers, body = problem.status, {}, problem.model_dump_json().encode()
        return status, {"X-Remote-Env-Protocol": "1", "Content-Length": str(len(body)), **about, **headers}, body

    def _serve(self, request: Request, directory: bool) -> Answer:
        path = self.root / request.query["path"].lstrip("/")
        kind = request.query.get("as")
        if request.method == "PUT":
            return self._put(request, path)
        if request.method == "POST":
            assert directory
            path.mkdir(parents="parents" in request.query, exist_ok=True)
            return 201, {}, self._info(path).model_dump_json().encode()
        if not path.exists() and not (path.is_symlink() and (request.query.get("follow") == "0" or request.method == "DELETE")):
            raise Refusal("file_not_found", request.query["path"])
        if request.method == "DELETE":
            return self._delete(request, path)
        if kind == "stat":
            return 200, {}, self._info(path, follow=request.query.get("follow") != "0").model_dump_json().encode()
        if kind == "list":
            return 200, {}, FileList(entries=[self._info(each) for each in sorted(path.iterdir())]).model_dump_json().encode()
        if kind == "tar":
            return 200, {}, framed(self._tar(path.resolve(), path.name))
        return self._content(request, path)

    def _info(self, path: Path, *, follow: bool = False) -> FileInfo:
        status = path.stat() if follow else path.lstat()
        kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
        return FileInfo.model_validate(
            {
                "path": f"/{path.relative_to(self.root)}", "type": kinds.get(stat.S_IFMT(status.st_mode), "other"), "size": status.st_size,
                "mode": stat.S_IMODE(status.st_mode), "mtime": status.st_mtime, "uid": status.st_uid, "gid": status.st_gid,
                "target": str(path.readlink()) if stat.S_ISLNK(status.st_mode) else None,
            }
        )  # fmt: skip

    def _content(self, request: Request, path: Path) -> Answer:
        if path.is_dir():
            raise Refusal("is_directory", str(path))
        status = path.stat()
        etag = f'"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"'
        if request.headers.get("if-match", etag) != etag:
            raise Refusal("changed")
        data = path.read_bytes()
        headers = {"X-Remote-Env-Mode": f"{stat.S_IMODE(status.st_mode):04o}", "ETag": etag}
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["range"])
        assert span is not None
        start, end = int(span[1]), min(int(span[2]) + 1, len(data))
        if start >= len(data):
            raise Refusal("range_not_satisfiable")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return 206, headers, framed(data[start:end])

    def _put(self, request: Request, path: Path) -> Answer:
        assert request.headers["content-type"] == HASHED
        content, digest = request.body[:-DIGEST_BYTES], request.body[-DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise Refusal("damaged")
        if request.query.get("as") == "tar":
            path.mkdir(parents=True, exist_ok=True)
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
                tar.extractall(path, filter="fully_trusted")
            written = WrittenFile(**self._info(path).model_dump())
        else:
            if path.is_dir():
                raise Refusal("is_directory", str(path))
            if "parents" in request.query:
                path.parent.mkdir(parents=True, exist_ok=True)
            elif not path.parent.exists():
                raise Refusal("file_not_found", str(path.parent))
            path.write_bytes(content)
            if "mode" in request.query:
                path.chmod(int(request.query["mode"], 8))
            written = WrittenFile(**self._info(path).model_dump(), sha256=hashlib.sha256(content).hexdigest())
        return 201, {}, written.model_dump_json().encode()

    def _delete(self, request: Request, path: Path) -> Answer:
        if not path.is_dir() or path.is_symlink():
            path.unlink()
        elif "recursive" in request.query:
            shutil.rmtree(path)
        else:
            try:
                path.rmdir()
            except OSError:
                raise Refusal("directory_not_empty", str(path)) from None
        return 200, {}, b"{}"

    @staticmethod
    def _tar(path: Path, name: str) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(path, name or ".")
        return file.getvalue()


def framed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()
