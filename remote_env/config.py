"""Where the client finds its server and its token: argument, then environment, then the local server's own files."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from remote_env.errors import InvalidSpec
from remote_env.paths import default_data_dir
from remote_env.protocol import DEFAULT_PORT
from remote_env.tls import Tls

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

log = logging.getLogger("remote_env")


def _is_usable(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


class TokenSource:
    """A token that is given, or read from a file and read again when the server refuses it (rotation)."""

    def __init__(self, token: str | None = None, path: Path | None = None) -> None:
        self._token = token
        self._path = path if token is None else None
        if self._path is not None:
            self.reload()

    @property
    def value(self) -> str | None:
        return self._token

    @property
    def origin(self) -> str:
        """Where the token came from, in words without the token itself; for messages."""
        if self._path is None:
            return "the token that was given" if self._token else "no token"
        return f"the token in {self._path}" if self._token else f"no token (there is none in {self._path})"

    def reload(self) -> bool:
        """Reads the file again; True when there is another token now."""
        if self._path is None:
            return False
        try:
            text = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            log.debug("token file %s: %s", self._path, error)
            return False
        changed = text != self._token and _is_usable(text)
        if changed:
            self._token = text
        return changed

    def __repr__(self) -> str:
        return f"<TokenSource: {self.origin}>"


@dataclass(frozen=True)
class Endpoint:
    """One server as one caller sees it. Equal endpoints may share a heartbeat. The token is in no repr."""

    url: str
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    tls: Tls = Tls()

    def token_source(self) -> TokenSource:
        return TokenSource(self.token, Path(self.token_file) if self.token_file else None)

    @classmethod
    def resolve(
        cls,
        url: str | None = None,
        token: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        fingerprint: str | None = None,
    ) -> Endpoint:
        """Fills in what is not given from REMOTE_ENV_URL, REMOTE_ENV_TOKEN, REMOTE_ENV_TOKEN_FILE,
        REMOTE_ENV_CA_FILE, REMOTE_ENV_FINGERPRINT, and for a server on this machine from its data directory.

        Raises InvalidSpec for an URL or a token that cannot be used.
        """
        environ = os.environ
        found_url = _check_url(url or environ.get("REMOTE_ENV_URL") or DEFAULT_URL)
        if token is None and token_file is None:
            token = environ.get("REMOTE_ENV_TOKEN") or None
            token_file = environ.get("REMOTE_ENV_TOKEN_FILE") or None
            # The local server's token is not for other machines to see.
            if token is None and token_file is None and urlsplit(found_url).hostname in _LOOPBACK:
                token_file = default_data_dir() / "token"
        if token is not None and not _is_usable(token):
            raise InvalidSpec("The token holds characters that cannot be sent in a header.")
        tls = Tls(
            ca_file=os.fspath(ca_file) if ca_file else environ.get("REMOTE_ENV_CA_FILE") or None,
            fingerprint=fingerprint or environ.get("REMOTE_ENV_FINGERPRINT") or None,
        )
        if tls != Tls() and urlsplit(found_url).scheme == "http" and urlsplit(found_url).hostname not in _LOOPBACK:
            raise InvalidSpec(f"A CA file or fingerprint is given, and {found_url} is not https: the token would be sent in the clear.")
        return cls(found_url, token, os.fspath(token_file) if token_file and token is None else None, tls)


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidSpec(f"Not an URL of a server: {url!r}. It looks like {DEFAULT_URL}.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidSpec("The URL must hold no user, password, query or fragment; the token goes into REMOTE_ENV_TOKEN.")
    return url.rstrip("/")
