"""The server's settings. Each is one row of `Settings`: its default, how it is written, and what it does.

A setting comes from the first of these that names it: the flag (``--min-free-disk``), the environment variable
(``REMOTE_ENV_SERVER_MIN_FREE_DISK``), the TOML file (``min_free_disk``; the file is named by ``--config`` or
REMOTE_ENV_SERVER_CONFIG), the default. Units are in the attribute names (`…_s` seconds, `…_bytes`), not in the names that
users write: there ``24h`` and ``2GiB`` say it.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_env.paths import default_data_dir
from remote_env.protocol import DEFAULT_PORT
from server import failpoints
from server.listen import is_loopback
from server.profiles import WARM, Warm
from server.units import COUNT, DURATION, NUMBER, PATH, PATHS, PORT, SIZE, SWITCH, TEXT, TEXTS, Kind, choice, show_duration

ENV_PREFIX = "REMOTE_ENV_SERVER_"
CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
LONGEST_CALL_S = 1800.0  # the client's shortest call deadline; results have to outlive it
CALL_MARGIN_S = 30.0


class SettingsError(Exception):
    """A setting cannot be used. One sentence that names the setting, where it came from, and what is wrong."""


def host_memory_bytes() -> int:
    """The machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def creations_at_once() -> int:
    """An engine makes no more containers a second with more at once: with two CPUs as many with three as with sixteen, as long as
    nothing else wants them. Some more than that take their share of a busy machine."""
    return 4 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class Setting:
    """A row as `--help` and the documentation show it."""

    name: str  # as users write it: no unit
    attribute: str  # of Settings
    kind: Kind
    help: str
    default: str  # in words

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.name.upper()


def _row(kind: Kind, help: str, *, shown: str | None = None, also: str | None = None) -> dict[str, Any]:
    """A row's metadata. `shown`: the default in words; `also`: a further environment variable, asked last."""
    return {"kind": kind, "help": help, "shown": shown, "also": also}


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Made by `load`; tests make it directly."""

    host: str = field(
        default="127.0.0.1",
        metadata=_row(TEXT, "Address to listen on. 127.0.0.1 and localhost stand for IPv4 and IPv6 loopback, :: for all."),
    )
    port: int = field(default=DEFAULT_PORT, metadata=_row(PORT, "TCP port; 0 takes a free one."))
    data_dir: Path = field(
        default_factory=default_data_dir,
        metadata=_row(PATH, "Journal, output, token, certificate. Made with mode 0700.", shown="by platform"),
    )
    token_file: Path | None = field(default=None, metadata=_row(PATH, "File with the token; made where missing.", shown="DATA_DIR/token"))
    tls_cert: Path | None = field(default=None, metadata=_row(PATH, "Certificate chain (PEM), with --tls-key."))
    tls_key: Path | None = field(default=None, metadata=_row(PATH, "The certificate's key (PEM)."))
    tls_self_signed: bool = field(
        default=False,
        metadata=_row(SWITCH, "Make a certificate once, serve TLS with it, show its fingerprint for clients to pin."),
    )
    insecure: bool = field(default=False, metadata=_row(SWITCH, "Allow an address that others can reach without TLS."))
    allowed_hosts: tuple[str, ...] = field(default=(), metadata=_row(TEXTS, "Further names that requests may carry in their Host header."))
    docker_host: str = field(
        default="unix:///var/run/docker.sock",
        metadata=_row(TEXT, "The Docker engine, on this machine.", also="DOCKER_HOST"),
    )
    default_image: str | None = field(
        default=None,
        metadata=_row(TEXT, "Image of the shared sandbox that POST /execute uses when none is named."),
    )
    default_memory_bytes: int = field(default=4 << 30, metadata=_row(SIZE, "Memory limit of a sandbox that names none."))
    default_pids: int = field(default=4096, metadata=_row(COUNT, "Process limit of a sandbox that names none."))
    default_cpus: float | None = field(default=None, metadata=_row(NUMBER, "CPU limit of a sandbox that names none.", shown="the host's"))
    max_sandbox_memory_bytes: int = field(
        default_factory=host_memory_bytes,
        metadata=_row(SIZE, "Most memory that one sandbox may ask for.", shown="the host's"),
    )
    capacity_memory_bytes: int = field(
        default_factory=host_memory_bytes,
        metadata=_row(SIZE, "Memory of all sandboxes together.", shown="the host's"),
    )
    max_creations: int = field(
        default_factory=creations_at_once,
        metadata=_row(COUNT, "Containers made at once; further ones wait their turn.", shown="four times the host's CPUs"),
    )
    warm: tuple[Warm, ...] = field(
        default=(),
        metadata=_row(
            WARM,
            "So many sandboxes of IMAGE are kept ready, to be had in milliseconds. Options after commas: cpus=2, memory=4g, pids=512, "
            "shm=1g, network=none, platform=linux/arm64, read-only=true, no-new-privileges=false.",
        ),
    )
    max_executions: int = field(default=1024, metadata=_row(COUNT, "Executions at once, over all sandboxes."))
    min_free_disk_bytes: int = field(default=2 << 30, metadata=_row(SIZE, "Below this much free disk no new work is taken."))
    retention_s: float = field(default=86400.0, metadata=_row(DURATION, "How long results outlive their sandbox."))
    max_timeout_s: float = field(default=43200.0, metadata=_row(DURATION, "Longest timeout that a command may ask for."))
    orphan_after_s: float = field(default=86400.0, metadata=_row(DURATION, "A sandbox that has had no server for so long ends itself."))
    unreachable_after_s: float = field(default=600.0, metadata=_row(DURATION, "A sandbox whose init is out of reach for so long is ended."))
    drain_grace_s: float = field(default=0.2, metadata=_row(DURATION, "How long output is still read when a command left children behind."))
    sweep_every_s: float = field(default=60.0, metadata=_row(DURATION, "How often leases, orphans and retention are looked after."))
    pull_timeout_s: float = field(default=1800.0, metadata=_row(DURATION, "Longest time to pull an image."))
    keep_alive_s: float = field(
        default=15.0,
        metadata=_row(DURATION, "How often a long POST /execute sends white space, so that nothing on the way gives up."),
    )
    stream_heartbeat_s: float = field(
        default=15.0,
        metadata=_row(DURATION, "How often a silent event stream says that it is alive; clients give up after 45s of silence."),
    )
    bind_allow: tuple[Path, ...] = field(default=(), metadata=_row(PATHS, "Host directories below which sandboxes may bind."))
    remove_on_exit: bool = field(
        default=False,
        metadata=_row(SWITCH, "Remove all sandboxes when the server stops; without it they stay and go on."),
    )
    log_format: str = field(default="console", metadata=_row(choice("console", "json"), "One line per event, for people or for machines."))
    log_level: str = field(default="info", metadata=_row(choice("debug", "info", "warning", "error"), "Least severe event to log."))

    @property
    def token_path(self) -> Path:
        """Where the token is kept."""
        return self.token_file or self.data_dir / "token"

    @property
    def tls(self) -> bool:
        return self.tls_self_signed or self.tls_cert is not None

    def check(self) -> Settings:
        """These settings, when they go together. Raises SettingsError."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("tls_cert and tls_key go together: give both or neither")
        if self.tls_cert is not None and self.tls_self_signed:
            raise SettingsError("tls_self_signed makes a certificate of its own: leave it out, or leave out tls_cert and tls_key")
        if not (is_loopback(self.host) or self.tls or self.insecure):
            raise SettingsError(
                f"host {self.host} can be reached from other machines, and without TLS the token could be read on the way: "
                "add --tls-self-signed, or --tls-cert and --tls-key, or keep 127.0.0.1 and let clients come through "
                f"`ssh -N -L {self.port}:127.0.0.1:{self.port} USER@THIS-MACHINE`, or say --insecure if the network is your own"
            )
        longest = max(LONGEST_CALL_S, self.max_timeout_s + CALL_MARGIN_S)
        if self.retention_s <= longest:
            raise SettingsError(
                f"retention {show_duration(self.retention_s)} is not longer than the longest call, {show_duration(longest)} "
                "(the larger of 30m and max_timeout + 30s): a result could be gone before its caller asks for it"
            )
        never_zero = (
            "default_pids", "max_creations", "max_executions", "max_timeout_s", "sweep_every_s", "keep_alive_s", "stream_heartbeat_s",
            "orphan_after_s",
        )  # fmt: skip
        for name in never_zero:
            if not getattr(self, name):
                raise SettingsError(f"{_public(name)} cannot be 0")
        for each in self.warm:
            if (each.profile.memory_bytes or 0) > self.max_sandbox_memory_bytes:
                raise SettingsError(f"warm: a sandbox of {each.profile.image} asks for more memory than max_sandbox_memory allows")
        return self


def _public(attribute: str) -> str:
    for unit in ("_bytes", "_s"):
        if attribute.endswith(unit):
            return attribute[: -len(unit)]
    return {"allowed_hosts": "allowed_host"}.get(attribute, attribute)


def rows() -> list[Setting]:
    """All settings, in the order in which `--help` shows them."""
    found = []
    for each in dataclasses.fields(Settings):
        kind: Kind = each.metadata["kind"]
        shown = each.metadata["shown"]
        if shown is None:
            shown = "none" if each.default is None else kind.show(each.default)
        found.append(Setting(_public(each.name), each.name, kind, each.metadata["help"], shown))
    return found


def load(flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from all sources, checked.

    Args:
        flags: by setting name, None or empty where not given; `config` names the TOML file.
        environ: default: the process's own.
    Raises:
        SettingsError: a value cannot be read, a name is unknown, or settings do not go together.
    """
    given = flags or {}
    variables = os.environ if environ is None else environ
    file, in_file = _read_file(given.get("config"), variables)
    values: dict[str, Any] = {}
    for each, row in zip(dataclasses.fields(Settings), rows(), strict=True):
        sources = (
            (row.flag, given.get(row.name)),
            (row.variable, variables.get(row.variable)),
            (f"{row.name} in {file}", in_file.get(row.name)),
            (str(each.metadata["also"]), variables.get(each.metadata["also"] or "")),
        )
        for source, raw in sources:
            if raw is not None and raw not in ("", (), []):
                values[row.attribute] = _parse(row.kind.parse, raw, source)
                break
    return Settings(**values).check()


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables that begin as ours do and are none: misspelt, most likely."""
    known = {row.variable for row in rows()} | {CONFIG_VARIABLE, failpoints.VARIABLE, failpoints.SWITCH}
    return sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in known)


def _parse(parse: Callable[[object], Any], raw: object, source: str) -> Any:
    try:
        return parse(raw)
    except ValueError as error:
        raise SettingsError(f"{source}: {str(raw)!r} {error}") from None


def _read_file(flag: object, environ: Mapping[str, str]) -> tuple[Path | None, dict[str, Any]]:
    source, raw = ("--config", flag) if flag else (CONFIG_VARIABLE, environ.get(CONFIG_VARIABLE))
    if not raw:
        return None, {}
    # Here, so that `remote-env --help` needs nothing of the server's dependencies.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]
    path: Path = _parse(PATH.parse, raw, source)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{source}: {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{source}: {path} is not TOML: {error}") from None
    known = [row.name for row in rows()]
    for name in content:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise SettingsError(f"{path}: there is no setting {name!r}" + (f"; is {near[0]!r} meant?" if near else ""))
    return path, content
