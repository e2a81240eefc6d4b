"""An answer that is read while it comes, over a connection that serves nothing else any more."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from remote_env.carrier import StreamBroken
from remote_env.stats import Stats

_READ_BYTES = 64 << 10  # at first; as much as comes at once doubles it
_MOST_READ_BYTES = 512 << 10


class BlockingReply:
    """See `carrier.StreamedReply`. One thread reads and closes it; others may interrupt it.

    It is of the process that asked for it. In a forked child it is broken: what the child read would be missing in the parent.
    `asked`: the request was sent whole; if not, its connection serves no other.
    """

    def __init__(self, response: requests.Response, stats: Stats, *, asked: bool = True) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._stats = stats
        self._pid = os.getpid()
        self._asked = asked
        self._size = _READ_BYTES
        # The standard library's own response: it gives what has come, where urllib3's waits until it has as much as asked for.
        self._body: Any = response.raw._original_response

    async def read(self) -> bytes:
        if os.getpid() != self._pid:
            raise StreamBroken("this process was forked, and the connection is its parent's", silent=False)
        try:
            data: bytes = self._body.read1(self._size)
        except (HTTPException, HTTPError, OSError, ValueError) as error:  # the last: interrupted before it began to read
            raise StreamBroken(f"{type(error).__name__}: {error}", silent=isinstance(error, TimeoutError)) from error
        if len(data) == self._size < _MOST_READ_BYTES:
            self._size *= 2
        self._stats.add(bytes_received=len(data))
        return data

    async def read_all(self, limit: int) -> bytes:
        data = bytearray()
        while len(data) < limit and (piece := await self.read()):
            data += piece
        return bytes(data[:limit])

    def release(self) -> None:
        whole = self._body.isclosed() or self._body.length == 0
        if self._asked and whole and os.getpid() == self._pid:
            self._body.close()
            self._response.raw.release_conn()
        else:
            self._response.close()

    def interrupt(self) -> None:
        """Wakes whoever reads. Below TLS on purpose: SSLSocket.shutdown() is not safe beside a reader."""
        reader = getattr(self._body.fp, "raw", None)
        if reader is not None and os.getpid() == self._pid:
            try:
                socket.socket.shutdown(reader._sock, socket.SHUT_RDWR)
            except (OSError, AttributeError):
                return  # it is closed already

    def close(self) -> None:
        self._response.close()
