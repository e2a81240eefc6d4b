"""A real server in a process of its own, that tests can kill and start again."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import requests
from urllib3.exceptions import InsecureRequestWarning

from remote_env import Client, Timings

START_S = 30.0
BUSYBOX = "remote-env/busybox:latest"
SANDBOX = "remote-env/sandbox:latest"
SCRATCH = "remote-env/scratch:latest"
NONROOT = "remote-env/nonroot:latest"
SMALL = 128 << 20  # bytes of memory of a test's sandbox, so that many fit


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """`remote-env serve` with a data directory of its own.

    Args:
        data_dir: kept over restarts.
        options: flags of `remote-env serve`.
        host: what it listens on, and where it is expected to answer; default: both loopbacks.
    """

    def __init__(self, data_dir: Path, *options: str, environ: Mapping[str, str] | None = None, host: str | None = None) -> None:
        self.data_dir = data_dir
        if host is not None:
            options = (*options, "--host", host, "--insecure")
        self.options = options
        self.environ = dict(environ or {})
        self.port = free_port()
        address = host or "127.0.0.1"
        scheme = "https" if "--tls-self-signed" in options else "http"
        self.url = f"{scheme}://{f'[{address}]' if ':' in address else address}:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.program: tuple[str, ...] = ("-m", "remote_env.cli.main")  # what Python runs
        self.log = data_dir.with_name(data_dir.name + ".log")

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self.process is not None
        return self.process.pid

    @property
    def token(self) -> str:
        return (self.data_dir / "token").read_text().strip()

    @property
    def fingerprint(self) -> str | None:
        """sha256 of its certificate, for a client to pin; None without TLS."""
        if not self.url.startswith("https"):
            return None
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", self.port)))).hexdigest()

    @property
    def env(self) -> dict[str, str]:
        """What the environment of a client's process needs."""
        return {"REMOTE_ENV_URL": self.url, "REMOTE_ENV_TOKEN_FILE": str(self.data_dir / "token")}

    def spawn(self, failpoints: str = "") -> subprocess.Popen[bytes]:
        """Start the process without waiting for it. `failpoints`: see `server.failpoints`."""
        environ = {**os.environ, **self.environ, "REMOTE_ENV_SERVER_TEST": "1", "REMOTE_ENV_SERVER_FAILPOINT": failpoints}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "serve", "--port", str(self.port), "--data-dir", str(self.data_dir),
                 "--min-free-disk", "64MiB", "--capacity-memory", "64GiB", *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, cwd=Path(__file__).parents[2],
                start_new_session=True,  # a terminal's Ctrl-C is for pytest, whose fixtures then need the server to clean up
            )  # fmt: skip
        return self.process

    def start(self, failpoints: str = "") -> Server:
        """Start, and wait until it answers."""
        process = self.spawn(failpoints)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                if self._is_up():
                    return self
            except requests.ConnectionError:
                time.sleep(0.02)
        raise AssertionError(f"the server did not start (exit code {process.poll()}):\n{self.log.read_text()[-4000:]}")

    def _is_up(self) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)  # its certificate is its own
            return requests.get(f"{self.url}/health", timeout=5, verify=False).ok

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self, failpoints: str = "") -> None:
        self.kill()
        self.start(failpoints)

    def stop(self) -> int:
        """SIGTERM, and wait. Returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def client(self, timings: Timings | None = None) -> Client:
        return Client(self.url, self.token, timings=timings, fingerprint=self.fingerprint)

    def connections(self) -> int:
        """How many TCP connections to it are open, as the kernel tells (proc(5), net/tcp; state 01: established)."""
        tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        ends = [line.split()[1:4] for table in tables for line in table]
        return sum(local.endswith(f":{self.port:04X}") and state in ("01", "08") for local, _, state in ends)

    def remove_all(self) -> None:
        """Stop the server and remove every container that it made."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        identity = self.data_dir / "instance_id"
        if not identity.exists():
            return
        label = f"label=remote-env.instance={identity.read_text().strip()}"
        found = subprocess.run(["docker", "ps", "-aq", "--filter", label], capture_output=True, text=True, check=True).stdout.split()
        if found:
            subprocess.run(["docker", "rm", "-fv", *found], check=True, capture_output=True)

    def containers(self) -> list[str]:
        """Ids of the containers of this server, as the engine tells them."""
        label = f"label=remote-env.instance={(self.data_dir / 'instance_id').read_text().strip()}"
        out = subprocess.run(["docker", "ps", "-aq", "--no-trunc", "--filter", label], capture_output=True, text=True, check=True)
        return out.stdout.split()
