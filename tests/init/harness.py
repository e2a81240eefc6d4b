"""The init as a plain process, and a server's end of its link: enough of a server to ask for anything, in any order."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from server import messages
from server.messages import Ended, Hello, Pipes, Run, RunFlag, Stale, Started, Type
from tests.init.followed import Execution
from tests.init.processes import alive, children, descendants

TERMINAL_QUIET_S = 0.2
PATIENCE_S = 60.0  # never reached by a healthy init; a bound for sick ones
DAY_MS = 24 * 3600 * 1000
OWN_USER = "" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"
BASE_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FROM_IMAGE": "yes", "HOME": "/from/image"}


class TimedOut(AssertionError):
    """What a test waited for has not come."""


class Server:
    """Listens where the init looks for its server. Everything is read in `wait_for`, by the test's own thread."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "server.sock"
        self.executions: dict[str, Execution] = {}
        self.stale: list[Stale] = []
        self.hello: Hello | None = None
        self.number = 0
        self.welcome_ms = DAY_MS
        self.reading = True  # of outputs; a test may leave them in their pipes
        self._listener: socket.socket | None = None
        self.link: socket.socket | None = None

    # ------------------------------------------------------------------------------------------- the link's life

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen(8)

    def connect(self, welcome: bool = True) -> Hello:
        """Wait for the init, take its hello and the read ends that follow it."""
        if self._listener is None:
            self.listen()
        assert self._listener is not None
        self._listener.settimeout(PATIENCE_S)
        self.link, _ = self._listener.accept()
        self.link.settimeout(PATIENCE_S)
        hello = self._receive(self.link)
        assert isinstance(hello, Hello), hello
        self.hello = hello
        self._drop_pipes()
        missing = hello.pipes
        while missing:
            pipes = self._receive(self.link)
            assert isinstance(pipes, Pipes), pipes
            missing -= len(pipes.ids)
        for entry in hello.entries:
            execution = self.executions.setdefault(entry.id, Execution(entry.id, entry.number))
            if entry.ending is not None:
                execution.ended = Ended(entry.id, entry.number, entry.ending)
        if welcome:
            self.link.send(messages.welcome(self.welcome_ms))
        return hello

    def die(self) -> None:
        """What is left of a server after SIGKILL: nothing."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self.path.unlink()
        self.hang_up()

    def hang_up(self) -> None:
        """Lose the link and every read end; go on listening."""
        if self.link is not None:
            self.link.close()
            self.link = None
        self._drop_pipes()

    def _drop_pipes(self) -> None:
        for execution in self.executions.values():
            execution.drop_pipes()

    # ------------------------------------------------------------------------------------------------- requests

    def send(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        assert self.link is not None
        socket.send_fds(self.link, [packet], fds) if fds else self.link.send(packet)

    def run(
        self,
        command: str | Sequence[str],
        *,
        env: dict[str, str] | None = None,
        user: str = OWN_USER,
        workdir: str = "/",
        flags: RunFlag = RunFlag(0),  # noqa: B008
        stdin: int | None = None,
        timeout_ms: int = 0,
        idle_timeout_ms: int = 0,
        grace_ms: int = 50,
        number: int | None = None,
        id_: str | None = None,
        large: bool = False,
        session: Execution | None = None,
        rows: int = 0,
        cols: int = 0,
        stdin_path: str = "",
    ) -> Execution:
        """Ask for a run: a string goes to `sh -c`, or to the session; a sequence is the argv."""
        if number is None:
            self.number += 1
            number = self.number
        execution = Execution(id_ or f"execution-{number}", number, session=session)
        self.executions.setdefault(execution.id, execution)
        argv = tuple(command) if not isinstance(command, str) else ("sh", "-c", command) if session is None else (command,)
        run = Run(
            number=number, id=execution.id, argv=argv, env=tuple(f"{k}={v}" for k, v in (env or {}).items()), user=user, workdir=workdir,
            flags=flags | (RunFlag.STDIN if stdin is not None else RunFlag(0)),
            timeout_ms=timeout_ms, idle_timeout_ms=idle_timeout_ms, grace_ms=grace_ms,
            session=session.id if session is not None else "", rows=rows, cols=cols, stdin_path=stdin_path,
        )  # fmt: skip
        body = messages.run_body(run)
        fds: list[int] = []
        if large or len(body) > messages.PACKET_LIMIT - 8:
            fds.append(memory_file(body))
            packet = messages.large_packet(Type.RUN, len(body))
        else:
            packet = messages.packet(Type.RUN, body)
        self.send(packet, fds + ([stdin] if stdin is not None else []))
        for fd in fds:
            os.close(fd)
        return execution

    def open_session(self, shell: str = "bash", *, flags: RunFlag = RunFlag(0), **how: Any) -> Execution:  # noqa: B008
        """A session that has started."""
        session = self.run([shell], flags=flags | RunFlag.SESSION | RunFlag.SHELL, **how)
        self.wait_for(lambda: session.started or session.ended, "the start of a session")
        return session

    def skip(self, number: int | None = None) -> Execution:
        if number is None:
            self.number += 1
            number = self.number
        execution = Execution(f"execution-{number}", number)
        self.executions.setdefault(execution.id, execution)
        self.send(messages.skip(number, execution.id))
        return execution

    def kill(self, execution: Execution) -> None:
        self.send(messages.kill(execution.id))

    def ack(self, execution: Execution) -> None:
        """The end of an execution for the server: it forgets the pipe, the init forgets the id."""
        self.send(messages.ack(execution.id))
        execution.drop_pipes()
        self.executions.pop(execution.id, None)

    # -------------------------------------------------------------------------------------------------- waiting

    def wait_for(self, done: Callable[[], object], what: str) -> None:
        """Read link and outputs until `done()`."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            self._turn(deadline, what)

    def ended(self, execution: Execution) -> Execution:
        """Wait for its ending, then take what its pipe holds, once (DRAINN)."""
        self.wait_for(lambda: execution.ended, f"the ending of {execution.id}")
        self._drain(execution)
        pipe = execution.pipes[0] if execution.pipes else None
        if pipe is not None and stat.S_ISCHR(os.fstat(pipe).st_mode):  # a terminal's output passes a queue of the kernel's first
            while select.select([pipe], [], [], TERMINAL_QUIET_S)[0] and unread(pipe):
                self._drain(execution)
        return execution

    def finished(self, execution: Execution) -> Execution:
        """As `ended`, then acknowledge."""
        self.ended(execution)
        self.ack(execution)
        return execution

    def do(self, command: str | Sequence[str], **how: object) -> Execution:
        """Run to the end and acknowledge."""
        return self.finished(self.run(command, **how))  # type: ignore[arg-type]

    def output_of(self, execution: Execution, text: str) -> Execution:
        """Wait until `text` is in its output."""
        self.wait_for(lambda: text.encode() in execution.output, f"{text!r} from {execution.id}, which said {execution.output[-200:]!r}")
        return execution

    def all_said(self) -> None:
        """Wait until the init has taken in all that was sent before: its answer to one more request, a stale skip."""
        before = len(self.stale)
        self.send(messages.skip(0, "all-said"))
        self.wait_for(lambda: len(self.stale) > before, "the answer to a stale skip")

    def _drain(self, execution: Execution) -> None:
        for pipe, output in zip(execution.pipes, execution.outputs, strict=False):
            held = 0 if pipe is None else unread(pipe)
            while pipe is not None and held > 0:
                data = os.read(pipe, held)
                output += data
                held -= len(data)

    def _readers(self) -> dict[int, tuple[Execution, int]]:
        """The read ends of what runs: whose each is, and which."""
        running = [execution for execution in self.executions.values() if execution.ended is None]
        lent = {execution.session.id for execution in running if execution.session is not None}  # ONEREADER: to their commands
        running = [execution for execution in running if execution.id not in lent]
        return {pipe: (execution, at) for execution in running for at, pipe in enumerate(execution.pipes) if pipe is not None}

    def _turn(self, deadline: float, what: str) -> None:
        poller = select.poll()
        readers = self._readers() if self.reading else {}
        for fd in readers:
            poller.register(fd, select.POLLIN)
        assert self.link is not None
        poller.register(self.link, select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not (ready := poller.poll(left * 1000)):
            raise TimedOut(f"{what} has not come within {PATIENCE_S} s")
        for fd, _ in ready:
            if fd == self.link.fileno():
                self._receive(self.link)
                continue
            execution, at = readers[fd]
            if data := read_some(fd):
                execution.outputs[at].extend(data)
            else:
                execution.drop_pipe(at)

    def _receive(self, link: socket.socket) -> messages.FromInit:
        data, fds, flags, _ = socket.recv_fds(link, messages.PACKET_LIMIT, messages.PIPES_PER_PACKET, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise ConnectionResetError("the init closed the link")
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        type_, large, length = messages.header(data)
        body = messages.packet_body(data)
        if large:
            memory = fds.pop(0)
            body = os.pread(memory, length, 0)
            os.close(memory)
        message = messages.parse(type_, body)
        if isinstance(message, Pipes):
            for id_, same in itertools.groupby(zip(message.ids, fds, strict=True), key=lambda pair: pair[0]):
                execution = self.executions.setdefault(id_, Execution(id_, 0))
                assert not execution.pipes, f"the read ends of {id_} do not stand together"
                execution.pipes = [fd for _, fd in same]
        elif isinstance(message, Started):
            self.executions[message.id].pipes = list(fds)
            self.executions[message.id].started = message
        elif isinstance(message, Ended):
            self.executions[message.id].ended = message
        elif isinstance(message, Stale):
            self.stale.append(message)
        return message


def read_some(fd: int) -> bytes:
    """What a pipe or a terminal has; nothing at its end."""
    try:
        return os.read(fd, 1 << 16)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


OWN_COUNT = "mount -t tmpfs none /sys/fs/cgroup && printf 'oom_kill %020d\\n' 0 > /sys/fs/cgroup/memory.events && exec \"$@\""


class Init:
    """A running init, its server, and a directory for both.

    Args:
        pid_namespace: it is PID 1 of a namespace of its own.
        own_count: there it has a count of OOM kills of its own, see `count_oom_kill`.
    """

    def __init__(self, binary: Path, *options: str, pid_namespace: bool = False, own_count: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="init-"))
        self.directory.chmod(0o777)  # commands of other users write here
        self.server = Server(self.directory)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        argv = [str(binary), "--socket", str(self.server.path), *options]
        if own_count:
            argv = ["sh", "-c", OWN_COUNT, "sh", *argv]
        if pid_namespace:
            argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *argv]
        self.process = subprocess.Popen(
            argv, env=BASE_ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._stderr, start_new_session=True
        )
        self._pid_namespace = pid_namespace
        self._oom_kills = 0

    def count_oom_kill(self) -> None:
        """What the kernel does when it kills one of the sandbox's processes for want of memory."""
        self._oom_kills += 1
        count = os.open(f"/proc/{self.pid}/root/sys/fs/cgroup/memory.events", os.O_WRONLY)
        os.write(count, b"oom_kill %020d\n" % self._oom_kills)
        os.close(count)

    @property
    def pid(self) -> int:
        """The init's pid, as seen from here."""
        if not self._pid_namespace:
            return self.process.pid
        (child,) = children(self.process.pid)
        return child

    def close(self) -> None:
        """End it as an engine would, and check that it went well and left nothing behind."""
        family = [self.process.pid, *descendants(self.process.pid)]
        try:
            if self.process.poll() is None:
                os.kill(self.pid, signal.SIGTERM)
            code = self.process.wait(timeout=20)
            left = [] if self._pid_namespace else [pid for pid in family if alive(pid)]
        finally:
            for pid in family:
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.server.die()
            shutil.rmtree(self.directory)
        self._stderr.seek(0)
        complaints = self._stderr.read().decode()
        self._stderr.close()
        assert not complaints, complaints
        assert code == 0, f"the init ended with {code}"
        assert not left, f"the init left {left} behind"


def memory_file(content: bytes) -> int:
    """A descriptor to read `content` from."""
    fd = os.memfd_create("test")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def unread(pipe: int) -> int:
    """How many bytes a pipe holds."""
    (held,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))
    return int(held)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """For what nothing announces, such as another process's death."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimedOut(f"{what} has not come about within {PATIENCE_S} s")
        time.sleep(0.002)
