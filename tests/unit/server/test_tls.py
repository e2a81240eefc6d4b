from __future__ import annotations

import hashlib
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from server.datadir import CannotStart
from server.tls import Certificate, self_signed


def test_certificate_is_made_once_for_this_machines_names(tmp_path: Path) -> None:
    made = self_signed(tmp_path / "tls", ["build-7.example", "192.0.2.7", "0.0.0.0"])
    again = self_signed(tmp_path / "tls", [])
    assert again.fingerprint() == made.fingerprint()
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate(made.cert.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "build-7.example"} <= set(names.get_values_for_type(x509.DNSName))
    addresses = {str(each) for each in names.get_values_for_type(x509.IPAddress)}
    assert {"127.0.0.1", "::1", "192.0.2.7"} <= addresses
    assert "0.0.0.0" not in addresses
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days > 3650


def test_fingerprint_is_that_of_the_served_certificate(tmp_path: Path) -> None:
    made = self_signed(tmp_path, [])
    der = ssl.PEM_cert_to_DER_cert(made.cert.read_text())
    assert made.fingerprint().replace(":", "").lower() == hashlib.sha256(der).hexdigest()
    assert len(made.fingerprint()) == 95


def test_crash_between_key_and_certificate_is_made_good(tmp_path: Path) -> None:
    made = self_signed(tmp_path, [])
    made.cert.unlink()
    self_signed(tmp_path, []).check()


def test_certificate_that_does_not_fit_its_key_is_refused(tmp_path: Path) -> None:
    one, other = self_signed(tmp_path / "1", []), self_signed(tmp_path / "2", [])
    with pytest.raises(CannotStart, match="TLS cannot be served"):
        Certificate(one.cert, other.key).check()
    with pytest.raises(CannotStart, match="No such file"):
        Certificate(tmp_path / "none.pem", one.key).check()
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(CannotStart, match="no PEM certificate"):
        Certificate(tmp_path / "empty.pem", one.key).fingerprint()
