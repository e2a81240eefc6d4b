"""The build of the init: what it makes, when it makes it again, what it says when it cannot."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from server import initbuild


def test_binary_is_built_once_and_again_only_when_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "init"
    sources.mkdir()
    (sources / "main.c").write_text("int main(void) { return 3; }\n")
    monkeypatch.setattr(initbuild, "SOURCES", sources)
    out = tmp_path / "bin"

    binary = initbuild.build(initbuild.host_arch(), out)
    assert subprocess.run([binary]).returncode == 3
    first = binary.stat()
    assert initbuild.build(initbuild.host_arch(), out).stat().st_ino == first.st_ino

    (sources / "main.c").write_text("int main(void) { return 4; }\n")
    assert subprocess.run([initbuild.build(initbuild.host_arch(), out)]).returncode == 4
    assert len(list(out.iterdir())) == 2  # the binary and its stamp


def test_compiler_s_complaint_is_shown_and_no_binary_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "init"
    sources.mkdir()
    (sources / "main.c").write_text("int main(void) { return undeclared_name; }\n")
    monkeypatch.setattr(initbuild, "SOURCES", sources)
    with pytest.raises(initbuild.InitUnavailable, match="undeclared_name"):
        initbuild.build(initbuild.host_arch(), tmp_path / "bin")
    assert list((tmp_path / "bin").iterdir()) == []


def test_binary_of_a_wheel_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = tmp_path / "remote-env-init-aarch64"
    bundled.write_bytes(b"from the wheel")
    monkeypatch.setattr(initbuild, "BINARIES", tmp_path)
    assert initbuild.init_path("arm64") == bundled
    assert bundled.read_bytes() == b"from the wheel"


def test_without_a_compiler_the_error_says_what_would_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(initbuild, "BINARIES", tmp_path)
    with pytest.raises(initbuild.InitUnavailable, match="pip install ziglang"):
        initbuild.init_path("x86_64")


def test_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(initbuild.InitUnavailable, match="riscv64"):
        initbuild.init_path("riscv64")


def test_init_is_one_static_file(plain_binary: Path) -> None:
    content = plain_binary.read_bytes()
    assert content.startswith(b"\x7fELF\x02")
    (table,), (size, count) = struct.unpack_from("<Q", content, 32), struct.unpack_from("<HH", content, 54)
    segments = [struct.unpack_from("<I", content, table + i * size)[0] for i in range(count)]
    interpreter, loaded = 3, 1  # PT_INTERP, PT_LOAD
    assert loaded in segments
    assert interpreter not in segments


def test_init_refuses_options_that_it_does_not_know(plain_binary: Path) -> None:
    done = subprocess.run([plain_binary, "--no-such-option"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr
