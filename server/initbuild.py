"""Builds the init, the sandboxes' PID 1, from the C sources in ``server/init``. Standard library only: a wheel's build uses it.

    python -m server.initbuild [--out DIR] [--arch host|x86_64|aarch64|all] [--sanitize]

The result is one static binary per architecture, ``server/init/bin/remote-env-init-<arch>``, and beside it an empty stamp
whose name holds the hash of sources and flags: what is up to date is not built again. Two compilers will do: the machine's
own ``cc`` (its own architecture only) and ``zig cc`` from the ``ziglang`` package (every architecture, static musl).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "init"
BINARIES = SOURCES / "bin"
ARCHITECTURES = ("x86_64", "aarch64")

_ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}
_COMMON_FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror")
_STATIC_FLAGS = ("-O2", "-static", "-s")
_SANITIZE_FLAGS = (
    "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DINIT_SANITIZED",
)  # fmt: skip


class InitUnavailable(RuntimeError):
    """There is no init for this architecture and it cannot be built here; the message says what would help."""


@dataclass(frozen=True)
class _Compiler:
    name: str
    command: tuple[str, ...]


def host_arch() -> str:
    """The machine's architecture, by the name that the kernel has for it."""
    return normal_arch(platform.machine())


def normal_arch(arch: str) -> str:
    """`x86_64` or `aarch64` for whatever an engine or a platform calls it. Raises InitUnavailable for anything else."""
    name = _ALIASES.get(arch.lower(), arch.lower())
    if name not in ARCHITECTURES:
        raise InitUnavailable(f"there is no init for the architecture {arch!r}; there is one for {' and '.join(ARCHITECTURES)}")
    return name


def init_path(arch: str) -> Path:
    """The init for engines on `arch`: the wheel's, or one built now (a second with cc, a minute with zig, once).

    Raises InitUnavailable.
    """
    arch = normal_arch(arch)
    binary = BINARIES / f"remote-env-init-{arch}"
    bundled = binary.exists() and not list(BINARIES.glob(f".{binary.name}.*.stamp"))
    return binary if bundled else _build(arch, BINARIES, _quick_compilers(arch))


def build(arch: str, out: Path = BINARIES) -> Path:
    """Build the init for `arch` into `out` unless it is there; with zig where it is installed, so that it is small and the
    same from every machine. Returns its path. Raises InitUnavailable."""
    arch = normal_arch(arch)
    return _build(arch, out, _zig(arch) or _cc(arch))


def build_sanitized(out: Path = BINARIES, defines: tuple[str, ...] = ()) -> Path:
    """Build the host's init for tests: dynamic, with the address and undefined-behaviour sanitizers, and with `defines`
    ("NAME=value") for the preprocessor. Returns its path. Raises InitUnavailable."""
    suffix = "".join(f"-{define.replace('=', '-').lower()}" for define in defines)
    flags = (*_SANITIZE_FLAGS, *(f"-D{define}" for define in defines))
    return _build(host_arch(), out, _cc(host_arch()), flags, f"-sanitized{suffix}")


def _cc(arch: str) -> list[_Compiler]:
    path = shutil.which("cc") or shutil.which("gcc")
    return [_Compiler("cc", (path,))] if path and arch == host_arch() else []


def _zig(arch: str) -> list[_Compiler]:
    if importlib.util.find_spec("ziglang") is None:
        return []
    return [_Compiler("zig", (sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-musl"))]


def _quick_compilers(arch: str) -> list[_Compiler]:
    return _cc(arch) + _zig(arch)


def _fingerprint(flags: tuple[str, ...]) -> str:
    digest = hashlib.sha256("\0".join(flags).encode())
    for source in sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(arch: str, out: Path, compilers: list[_Compiler], special_flags: tuple[str, ...] = _STATIC_FLAGS, suffix: str = "") -> Path:
    flags = (*_COMMON_FLAGS, *special_flags)
    binary = out / f"remote-env-init-{arch}{suffix}"
    fingerprint = _fingerprint(flags)
    stamps = {compiler.name: out / f".{binary.name}.{fingerprint}.{compiler.name}.stamp" for compiler in compilers}
    if binary.exists() and any(stamp.exists() for stamp in stamps.values()):
        return binary
    complaints = []
    for compiler in compilers:
        complaint = _compile(compiler, flags, binary)
        if complaint is None:
            stamps[compiler.name].touch()
            for old in set(out.glob(f".{binary.name}.*.stamp")) - {stamps[compiler.name]}:
                with contextlib.suppress(FileNotFoundError):  # another build may have been faster
                    old.unlink()
            return binary
        complaints.append(f"{compiler.name}: {complaint}")
    help_ = "install a C compiler with a static libc (Debian: gcc libc6-dev), or: pip install ziglang"
    raise InitUnavailable(f"the init for {arch} cannot be built here; {help_}\n" + "\n".join(complaints))


def _compile(compiler: _Compiler, flags: tuple[str, ...], binary: Path) -> str | None:
    """None, or why it failed. The binary appears whole or not at all."""
    try:
        binary.parent.mkdir(parents=True, exist_ok=True)
        descriptor, fresh = tempfile.mkstemp(dir=binary.parent, prefix=f".{binary.name}.")
        os.close(descriptor)
    except OSError as error:
        return f"{binary.parent} cannot be written: {error.strerror}"
    try:
        sources = [str(source) for source in sorted(SOURCES.glob("*.c"))]
        done = subprocess.run([*compiler.command, *flags, "-o", fresh, *sources], capture_output=True, text=True)
        if done.returncode != 0:
            return done.stderr.strip() or f"ended with {done.returncode}"
        os.chmod(fresh, 0o755)
        os.replace(fresh, binary)
        return None
    except OSError as error:
        return f"{compiler.command[0]}: {error.strerror}"
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m server.initbuild", description="Build the sandboxes' init.")
    parser.add_argument("--out", type=Path, default=BINARIES, help="directory for the binaries (default: %(default)s)")
    parser.add_argument("--arch", choices=["host", "all", *ARCHITECTURES], default="host")
    parser.add_argument("--sanitize", action="store_true", help="the host's, with sanitizers, for tests")
    arguments = parser.parse_args()
    try:
        if arguments.sanitize:
            binaries = [build_sanitized(arguments.out)]
        else:
            wanted = {"host": (host_arch(),), "all": ARCHITECTURES}.get(arguments.arch, (arguments.arch,))
            binaries = [build(arch, arguments.out) for arch in wanted]
    except InitUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for binary in binaries:
        sys.stdout.write(f"{binary} {binary.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
