"""What `doctor` looks at. Each check answers with a `Finding`: how it stands, and the mend where it does not stand well."""

from __future__ import annotations

import contextlib
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from remote_env.carrier import TransportError
from remote_env.cli.enginehttp import EngineUnreachable, ask_engine, engine_host
from remote_env.cli.quantities import show_size, show_span
from remote_env.client import Client
from remote_env.config import Endpoint
from remote_env.driving import drive
from remote_env.errors import ProtocolMismatch, RemoteEnvError, Unauthorized, Unreachable
from remote_env.exchange import PROTOCOL_HEADER
from remote_env.paths import default_data_dir
from remote_env.protocol import PROTOCOL_VERSION, Health
from remote_env.version import __version__

Verdict = Literal["good", "warning", "bad", "skipped"]

_MIN_FREE_DISK = 2 << 30  # bytes; the server's default
_MIN_FILES = 4096  # descriptors: each running command takes a few of the server's
_MIN_PIDS = 8192
_MOST_SKEW_S = 5.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_KNOWN_SMALL = ("remote-env/busybox", "busybox", "alpine", "remote-env/sandbox")


@dataclass(frozen=True)
class Finding:
    """`name` is the thing looked at, `found` what was seen, `mend` what to do about it where something is to be done."""

    name: str
    verdict: Verdict
    found: str
    mend: str | None = None


class Examination:
    """The checks, in the order in which one explains the next."""

    def __init__(self, endpoint: Endpoint, client: Client, image: str | None) -> None:
        self._endpoint = endpoint
        self._client = client
        self._image = image
        self._local = urlsplit(endpoint.url).hostname in _LOOPBACK
        self._health: Health | None = None
        self._engine: dict[str, Any] | None = None
        self._data_dir = default_data_dir()

    def findings(self) -> Iterator[Finding]:
        """Carries out one check after the other."""
        yield from self._check_engine()
        yield self._check_port()
        yield self._check_token_file()
        yield from self._check_server()
        yield from self._check_warm()
        yield self._check_clock()
        yield self._check_data_dir()
        yield self._check_disk()
        yield from self._check_limits()
        yield self._check_sandbox()

    # ------------------------------------------------------------------------------------------------- the engine

    def _check_engine(self) -> Iterator[Finding]:
        if not self._local:
            yield Finding("engine", "skipped", "the server is on another machine; run `remote-env doctor` there, too")
            return
        try:
            self._engine = ask_engine("/info")
        except EngineUnreachable as error:
            yield Finding("engine", "bad", "not reachable", str(error))
            return
        version = self._engine.get("ServerVersion", "?")
        cgroups = self._engine.get("CgroupVersion", "1")
        machine = self._engine.get("Architecture", "?")
        yield Finding("engine", "good", f"version {version}, cgroup v{cgroups}, {machine}, at {engine_host()}")
        if self._engine.get("LiveRestoreEnabled"):
            yield Finding("live-restore", "good", "on: commands go on while the engine restarts")
        else:
            mend = 'put "live-restore": true into /etc/docker/daemon.json and reload the engine (systemctl reload docker)'
            yield Finding("live-restore", "warning", "off: a restart of the engine kills every sandbox", mend)

    # ------------------------------------------------------------------------------------------------- the server

    def _check_port(self) -> Finding:
        parts = urlsplit(self._endpoint.url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((host, port), timeout=3.0).close()
        except OSError as error:
            if not self._local:
                mend = "see that the server runs there, and that no firewall is between"
                return Finding("port", "bad", f"no connection to {host} port {port}: {error}", mend)
            return Finding("port", "warning", f"nobody listens on port {port}", "start the server: remote-env serve")
        spoken, _ = self._talk()
        if spoken is None:
            mend = f"stop it, or use another port: remote-env serve --port {port + 1}, and REMOTE_ENV_URL to match"
            return Finding("port", "bad", f"something else than remote-env answers on {host} port {port}", mend)
        return Finding("port", "good", f"{host} port {port} is a remote-env server's")

    def _talk(self) -> tuple[str | None, Any]:
        """The protocol that the server speaks, and the headers of its answer."""
        try:
            reply = drive(self._client.exchange.transport.request("GET", "/health", read_s=10.0))
        except TransportError:
            return None, {}
        return reply.headers.get(PROTOCOL_HEADER), reply.headers

    def _check_token_file(self) -> Finding:
        source = self._endpoint.token_source()
        if self._endpoint.token_file is None:
            if source.value:
                return Finding("token", "good", "given by REMOTE_ENV_TOKEN")
            return Finding("token", "bad", "there is none", "copy DATA_DIR/token from the server's machine and set REMOTE_ENV_TOKEN_FILE")
        path = Path(self._endpoint.token_file)
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError as error:
            mend = "start the server once, which makes it" if self._local else "copy it from the server's machine"
            return Finding("token", "bad", f"{path}: {error.strerror}", f"{mend}, or set REMOTE_ENV_TOKEN_FILE")
        if not source.value:
            return Finding("token", "bad", f"{path} holds no token that you can read", "see who owns it; a token is one line")
        if mode & 0o077:
            return Finding("token", "warning", f"{path} can be read by others (mode {mode:04o})", f"chmod 600 {path}")
        return Finding("token", "good", f"{path}, mode {mode:04o}")

    def _check_server(self) -> Iterator[Finding]:
        try:
            health = self._client.health()
        except Unauthorized as error:
            mend = "use the token of this server: REMOTE_ENV_TOKEN_FILE=DATA_DIR/token"
            yield Finding("server", "bad", f"refuses the token ({error})", mend)
            return
        except ProtocolMismatch as error:
            yield Finding("server", "bad", str(error), "install the same version on both sides, or correct REMOTE_ENV_URL")
            return
        except Unreachable:
            yield Finding("server", "bad", f"not reachable at {self._endpoint.url}", "start it (remote-env serve), or set REMOTE_ENV_URL")
            return
        except RemoteEnvError as error:
            yield Finding("server", "bad", str(error), "look at the server's log")
            return
        if health.version is None:
            yield Finding("server", "bad", "answers, but not to us: no token was sent", "set REMOTE_ENV_TOKEN or REMOTE_ENV_TOKEN_FILE")
            return
        self._health = health
        words = f"version {health.version}, protocol {health.protocol}, at {self._endpoint.url}"
        if health.protocol != PROTOCOL_VERSION:
            yield Finding("server", "bad", f"{words}; we speak protocol {PROTOCOL_VERSION}", "install the same version on both sides")
        elif health.version != __version__:
            yield Finding("server", "warning", f"{words}; we are {__version__}", "install the same version on both sides")
        else:
            yield Finding("server", "good", words)
        engine = health.engine or {}
        if not engine.get("reachable", False):
            detail = engine.get("detail", "it does not answer")
            yield Finding("server's engine", "bad", f"not reachable: {detail}", "start it; commands that run go on meanwhile")
        elif not self._local:
            yield Finding("server's engine", "good", f"version {engine.get('version', '?')}, {engine.get('architecture', '?')}")
            if not engine.get("live_restore"):
                mend = 'put "live-restore": true into its daemon.json'
                yield Finding("live-restore", "warning", "off: a restart of the engine kills every sandbox", mend)

    def _check_warm(self) -> Iterator[Finding]:
        stocks = ((self._health.capacity or {}) if self._health is not None else {}).get("warm", ())
        for stock in stocks:
            found = f"{stock['ready']} of {stock['wanted']} of {stock['image']} are ready"
            if stock.get("trouble"):
                mend = "see that the image can be had and that there is memory for them, or take its --warm away"
                yield Finding("warm sandboxes", "warning", f"{found}: {stock['trouble']}", mend)
            else:
                yield Finding("warm sandboxes", "good", found)

    def _check_clock(self) -> Finding:
        _, headers = self._talk()
        try:
            theirs = parsedate_to_datetime(headers.get("Date", "")).timestamp()
        except (TypeError, ValueError):
            return Finding("clock", "skipped", "no server that tells the time")
        skew = theirs - time.time()
        if abs(skew) > _MOST_SKEW_S:
            later = "ahead of" if skew > 0 else "behind"
            mend = "set both by NTP; until then ages and times are shown wrong"
            return Finding("clock", "warning", f"the server's is {show_span(abs(skew))} {later} ours", mend)
        return Finding("clock", "good", "the server's and ours agree")

    # ------------------------------------------------------------------------------------------------ this machine

    def _check_data_dir(self) -> Finding:
        if not self._local:
            return Finding("data directory", "skipped", "on the server's machine")
        path = self._data_dir
        nearest = next(each for each in (path, *path.parents) if each.exists())
        mend = "run the server as its owner, or choose another --data-dir"
        try:
            with tempfile.TemporaryFile(dir=nearest):
                writable = True
        except OSError:
            writable = False
        if not writable:
            return Finding("data directory", "bad", f"{nearest} cannot be written by you", mend)
        if nearest != path:
            return Finding("data directory", "good", f"{path} will be made at the first start")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            return Finding("data directory", "warning", f"{path} is open to others (mode {mode:04o})", f"chmod 700 {path}")
        return Finding("data directory", "good", f"{path} can be written, mode {mode:04o}")

    def _check_disk(self) -> Finding:
        capacity = (self._health.capacity if self._health else None) or {}
        free, least = capacity.get("free_disk_bytes"), capacity.get("min_free_disk_bytes", _MIN_FREE_DISK)
        if free is None:
            if not self._local:
                return Finding("free disk", "skipped", "the server did not tell")
            nearest = next(each for each in (self._data_dir, *self._data_dir.parents) if each.exists())
            free = shutil.disk_usage(nearest).free
        words = f"{show_size(free)} for output"
        if free < least:
            mend = "free some, or start the server with a lower --min-free-disk"
            return Finding("free disk", "bad", f"{words}: below {show_size(least)} no new work is taken", mend)
        if free < 2 * least:
            return Finding("free disk", "warning", f"{words}; below {show_size(least)} no new work is taken", "free some soon")
        return Finding("free disk", "good", words)

    def _check_limits(self) -> Iterator[Finding]:
        if not self._local:
            return
        try:
            import resource
        except ImportError:  # not a Unix
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = float("inf") if hard == resource.RLIM_INFINITY else hard
        if most < _MIN_FILES:
            mend = "raise it: ulimit -Hn 65536, or LimitNOFILE=65536 in the server's unit"
            yield Finding("open files", "warning", f"at most {hard}", mend)
        else:
            yield Finding("open files", "good", f"{'no limit' if most == float('inf') else f'up to {hard}'} (now {soft})")
        pids = _pids_limit()
        if pids is not None and pids < _MIN_PIDS:
            yield Finding("processes", "warning", f"at most {pids}, over all sandboxes", "raise kernel.pid_max, or pids.max of the cgroup")
        elif pids is not None:
            yield Finding("processes", "good", f"up to {pids}")

    # ------------------------------------------------------------------------------------------------- the real thing

    def _check_sandbox(self) -> Finding:
        """Makes a sandbox and runs a command in it: shows that its init reaches the server across the mount."""
        name = "sandbox"
        if self._health is None:
            return Finding(name, "skipped", "no server to make one")
        image = self._image or self._local_image()
        if image is None:
            return Finding(name, "skipped", "no image at hand to make one from", "name one: remote-env doctor --image IMAGE")
        began = time.monotonic()
        try:
            pull = "missing" if self._image else "never"
            with self._client.create_sandbox(image, pull=pull, network="none", memory_bytes=64 << 20, lease_s=120.0) as sandbox:
                made = time.monotonic()
                execution = sandbox.run(["true"], timeout_s=30.0)
                took = time.monotonic() - made
        except RemoteEnvError as error:
            mend = "the engine must run on the server's machine, with runc: the init speaks to the server over a mounted unix socket"
            return Finding(name, "bad", str(error), mend if "init" in str(error) else None)
        outcome = execution.outcome
        # An image without `true` shows as well as any other that the init took the request and answered.
        if outcome is None or outcome.kind not in ("exited", "failed_to_start"):
            return Finding(name, "bad", f"`true` in {image} ended as {outcome.kind if outcome else 'nothing'}", "look at the server's log")
        words = f"made from {image} in {show_span(made - began)}, ran a command in {took * 1000:.1f} ms over its socket, removed"
        return Finding(name, "good", words)

    def _local_image(self) -> str | None:
        """A tagged image that the engine has, a small one for preference."""
        if self._engine is None:
            return None
        try:
            images = ask_engine("/images/json")
        except EngineUnreachable:
            return None
        tags: dict[str, int] = {tag: image["Size"] for image in images for tag in image.get("RepoTags") or () if "<none>" not in tag}
        for known in _KNOWN_SMALL:
            for tag in tags:
                if tag.rpartition(":")[0] == known:
                    return tag
        return min(tags, key=lambda tag: tags[tag]) if tags else None


def _pids_limit() -> int | None:
    """The least of what the kernel and our cgroup allow; None where neither says."""
    limits: list[int] = []
    for path in ("/proc/sys/kernel/pid_max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits, default=None)
