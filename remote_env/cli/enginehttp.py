"""A few words with a Docker engine over its unix socket, without the docker SDK, which the client does not need."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any
from urllib.parse import urlsplit

DEFAULT_HOST = "unix:///var/run/docker.sock"
_TIMEOUT_S = 10.0  # /info walks over every container, so a busy engine may take a moment


class EngineUnreachable(Exception):
    """The engine gave no answer; the message says why, and what to do."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def engine_host() -> str:
    """The engine that a server started here would use."""
    return os.environ.get("REMOTE_ENV_SERVER_DOCKER_HOST") or os.environ.get("DOCKER_HOST") or DEFAULT_HOST


def ask_engine(path: str) -> Any:
    """The engine's JSON answer to GET `path`. Raises EngineUnreachable."""
    host = engine_host()
    parts = urlsplit(host)
    if parts.scheme != "unix":
        raise EngineUnreachable(f"{host} is not a socket of this machine: run the server beside its engine, and this command there")
    connection = _UnixConnection(parts.path)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise EngineUnreachable(f"{host} answers {answer.status} to GET {path}")
        return json.loads(body)
    except FileNotFoundError:
        raise EngineUnreachable(f"{parts.path} does not exist: install Docker Engine, start it, or set DOCKER_HOST") from None
    except PermissionError:
        mend = "join the group docker (usermod -aG docker YOU, then log in again)"
        raise EngineUnreachable(f"{parts.path} is closed to you: {mend}") from None
    except ConnectionRefusedError:
        raise EngineUnreachable(f"nobody listens at {parts.path}: start the engine (systemctl start docker)") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise EngineUnreachable(f"{host} does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()
