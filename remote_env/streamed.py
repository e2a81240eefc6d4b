"""An answer that is read while it comes, over a connection that serves nothing else any more."""

from __future__ import annotations

import os
import socket
from http.client import HTTPException
from typing import Any

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError

from remote_env.stats import Stats

_READ_BYTES = 64 << 10


class StreamBroken(Exception):
    """The answer was cut. `silent`: nothing came for the longest silence that was allowed."""

    def __init__(self, reason: str, *, silent: bool) -> None:
        super().__init__(reason)
        self.silent = silent


class StreamedReply:
    """Status and headers, and the body piece by piece. One thread reads and closes it; others may interrupt it.

    It is of the process that asked for it. In a forked child it is broken: what the child read would be missing in the parent.
    """

    def __init__(self, response: requests.Response, stats: Stats) -> None:
        self.status = response.status_code
        self.headers: CaseInsensitiveDict[str] = response.headers
        self._response = response
        self._stats = stats
        self._pid = os.getpid()
        # The standard library's own response: it gives what has come, where urllib3's waits until it has as much as asked for.
        self._body: Any = response.raw._original_response

    def read(self) -> bytes:
        """What has come since, waiting for at least one byte; b"" at the end of the answer. Raises StreamBroken."""
        if os.getpid() != self._pid:
            raise StreamBroken("this process was forked, and the connection is its parent's", silent=False)
        try:
            data: bytes = self._body.read1(_READ_BYTES)
        except (HTTPException, HTTPError, OSError, ValueError) as error:  # the last: interrupted before it began to read
            raise StreamBroken(f"{type(error).__name__}: {error}", silent=isinstance(error, TimeoutError)) from error
        self._stats.add(bytes_received=len(data))
        return data

    def read_all(self, limit: int) -> bytes:
        """The whole body, or as much of it as `limit` bytes hold. Raises StreamBroken."""
        data = bytearray()
        while len(data) < limit and (piece := self.read()):
            data += piece
        return bytes(data[:limit])

    def interrupt(self) -> None:
        """Wakes whoever reads. Below TLS on purpose: SSLSocket.shutdown() is not safe beside a reader."""
        reader = getattr(self._body.fp, "raw", None)
        if reader is not None and os.getpid() == self._pid:
            try:
                socket.socket.shutdown(reader._sock, socket.SHUT_RDWR)
            except (OSError, AttributeError):
                return  # it is closed already

    def close(self) -> None:
        """The connection goes with it: what is half read is of no use to another request."""
        self._response.close()
