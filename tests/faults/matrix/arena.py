"""What a row works with: everything in it is made here, counted from outside, and gone afterwards."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import random
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from remote_env import Timings
from tests.engine_fixtures import PrivateEngine
from tests.faults.matrix.checks import Verdict, judge_calls
from tests.faults.matrix.row import Row
from tests.faults.matrix.subjects import RemoteEnv, Subject
from tests.faults.matrix.traffic import Call, Command, Fate, Traffic
from tests.support.server import BUSYBOX, Server

QUIET_S = 30.0  # within which everything is back to its base line after the fault
BYSTANDER_S = 7200  # longer than any row
FD_SLACK = 12 + 16  # the engine's SDK keeps up to 16 idle connections
THREAD_SLACK = 8
RSS_SLACK = 96 << 20  # bytes

log = logging.getLogger("tests.faults")

_engines: dict[bool, PrivateEngine] = {}  # of the short versions, by whether they have live-restore
_at_exit = ExitStack()
atexit.register(_at_exit.close)


def private_engine(directory: Path, stack: ExitStack, live_restore: bool) -> PrivateEngine:
    """A second engine below `directory`, started, with the busybox image; removed with `stack`."""
    engine = PrivateEngine(directory / "engine", f"fault-{secrets.token_hex(4)}", live_restore=live_restore)
    stack.callback(engine.remove)
    engine.start()
    image = directory / "image.tar"
    subprocess.run(["docker", "save", "-o", str(image), BUSYBOX], check=True)
    subprocess.run(["docker", "-H", engine.host, "load", "-qi", str(image)], capture_output=True, check=True)
    image.unlink()
    return engine


class Arena:
    """Args:
    short: the version of the test suite: fewer commands, waits scaled down by `scale`.
    peer: makes another subject than ours, given (arena).
    """

    def __init__(self, row: Row, *, commands: int, seed: int, short: bool, peer: Callable[[Arena], Subject] | None = None) -> None:
        self.row = row
        self.commands = commands
        self.seed = seed
        self.short = short
        self.scale = 0.1 if short else 1.0
        self.rng = random.Random(f"{row.name} {seed}")
        self.timings = Timings().scaled(self.scale)
        self.bound_s = 300.0  # of one call: no answer within it is a call that hangs
        self.server_options: list[str] = []  # to be set before `subject` is asked for
        self.server_environ: dict[str, str] = {}
        self.server_host: str | None = None  # what it listens on, in place of the loopbacks
        self.leaves: Callable[[str], bool] = lambda arguments: False  # processes that the row's commands leave on purpose, by command line
        self.rss_slack = RSS_SLACK
        self.fd_slack = FD_SLACK
        self.bystander_may_die = row.engine == "private, no live-restore"
        self.calls: list[Call] = []
        self.expect_runs: dict[str, int] = {}  # commands sent by other means than a call: how often each must have run
        self.verdict = Verdict(row.name, "", seed=seed)
        self.secret = f"secret-{secrets.token_hex(12)}"
        self._peer = peer
        self._stack = ExitStack()
        self.tmp = Path(tempfile.mkdtemp(prefix=f"fault-{row.name}-"))
        self._stack.callback(shutil.rmtree, self.tmp, ignore_errors=True)
        self.count = self.tmp / "count"
        self.count.mkdir(mode=0o777)
        self.count.chmod(0o777)
        self.client_log = self.tmp / "client.log"
        self._lock = threading.Lock()

    # --------------------------------------------------------------------------------------------------- the parts

    @cached_property
    def engine(self) -> PrivateEngine:
        """An engine of the row's own, with the busybox image; only where the row says that it needs one. Short versions take
        turns with one: starting it costs more than all that they do with it."""
        assert self.row.engine != "shared"
        live_restore = self.row.engine == "private"
        if not self.short:
            return private_engine(self.tmp, self._stack, live_restore)
        if live_restore not in _engines:
            directory = Path(tempfile.mkdtemp(prefix="fault-engine-"))
            _at_exit.callback(shutil.rmtree, directory, ignore_errors=True)
            _engines[live_restore] = private_engine(directory, _at_exit, live_restore)
        engine = _engines[live_restore]
        engine.start()  # does nothing where the row before left it running
        return engine

    def docker(self, *words: str, check: bool = True) -> str:
        """A docker CLI call to the row's engine: its output."""
        host = ["-H", self.engine.host] if self.row.engine != "shared" else []
        return subprocess.run(["docker", *host, *words], capture_output=True, text=True, check=check, timeout=120).stdout

    @cached_property
    def server(self) -> Server:
        """Our server, started. Its data directory is on a file system of the row's own only where the row makes one."""
        engine = ["--docker-host", self.engine.host] if self.row.engine != "shared" else []
        options = ["--bind-allow", str(self.count), *engine, *self.server_options]
        server = Server(self.tmp / "data", *options, environ=self.server_environ, host=self.server_host)
        self._stack.callback(self._remove_containers, server)
        self._stack.callback(self._end_server, server)
        return server.start()

    def _end_server(self, server: Server) -> None:
        if server.process is not None and server.process.poll() is None:
            server.stop()

    def _remove_containers(self, server: Server) -> None:
        if found := self._containers(server):
            self.docker("rm", "-fv", *found, check=False)

    @cached_property
    def subject(self) -> Subject:
        """Who is tested: our client and server with one sandbox, or a peer."""
        if self._peer is not None:
            subject = self._peer(self)
        else:
            self._watch_client_log()
            subject = RemoteEnv(self.server, self.count, self.timings, self.secret)
            self._note_base_line()
        self._stack.callback(subject.close)
        self.verdict.subject = subject.name
        return subject

    @property
    def ours(self) -> RemoteEnv:
        """The subject, in rows that have no peers."""
        assert isinstance(self.subject, RemoteEnv)
        return self.subject

    @cached_property
    def traffic(self) -> Traffic:
        return Traffic(self.rng, self.subject.count_dir)

    # ------------------------------------------------------------------------------------------------------ driving

    def drive(self, commands: Iterable[Command], *, workers: int = 8, run: Callable[[Command], Call] | None = None) -> list[Call]:
        """Run the commands, `workers` at once; returns when every call has returned, or was given up as hanging."""
        run = run or self.subject.run
        todo: queue.SimpleQueue[Command] = queue.SimpleQueue()
        for command in commands:
            todo.put(command)
        done: list[Call] = []
        pending: dict[int, tuple[Command, float]] = {}

        def work(number: int) -> None:
            while True:
                try:
                    command = todo.get_nowait()
                except queue.Empty:
                    return
                with self._lock:
                    pending[number] = (command, time.monotonic())
                call = run(command)
                with self._lock:
                    if number in pending:  # else it was given up
                        del pending[number]
                        done.append(call)

        threads = [threading.Thread(target=work, args=(number,), name=f"traffic-{number}", daemon=True) for number in range(workers)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.05)
            with self._lock:
                late = [number for number, (_, since) in pending.items() if time.monotonic() - since > self.bound_s]
                for number in late:
                    command, _ = pending.pop(number)
                    done.append(Call(command, Fate.HUNG, f"no answer for {self.bound_s:.0f} s", seconds=self.bound_s))
            if late and len(late) == sum(thread.is_alive() for thread in threads):
                break
        self.calls += done
        return done

    @contextmanager
    def meanwhile(
        self, commands: Iterable[Command], *, workers: int = 8, run: Callable[[Command], Call] | None = None
    ) -> Iterator[list[Call]]:
        """Drive the commands while the body breaks things; at its end every call has returned."""
        calls: list[Call] = []
        thread = threading.Thread(target=lambda: calls.extend(self.drive(commands, workers=workers, run=run)), name="traffic", daemon=True)
        thread.start()
        try:
            yield calls
        finally:
            thread.join()

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Wait until it is so; fails the row after so many seconds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.01)

    def wait(self, seconds: float) -> None:
        """Let so much time pass, scaled down in the short version: for faults that are a matter of time."""
        time.sleep(seconds * self.scale)

    def runs(self) -> Counter[str]:
        """How often each command ran, by the marks that it left on the host's disk."""
        marks = self.count / "ran"
        return Counter(marks.read_text().split()) if marks.exists() else Counter()

    def note(self, text: str) -> None:
        """Something that the table should tell about this row: how many kills, how many cuts."""
        self.verdict.notes.append(text)

    def on_close(self, action: Callable[[], object]) -> None:
        """Undo something at the end, whatever happens; the last one first."""
        self._stack.callback(action)

    # ------------------------------------------------------------------------------------------------------ judging

    def play(self) -> Verdict:
        """Run the row, check every promise, leave nothing behind."""
        began = time.monotonic()
        with self._stack:
            self._start_bystander()
            self.row.run(self)
            judge_calls(self.verdict, self.row, self.calls, self.runs(), self.expect_runs)
            self._check_surroundings()
        self.verdict.seconds = time.monotonic() - began
        if self._peer is None:
            self.verdict.broken += [f"broke the experiment: {promise} was not checked" for promise in self.verdict.unchecked]
        if len({command.name for command in self.traffic.made}) < len(self.traffic.made):
            self.verdict.broken.append("broke the experiment: two commands have one name")
        if len(self.calls) + len(self.expect_runs) < self.commands:
            self.verdict.broken.append(f"broke the experiment: {len(self.calls)} commands, not {self.commands}")
        return self.verdict

    def _start_bystander(self) -> None:
        """A container that is not ours, which no row may touch."""
        # As PID 1 it ignores SIGTERM: an engine that ends its containers takes 10 s over it.
        quick = ["--stop-signal", "SIGKILL"] if self.short else []
        # Should this process be killed, nobody removes it: it goes by itself. An engine of the row's own goes as a whole, and takes
        # --rm for an order to remove when it starts again.
        leave = ["--rm"] if self.row.engine == "shared" and not self.bystander_may_die else []
        self._bystander = self.docker("run", "-d", *leave, "--network", "none", *quick, BUSYBOX, "sleep", f"{BYSTANDER_S}").strip()
        self._stack.callback(self.docker, "rm", "-f", self._bystander, check=False)

    def _check_surroundings(self) -> None:
        if self._peer is not None:
            return
        self.verdict.check("No-orphans", self._orphan_processes())
        for client in self.ours._clients:
            client.close()
        self.verdict.check("Base-line", self._off_base_line())
        self._end_server_and_sandboxes()
        left = self._settled(lambda: self._containers(self.server))
        self.verdict.orphans += len(left)
        self.verdict.check("No-orphans", (f"container {name[:12]} is left" for name in left))
        if not self.bystander_may_die:
            running = self.docker("inspect", "-f", "{{.State.Running}}", self._bystander, check=False).strip()
            self.verdict.check("Hands-off", [] if running == "true" else ["a container that is not ours has ended"])
        else:
            found = self.docker("ps", "-aq", "--no-trunc", "--filter", f"id={self._bystander}").strip()
            self.verdict.check("Hands-off", [] if found else ["a container that is not ours was removed"])
        self.verdict.check("No-secrets", self._secrets_in_logs())

    def _orphan_processes(self) -> list[str]:
        """Processes in our sandboxes besides the init, once every call has returned."""

        def found() -> list[str]:
            strangers = []
            for container in self._containers(self.server):
                init = self.docker("inspect", "-f", "{{.State.Pid}}", container, check=False).strip()
                lines = self.docker("top", container, "-eo", "pid,args", check=False).splitlines()[1:]
                processes = [line.split(None, 1) for line in lines]
                strangers += [arguments for pid, arguments in processes if pid != init and not self.leaves(arguments)]
            return strangers

        left = self._settled(found)
        self.verdict.orphans += len(left)
        return [f"process {arguments!r} is left" for arguments in left]

    def _end_server_and_sandboxes(self) -> None:
        """As `remote-env gc` would: remove every sandbox of the server, then stop it."""
        server = self.server
        if server.process is None or server.process.poll() is not None:
            server.start()
        with server.client() as client:
            for sandbox in client.sandboxes():
                client.sandbox(sandbox.id).remove()
        code = server.stop()
        if code != 0:
            self.verdict.broken.append(f"broke the experiment: the server's exit code is {code}")

    def _containers(self, server: Server) -> list[str]:
        identity = server.data_dir / "instance_id"
        if not identity.exists():
            return []
        return self.docker("ps", "-aq", "--no-trunc", "--filter", f"label=remote-env.instance={identity.read_text().strip()}").split()

    def _settled(self, look: Callable[[], list[str]], seconds: float = QUIET_S) -> list[str]:
        """What is still there when it should have become nothing."""
        deadline = time.monotonic() + seconds
        while (found := look()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    # ---------------------------------------------------------------------------------------------------- base line

    def _note_base_line(self) -> None:
        self._base = _State.of(self.server)
        self._base_threads = threading.active_count()

    def _off_base_line(self) -> list[str]:
        server = self.server
        if server.process is None or server.process.poll() is not None:
            return ["the server does not run at the end of the row"]

        def differences() -> list[str]:
            now = _State.of(server)
            ids = {path.name.partition(".")[0] for path in (server.data_dir / "spool").rglob("*") if path.is_file()}
            # `traffic-…` threads of calls that hang were counted as such already; a proxy has one for each connection.
            threads = [each for each in threading.enumerate() if not each.name.startswith(("traffic", "engine-proxy"))]
            return [
                *([f"{now.fds} descriptors, {self._base.fds} before"] if now.fds > self._base.fds + self.fd_slack else []),
                *([f"{now.threads} threads, {self._base.threads} before"] if now.threads > self._base.threads + THREAD_SLACK else []),
                *([f"{now.rss} bytes of memory, {self._base.rss} before"] if now.rss > self._base.rss + self.rss_slack else []),
                *(
                    [f"{len(ids)} spool files for {len(self.calls)} commands"]
                    if len(ids) > len(self.calls) + len(self.expect_runs) + 16
                    else []
                ),
                *([f"{len(threads)} threads in the client's process"] if len(threads) > self._base_threads + THREAD_SLACK else []),
            ]

        return self._settled(differences)

    # ------------------------------------------------------------------------------------------------------ secrets

    def _watch_client_log(self) -> None:
        """All that the client logs, down to its debug lines, goes into a file."""
        logger = logging.getLogger("remote_env")
        handler = logging.FileHandler(self.client_log)
        level, propagate = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        self._stack.callback(
            lambda: (logger.removeHandler(handler), handler.close(), logger.setLevel(level), setattr(logger, "propagate", propagate))
        )

    def _secrets_in_logs(self) -> list[str]:
        token = self.server.token
        return [
            f"{what} is in {path.name}"
            for path in (self.client_log, self.server.log)
            for what, secret in (("the token", token), ("an environment value", self.secret))
            if path.exists() and secret in path.read_text(errors="replace")
        ]


class _State:
    """A process as /proc shows it: descriptors, threads, resident bytes."""

    def __init__(self, pid: int) -> None:
        self.fds = len(os.listdir(f"/proc/{pid}/fd"))
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
        self.threads = int(status["Threads"])
        self.rss = int(status["VmRSS"].split()[0]) * 1024

    @classmethod
    def of(cls, server: Server) -> _State:
        return cls(server.pid)
