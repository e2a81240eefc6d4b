"""How the client knows that an https server is the right one: a CA file, a pinned certificate, or the system's CAs."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass

from remote_env.errors import InvalidSpec

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Tls:
    """`fingerprint` is the sha256 of the server's certificate in hex, colons allowed; it replaces the CA check."""

    ca_file: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.fingerprint is None:
            return
        pin = self.fingerprint.lower().removeprefix("sha256:").replace(":", "").strip()
        if not _FINGERPRINT.fullmatch(pin):
            raise InvalidSpec("The fingerprint is not a sha256 in hex (64 digits, colons allowed).")
        object.__setattr__(self, "fingerprint", pin)

    def context(self) -> ssl.SSLContext:
        """Raises InvalidSpec when the CA file cannot be read."""
        if self.fingerprint is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.check_hostname = False  # the pin says more than any name
            context.verify_mode = ssl.CERT_NONE
            return context
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSpec(f"The CA file {self.ca_file!r} cannot be used: {error}") from error
        # urllib3 then compares the name itself, which its versions before 2 need for addresses: they send no name for one.
        context.check_hostname = False
        return context
