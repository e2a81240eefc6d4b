"""The pooled session over TLS: whom it trusts."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from remote_env.config import Endpoint
from remote_env.errors import InvalidSpec
from remote_env.tls import Tls
from remote_env.transport import NotSent, Transport
from tests.unit.client.conftest import FAST
from tests.unit.client.fakeserver import FakeServer

# ------------------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A self-signed certificate for 127.0.0.1, its key, its sha256."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", key,
         "-out", cert, "-subj", "/CN=remote-env", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    shown = subprocess.run(
        ["openssl", "x509", "-in", cert, "-noout", "-fingerprint", "-sha256"], check=True, capture_output=True, text=True
    )
    return cert, key, shown.stdout.strip().partition("=")[2]


@pytest.fixture
def https(certificate: tuple[Path, Path, str]) -> FakeServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[0], certificate[1])
    return FakeServer(tls=context)


def over_tls(server: FakeServer, tls: Tls) -> Transport:
    return Transport(Endpoint(server.url, "token", tls=tls), FAST)


def test_a_pinned_certificate_needs_no_ca(https: FakeServer, certificate: tuple[Path, Path, str]) -> None:
    with https:
        for pin in (certificate[2], certificate[2].replace(":", "").lower()):
            assert over_tls(https, Tls(fingerprint=pin)).call("GET", "/health").status == 200


def test_another_certificate_than_the_pinned_one_gets_not_a_byte(https: FakeServer, certificate: tuple[Path, Path, str]) -> None:
    with https:
        with pytest.raises(NotSent):
            over_tls(https, Tls(fingerprint="0" * 64)).call("POST", "/health", b"secret")
        assert not https.requests


def test_a_ca_file_is_enough_and_a_certificate_of_nobody_is_not(https: FakeServer, certificate: tuple[Path, Path, str]) -> None:
    with https:
        assert over_tls(https, Tls(ca_file=str(certificate[0]))).call("GET", "/health").status == 200
        with pytest.raises(NotSent):
            over_tls(https, Tls()).call("GET", "/health")
        assert len(https.requests) == 1


@pytest.mark.parametrize("pin", ["12:34", "g" * 64, "", "sha1:" + "0" * 64])
def test_a_fingerprint_that_is_none_is_refused(pin: str) -> None:
    with pytest.raises(InvalidSpec, match="sha256"):
        Tls(fingerprint=pin)


def test_a_trusted_certificate_of_another_host_is_refused(https: FakeServer, certificate: tuple[Path, Path, str]) -> None:
    with https:
        port = https.url.rsplit(":", 1)[1]
        elsewhere = Endpoint(f"https://localhost:{port}", "token", tls=Tls(ca_file=str(certificate[0])))
        with pytest.raises(NotSent, match=r"(?i)hostname|match"):
            Transport(elsewhere, FAST).call("GET", "/health")
        assert not https.requests


def test_a_ca_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"/no/such\.pem"):
        Transport(Endpoint("https://127.0.0.1:9", "token", tls=Tls(ca_file="/no/such.pem")), FAST)
