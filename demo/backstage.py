"""Behind the stage: the server that gets killed, and the look into the sandbox from outside of remote-env."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import requests

HERE = Path(__file__).parent
START_S = 60.0  # seconds for a server to answer on a slow machine
STOP_S = 60.0


class Server:
    """`remote-env serve` on a port and a data directory of its own, which a killed one leaves to the next."""

    def __init__(self, directory: Path) -> None:
        self._data_dir = directory / "data"
        self._log = directory / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.token_file = self._data_dir / "token"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it answers. Raises RuntimeError with its log where it does not."""
        options = ["--port", str(self.port), "--data-dir", str(self._data_dir), "--remove-on-exit", "--min-free-disk", "256MiB"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "remote_env.cli.main", "serve", *options],
                cwd=HERE.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the play, which then takes everything down in order
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if requests.get(f"{self.url}/health", timeout=5).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.02)  # nobody listens yet, and nothing tells when
        raise RuntimeError(f"the server did not start; its log:\n{self._log.read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL: it has no chance to tidy up, and nobody to say goodbye to."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it with all its sandboxes; a server that was killed and not replaced leaves that to us."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        identity = self._data_dir / "instance_id"
        if identity.exists():
            left = docker("ps", "--all", "--quiet", "--filter", f"label=remote-env.instance={identity.read_text().strip()}").split()
            if left:
                docker("rm", "--force", "--volumes", *left)


@dataclass
class Killing:
    """What the saboteur did and when, in seconds since the epoch."""

    old_pid: int
    at: float
    dead_at: float | None = None
    new_pid: int | None = None
    answers_at: float | None = None


class Saboteur(threading.Thread):
    """Waits until the sandbox notes the start of a command, kills the server, and starts it again.

    Args:
        container_id: where the notes are.
        victim: the command.
        tell: is called before the kill and after the restart.
    """

    def __init__(self, server: Server, container_id: str, victim: str, tell: Callable[[Killing], None]) -> None:
        super().__init__(name="saboteur", daemon=True)
        self._server = server
        self._victim = victim
        self._tell = tell
        self.killing: Killing | None = None
        self.error: Exception | None = None
        self._watch = subprocess.Popen(
            ["docker", "exec", container_id, "tail", "-n", "+1", "-f", "/ran"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self) -> None:
        assert self._watch.stdout is not None
        for line in self._watch.stdout:
            note = Note.parse(line.decode())
            if note.kind == "start" and note.text == self._victim:
                break
        else:
            return
        try:
            self.killing = Killing(self._server.pid, time.time())
            self._tell(self.killing)
            self._server.kill()
            self.killing.dead_at = time.time()
            self._server.start()
            self.killing.new_pid, self.killing.answers_at = self._server.pid, time.time()
            self._tell(self.killing)
        except (OSError, RuntimeError) as error:
            self.error = error

    def leave(self) -> None:
        """Stop watching; return when a server that is being started answers."""
        self._watch.kill()
        self._watch.wait()
        if self.ident is not None:
            self.join()


@dataclass(frozen=True)
class Note:
    """One line that the sandbox wrote about a command: it began, or it ended with an exit code."""

    at: float
    kind: str
    text: str

    @classmethod
    def parse(cls, line: str) -> Note:
        at, kind, text = line.rstrip("\n").split("\t", 2)
        return cls(float(at), kind, text.replace(" ⏎ ", "\n"))


@dataclass
class Run:
    """One run of a command, as the sandbox noted it."""

    command: str
    began: float
    ended: float | None = None
    code: int | None = None


@dataclass
class Notes:
    """Everything that ran in a sandbox, read with `docker exec`, not through remote-env."""

    runs: list[Run] = field(default_factory=list)

    @classmethod
    def of(cls, container_id: str) -> Notes:
        notes = cls()
        for line in docker("exec", container_id, "cat", "/ran").splitlines():
            note = Note.parse(line)
            if note.kind == "start":
                notes.runs.append(Run(note.text, note.at))
            else:  # commands come one after another here
                notes.runs[-1].ended, notes.runs[-1].code = note.at, int(note.text)
        return notes

    def of_command(self, command: str) -> list[Run]:
        return [run for run in self.runs if run.command == command]


def docker(*words: str) -> str:
    """What a docker command prints. Raises CalledProcessError."""
    return subprocess.run(["docker", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


def archive() -> bytes:
    """The project, a copy to compare with, and the counter, as a tar file to be unpacked at /."""
    buffer = io.BytesIO()
    with closing(tarfile.open(fileobj=buffer, mode="w")) as tar:
        for source, target in _files():
            data = source.read_bytes() if source else b""
            info = tarfile.TarInfo(target)
            info.size, info.mode, info.mtime = len(data), 0o666, int(time.time())
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _files() -> Iterator[tuple[Path | None, str]]:
    project = HERE / "project"
    for directory, _, names in sorted(os.walk(project)):
        for name in sorted(names):
            path = Path(directory, name)
            if path.parent.name != "__pycache__":
                yield path, f"work/{path.relative_to(project)}"
                yield path, f"work.orig/{path.relative_to(project)}"
    yield HERE / "count.sh", "count.sh"
    yield None, "ran"
