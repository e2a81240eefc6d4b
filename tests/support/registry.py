"""A registry that one engine on this machine can pull one image from. Plain HTTP: engines take 127.0.0.1 for trustworthy.

See https://distribution.github.io/distribution/spec/api/ for what it answers, and
https://distribution.github.io/distribution/spec/manifest-v2-2/ for the manifest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves an image that is like another one, with a file /made-for in it.

    Args:
        saved: what `docker save` gave of the image that it is like.

    Attributes:
        asked: how often each thing was fetched: "config", "layer", and "manifest", which engines may ask for twice in one pull.
        layers: how many the image has.
        hold: while it is clear, layers do not come.
    """

    def __init__(self, saved: bytes, label: str) -> None:
        self.asked: Counter[str] = Counter()
        self.hold = threading.Event()
        self.hold.set()
        self._blobs: dict[str, tuple[str, bytes]] = {}  # digest → kind, content
        self._manifest = self._made_of(saved, label)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.image = f"127.0.0.1:{self._http.server_address[1]}/{label}:1"

    @contextmanager
    def serving(self) -> Iterator[Registry]:
        thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.hold.set()
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    def _made_of(self, saved: bytes, label: str) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(saved)) as tar:

            def content(name: str) -> bytes:
                file = tar.extractfile(name)
                assert file is not None
                return file.read()

            (described,) = json.loads(content("manifest.json"))
            config = json.loads(content(described["Config"]))
            layers = [*map(content, described["Layers"]), _layer({"made-for": label})]  # the last is one that no engine has yet
        config["rootfs"]["diff_ids"] = [_digest(layer) for layer in layers]
        config["history"] = [{"created_by": "a test"}] * len(layers)
        self.layers = len(layers)
        zipped = [self._blob("layer", _LAYER, gzip.compress(layer, 1)) for layer in layers]
        return _json({"schemaVersion": 2, "mediaType": _MANIFEST, "config": self._blob("config", _CONFIG, _json(config)), "layers": zipped})

    def _blob(self, kind: str, media_type: str, content: bytes) -> dict[str, Any]:
        digest = _digest(content)
        self._blobs[digest] = kind, content
        return {"mediaType": media_type, "size": len(content), "digest": digest}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                kind, content = registry._find(self.path)
                if kind and (self.command == "GET" or kind == "manifest"):
                    registry.asked[kind] += 1
                if kind == "layer":
                    registry.hold.wait(30)
                self.send_response(200 if content is not None else 404)
                body = content or b""
                self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
                self.send_header("Content-Type", _MANIFEST if kind == "manifest" else "application/octet-stream")
                self.send_header("Docker-Content-Digest", _digest(body))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        return Handler

    def _find(self, path: str) -> tuple[str, bytes | None]:
        if path == "/v2/":
            return "", b"{}"
        *_, kind, name = path.split("/")
        if kind == "manifests":
            return "manifest", self._manifest
        return self._blobs.get(name, ("", None))


def _layer(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
