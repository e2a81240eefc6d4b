"""Who may ask: the token, the Host header, and no browsers.

The Docker socket behind this server is root on the machine, so a token is asked for always, on loopback too. Host names
are held against a list and any Origin is refused, so that a web page that makes its own name point to 127.0.0.1 (DNS
rebinding) gets nothing, not even an error that depends on the token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from remote_env.protocol import Problem
from server.listen import is_loopback

_REMEMBERED_HOSTS = 256  # distinct Host headers whose verdict is kept


class Credentials(NamedTuple):
    """What a request's headers say of it. All None where missing."""

    host: bytes | None
    origin: bytes | None
    authorization: bytes | None


class Auth:
    """Decides whether a request may go on; no I/O.

    Args:
        token: the server's.
        bound_host: the address that the server listens on. Loopback names and addresses are always allowed; where others
            can reach the server, every literal address is (a rebinding page has a name), and so are `names`.
        names: host names allowed beside.
    """

    def __init__(self, token: str, bound_host: str = "127.0.0.1", names: Iterable[str] = ()) -> None:
        self._digest = hashlib.sha256(b"Bearer " + token.encode()).digest()
        self._names = {"localhost", bound_host.strip("[]").lower(), *(name.strip("[]").lower().rstrip(".") for name in names)}
        self._any_address = not is_loopback(bound_host)
        self._verdicts: dict[bytes, bool] = {}

    def refusal(self, credentials: Credentials, *, token_needed: bool = True) -> Problem | None:
        """Why the request is refused; None when it may go on.

        Args:
            token_needed: False where a request without any token is answered too; a wrong one is refused all the same.
        """
        if credentials.origin is not None:
            return Problem.of("forbidden", "requests of web pages (with an Origin header) are not answered")
        if credentials.host is None or not self._host_allowed(credentials.host):
            return Problem.of(
                "forbidden", "the Host header names no host of this server; `remote-env serve --allowed-host NAME` allows a name"
            )  # fmt: skip
        if credentials.authorization is None:
            return Problem.of("unauthorized", "the token is missing: send `Authorization: Bearer TOKEN`") if token_needed else None
        presented = hashlib.sha256(credentials.authorization).digest()
        if not hmac.compare_digest(presented, self._digest):
            return Problem.of("unauthorized", "the token is not this server's")
        return None

    def _host_allowed(self, header: bytes) -> bool:
        verdict = self._verdicts.get(header)
        if verdict is None:
            if len(self._verdicts) >= _REMEMBERED_HOSTS:
                self._verdicts.clear()
            verdict = self._verdicts[header] = self._judge(header.decode("latin-1").strip().lower())
        return verdict

    def _judge(self, header: str) -> bool:
        if header.startswith("["):
            name, bracket, port = header[1:].partition("]")
            if not bracket or (port and not (port.startswith(":") and port[1:].isdigit())):
                return False
        else:
            name, colon, port = header.partition(":")
            if colon and not port.isdigit():
                return False
        name = name.rstrip(".")
        if name in self._names or is_loopback(name):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address
