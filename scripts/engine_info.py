"""Ask a Docker engine who it is, with the standard library alone (there may be no docker CLI and no venv yet).

Usage: engine_info.py HOST [FIELD]. HOST is a DOCKER_HOST value. Prints the engine's /info as JSON, or one field of it.
Exit code 0 when the engine answered, 1 when not, with the reason on stderr.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys
from urllib.parse import urlsplit

TIMEOUT = 10.0  # seconds; /info walks every container, so a busy engine may take a moment


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the engine's unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connection(host: str) -> http.client.HTTPConnection:
    """The connection for a DOCKER_HOST value, not yet opened. Raises ValueError for a scheme that it cannot speak."""
    url = urlsplit(host)
    if url.scheme == "unix":
        return UnixConnection(url.path)
    if url.scheme in ("tcp", "http", "https") and url.hostname:
        if url.scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY"):
            certificates = os.environ.get("DOCKER_CERT_PATH", os.path.expanduser("~/.docker"))
            context = ssl.create_default_context(cafile=os.path.join(certificates, "ca.pem"))
            context.load_cert_chain(os.path.join(certificates, "cert.pem"), os.path.join(certificates, "key.pem"))
            return http.client.HTTPSConnection(url.hostname, url.port or 2376, timeout=TIMEOUT, context=context)
        return http.client.HTTPConnection(url.hostname, url.port or 2375, timeout=TIMEOUT)
    raise ValueError(f"{host}: only unix:// and tcp:// engines can be asked (the server must run beside its engine)")


def main(host: str, field: str | None = None) -> int:
    try:
        link = connection(host)
        link.request("GET", "/info")
        answer = link.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"the engine answered {answer.status}: {body[:200].decode(errors='replace')}")
        info = json.loads(body)
    except PermissionError:
        sys.stderr.write(f"no right to use {host}: run as root, or join the group that owns the socket (usually `docker`)\n")
        return 1
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.stderr.write(f"no engine answers at {host}: {error}\n")
        return 1
    value = info if field is None else info[field]
    sys.stdout.write((value if isinstance(value, str) else json.dumps(value)) + "\n")
    return 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} HOST [FIELD]")
    sys.exit(main(*sys.argv[1:]))
