"""TLS certificates: the one given, or one made once and pinned by its fingerprint."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.datadir import CannotStart

_VALID = datetime.timedelta(days=3653)  # ten years: clients pin the fingerprint, a change of it is the rotation
_CLOCK_SKEW = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate chain and its key, both PEM files."""

    cert: Path
    key: Path

    def fingerprint(self) -> str:
        """sha256 of the first certificate as pairs of hex digits with colons: what clients pin."""
        try:
            der = ssl.PEM_cert_to_DER_cert(_first_pem(self.cert.read_text(encoding="ascii")))
        except (OSError, ValueError) as error:
            raise CannotStart(f"the TLS certificate {self.cert} cannot be read: {error}") from None
        digits = hashlib.sha256(der).hexdigest().upper()
        return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))

    def check(self) -> None:
        """Raises CannotStart where certificate and key cannot be used together."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or str(error)
            raise CannotStart(f"TLS cannot be served with {self.cert} and {self.key}: {reason}") from None


def self_signed(directory: Path, names: list[str]) -> Certificate:
    """The certificate in `directory`, made there at the first call.

    Args:
        names: host names and addresses that it shall be valid for, beside this machine's own.
    """
    made = Certificate(directory / "cert.pem", directory / "key.pem")
    if made.cert.exists() and made.key.exists():
        return made
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )  # fmt: skip
        # The key first: a crash in between leaves no certificate, and both are made anew.
        _write(made.key, pem, 0o600)
        _write(made.cert, _certificate(key, names).public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as error:
        raise CannotStart(f"no TLS certificate can be made in {directory}: {error.strerror}") from None
    return made


def own_names() -> list[str]:
    """The names and addresses that this machine gives itself."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn()]
    try:
        names += [str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(socket.gethostname(), None)]
    except OSError:
        # A host whose own name does not resolve has no further addresses to tell.
        return list(dict.fromkeys(names))
    return list(dict.fromkeys(names))


def _certificate(key: ec.EllipticCurvePrivateKey, names: list[str]) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "remote-env")])
    alternatives = [_alternative(each) for each in dict.fromkeys([*own_names(), *names])]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([each for each in alternatives if each is not None]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _alternative(name: str) -> x509.GeneralName | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return x509.DNSName(name) if name and name.isascii() else None
    return None if address.is_unspecified else x509.IPAddress(address)


def _first_pem(text: str) -> str:
    end = "-----END CERTIFICATE-----"
    begin = text.find("-----BEGIN CERTIFICATE-----")
    if begin < 0 or end not in text:
        raise ValueError("it holds no PEM certificate")
    return text[begin : text.index(end) + len(end)]


def _write(path: Path, content: bytes, mode: int) -> None:
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
