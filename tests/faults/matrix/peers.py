"""The others, which stand beside us in the rows about transport: what people use instead, with the same faults.

requests         a plain `requests` client, kept-alive sessions and a timeout, of POST /execute without an id
requests+Retry   the same with urllib3's Retry(3, allowed_methods=None), the usual advice against dropped connections
swe-rex          SWE-ReX's own client and server, in an environment and processes of their own
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from remote_env.protocol import Bind
from tests.faults.matrix.subjects import Subject
from tests.faults.matrix.traffic import COUNT_DIR, Call, Command, Fate
from tests.support.server import BUSYBOX, SMALL, free_port

if TYPE_CHECKING:
    from tests.faults.matrix.arena import Arena

ROOT = Path(__file__).resolve().parents[3]
PEERS_VENV = ROOT / ".cache" / "peers"
TIMEOUT_S = 120.0  # of a plain client's request; no command of these rows takes so long
START_S = 60.0
# Its commands run on this host, and one with a flipped bit must not write where it likes: the file system is read-only for it,
# but for the directory of marks.
CONFINED = (
    "unshare", "--mount", "--propagation", "private",
    "sh", "-ec", 'mount --bind "$0" "$0"; mount -o remount,bind,ro /; cd "$0"; exec "$@"',
)  # fmt: skip
PACKAGES = ("swe-rex", "aiohttp")


class PlainRequests:
    """A client of our server's POST /execute that knows nothing of ids: one session per thread, one timeout.

    Args:
        retries: mounted on each session; None: none.
    """

    marker = b"POST /execute HTTP/1.1"
    count_dir = COUNT_DIR

    def __init__(self, arena: Arena, name: str, retries: Retry | None = None) -> None:
        self.name = name
        self._retries = retries
        self._server = arena.server
        self._url = self._server.url
        self._sessions = threading.local()
        self._client = self._server.client()  # makes the sandbox and keeps it alive, past every fault
        bind = Bind(source=str(arena.count), target=COUNT_DIR, read_only=False)
        self._sandbox = self._client.create_sandbox(BUSYBOX, memory_bytes=SMALL, network="none", binds=(bind,))

    @property
    def port(self) -> int:
        return self._server.port

    def connect(self, url: str) -> None:
        self._url = url
        self._sessions = threading.local()

    def run(self, command: Command) -> Call:
        began = time.monotonic()
        try:
            answer = self._session().post(
                f"{self._url}/execute", json={"command": command.text, "sandbox": self._sandbox.id}, timeout=TIMEOUT_S
            )
            answer.raise_for_status()
            fields = answer.json()
            call = Call(command, Fate.RESULT, returncode=fields["returncode"], output=fields["output"])
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            call = Call(command, Fate.FAILED, f"{type(error).__name__}: {error}")
        call.seconds = time.monotonic() - began
        return call

    def _session(self) -> requests.Session:
        found: requests.Session | None = getattr(self._sessions, "session", None)
        if found is None:
            found = self._sessions.session = requests.Session()
            found.trust_env = False
            found.headers["Authorization"] = f"Bearer {self._server.token}"
            if self._retries is not None:
                found.mount("http://", HTTPAdapter(max_retries=self._retries))
        return found

    def close(self) -> None:
        self._sandbox.remove()
        self._client.close()


class SweRex:
    """SWE-ReX: `swerex-remote` with its local runtime on this host, and its RemoteRuntime in a worker process. Each command is
    a call of `execute()`, which has no timeout and no retries of its own."""

    name = "swe-rex"
    marker = b"POST /execute HTTP/1.1"

    def __init__(self, arena: Arena) -> None:
        python = ensure_peers_venv()
        self.count_dir = str(arena.count)
        self.port = free_port()
        self._token = arena.secret
        log = open(arena.tmp / "swerex.log", "wb")  # noqa: SIM115 (it is the processes')
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--auth-token", self._token]
        self._server = subprocess.Popen(
            [*CONFINED, arena.count, python.with_name("swerex-remote"), *options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=arena.count,
        )  # fmt: skip
        self._worker = subprocess.Popen(
            [python, Path(__file__).with_name("swerex_worker.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        log.close()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._numbers = 0
        threading.Thread(target=self._read_answers, name="swerex-answers", daemon=True).start()
        self.connect(f"http://127.0.0.1:{self.port}")
        self._wait_until_alive()

    def connect(self, url: str) -> None:
        host, _, port = url.rpartition(":")
        self._ask({"connect": [host, int(port), self._token]})

    def run(self, command: Command) -> Call:
        began = time.monotonic()
        answer = self._ask({"command": command.text})
        if "error" in answer:
            call = Call(command, Fate.FAILED, answer["error"])
        else:
            call = Call(command, Fate.RESULT, returncode=answer["exit_code"], output=answer["output"])
        call.seconds = time.monotonic() - began
        return call

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            self._numbers += 1
            number = self._numbers
            self._waiting[number] = future
            assert self._worker.stdin is not None
            self._worker.stdin.write(json.dumps({"number": number, **request}) + "\n")
            self._worker.stdin.flush()
        return future.result()

    def _read_answers(self) -> None:
        assert self._worker.stdout is not None
        for line in self._worker.stdout:
            answer = json.loads(line)
            with self._lock:
                future = self._waiting.pop(answer["number"])
            future.set_result(answer)
        with self._lock:
            left = list(self._waiting.values())
        for future in left:
            future.set_result({"error": "the worker has ended"})

    def _wait_until_alive(self) -> None:
        deadline = time.monotonic() + START_S
        while not self._ask({"alive": True})["alive"]:
            if time.monotonic() > deadline or self._server.poll() is not None:
                raise AssertionError("SWE-ReX's server did not start")
            time.sleep(0.05)

    def close(self) -> None:
        for process in (self._worker, self._server):
            process.kill()
            process.wait()


def ensure_peers_venv() -> Path:
    """The Python of an environment that holds the peers' packages, made at the first need; its path."""
    python = PEERS_VENV / "bin" / "python"
    PEERS_VENV.parent.mkdir(exist_ok=True)
    with open(PEERS_VENV.parent / "peers.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (PEERS_VENV / "bin" / "swerex-remote").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", PEERS_VENV], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True)
    return python


PEERS: dict[str, Callable[[Arena], Subject]] = {
    "requests": lambda arena: PlainRequests(arena, "requests"),
    "requests+Retry": lambda arena: PlainRequests(arena, "requests+Retry", Retry(3, allowed_methods=None, backoff_factor=0.1)),
    "swe-rex": SweRex,
}
