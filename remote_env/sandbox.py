"""One container on the server's machine, as its caller sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from remote_env import protocol
from remote_env.driving import drive
from remote_env.eventstream import EventStream
from remote_env.execution import Execution
from remote_env.execution_base import ExecutionBase
from remote_env.filemodels import Change, Snapshot
from remote_env.filerequests import Path
from remote_env.listener import Listener, OnOutput
from remote_env.protocol import Tty
from remote_env.sandbox_base import OnUndelivered, SandboxBase
from remote_env.sandbox_files import SandboxFiles
from remote_env.session import Session
from remote_env.terminal import Terminal
from remote_env.terminal_base import SHELL_COMMAND, require_terminal

if TYPE_CHECKING:
    from remote_env.client import Client

_ITSELF: Any = object()  # what `remove` removes when no path is given; None would be a path that somebody forgot


class Sandbox(SandboxBase, SandboxFiles):
    """A container that the server made. Commands run in it one beside the other; threads may share it.

    With `with`, it is removed at the end. `record` is the server's latest answer about it.
    """

    def __init__(self, client: Client, record: protocol.Sandbox) -> None:
        super().__init__(client, record)
        self._client = client

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = False,
        idempotent: bool | None = None,
        on_undelivered: OnUndelivered | None = None,
        on_output: OnOutput | None = None,
        **spec: Any,
    ) -> Execution:
        """Runs the command at most once and waits for its end. Ctrl-C cancels it.

        Args:
            command: a string for the shell, or an argv list that is run without one.
            check: raise CommandLost or CommandFailed for every end but exit code 0.
            idempotent: True, the command changes nothing; False, treat it as if it did. None: what the client's
                `reads` recognise. A command that changes nothing is run again, as a new execution, when its request or
                its sandbox's answer got lost.
            on_undelivered: "redeliver": when the request got lost and is fenced, send it once more under a new id.
            on_output: called with each `OutputPiece` as it comes, in a thread of its own; nobody waits for it, but for
                `Timings.listener_grace_s` at the end. A command that is run again is heard again, from offset 0. When it
                raises, that is logged and it is not called any more.
            spec: the other fields of `protocol.ExecutionSpec`: workdir, env, user, stdin (str or bytes), timeout_s,
                idle_timeout_s, grace_s, output_limit_bytes, streams ("merged" or "split"), shell, login, make_workdir; and id,
                to send what an earlier process may have sent already: the command still runs at most once, and nothing is
                said of it but what the server knows.

        Raises NotRunError, OutcomeUnknownError, SandboxGone, MisuseError (each with its kinds).
        """

        hear = None if on_output is None else self._hearing(on_output)
        return self._execution(drive(self._run(command, idempotent, on_undelivered, hear, check, spec)))

    def start(self, command: str | Sequence[str], **spec: Any) -> Execution:
        """Sends the command and returns as soon as the server has it in its journal. Arguments and errors as `run`."""
        return self._execution(drive(self._start(command, spec)))

    def stream(
        self,
        command: str | Sequence[str],
        *,
        idempotent: bool | None = None,
        on_undelivered: OnUndelivered | None = None,
        **spec: Any,
    ) -> EventStream:
        """Sends the command and follows it: an iterator of what happens to it (`events`), the last being `Ended` with the
        `Execution` that `run` would have returned. The command is on its way when this returns.

        Leaving the loop, Ctrl-C in it too, does not cancel the command: `cancel()` of the stream does, and `.execution` is its
        handle. Arguments and errors as `run`; of commands that only read, those are run again whose request got lost, and none
        that has begun. What the iteration raises: see `EventStream`.
        """
        return self._execution(drive(self._begin(command, idempotent, on_undelivered, spec))).stream()

    def session(
        self,
        *,
        startup: Sequence[str] = (),
        tty: bool | Tty | None = None,
        errors: str = "replace",
        shell: str | None = None,
        login: bool | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        streams: protocol.Streams | None = None,
        **spec: Any,
    ) -> Session:
        """Opens a shell that keeps its directory, variables, functions and jobs between commands, and waits until it answers.

        Args:
            startup: files to source first, in this order; one that cannot be read is an error.
            tty: True, or a `Tty` with its size: the session has a terminal, for commands that ask for it.
            errors: what becomes of a program's text on that terminal that is not UTF-8, as for `bytes.decode`.
            shell: default: bash where the image has it, else sh.
            streams: "merged" (default) or "split": for all of its commands.
            spec: make_workdir, output_limit_bytes (of what is said between the commands); and id, to come back to a session that an
                earlier process may have opened: it is opened at most once, and its startup files are read once.

        Raises SessionNotOpened, and what `run` raises; there is no session then.
        """
        options = {"shell": shell, "login": login, "workdir": workdir, "env": env, "user": user, "streams": streams, **spec}
        return Session.open(self, startup, tty, errors, options)

    def terminal(
        self,
        command: str | Sequence[str] | None = None,
        *,
        rows: int = 24,
        cols: int = 80,
        term: str = "xterm-256color",
        echo: bool = True,
        errors: str = "replace",
        **spec: Any,
    ) -> Terminal:
        """Starts a program (default: a login shell) on a terminal of its own, for somebody who talks with it.

        It has no timeout, unless `timeout_s` is given. `spec` and errors as for `run`, but for stdin and streams; `errors`: as for
        `session`; `term` becomes TERM, `echo` False keeps the terminal from showing what is typed.
        """
        options = {"timeout_s": None, **spec, "tty": {"rows": rows, "cols": cols, "term": term, "echo": echo}}
        return Terminal(self.start(SHELL_COMMAND if command is None else command, **options), errors=errors)

    def attach(self, execution_id: str, *, from_: str | int = "now", errors: str = "replace") -> Terminal:
        """Takes up a program on a terminal that somebody started, this process or another. `from_`: where in its output to begin, as
        for `Execution.stream`. Raises InvalidSpec (it has no terminal, or is of another sandbox), EpochChanged (unknown), LinkLost."""
        execution = self._client.execution(execution_id)
        require_terminal(execution, self.id)
        return Terminal(execution, typed=None, from_=from_, errors=errors)

    @overload
    def remove(self, *, purge: bool = False) -> None: ...
    @overload
    def remove(self, path: Path, *, recursive: bool = False, user: str | None = None) -> None: ...
    def remove(self, path: Path = _ITSELF, *, purge: bool = False, recursive: bool = False, user: str | None = None) -> None:
        """Without a path: kills what runs in the sandbox and removes its container; results stay at the server for its retention,
        output too unless `purge`. May be repeated. Raises Unreachable, LinkLost.

        With a path: removes that file, symbolic link or empty directory of the sandbox; a whole tree with `recursive`. Raises
        SandboxFileNotFound, DirectoryNotEmpty and the other kinds of FileError.
        """
        if path is _ITSELF:
            drive(self._remove(purge))
        else:
            drive(self.files.remove(path, recursive=recursive, user=user))

    def diff(self) -> list[Change]:
        """What is otherwise in its file system than in its image, by path. Raises SandboxGone, ServerBusy, Unreachable, LinkLost."""
        return drive(self._diff())

    def snapshot(self, image: str) -> Snapshot:
        """Makes an image of that name (`repository:tag`), which the engine's next sandboxes can be made of; one that has the name
        loses it. It starts as the sandbox's image does (its ENTRYPOINT, CMD, ENV, USER, WORKDIR and labels), with what changed in
        the file system since. The sandbox goes on: a file that is being written meanwhile may be in there half written.

        Raises InvalidSpec, SandboxGone, ServerBusy, Unreachable, LinkLost.
        """
        return drive(self._snapshot(image))

    def refresh(self) -> Sandbox:
        """Asks the server how it stands now. Raises SandboxGone where the server does not know it, LinkLost."""
        return drive(self._refresh())

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def _execution(self, record: protocol.Execution) -> Execution:
        return Execution(self._client, record)

    def _hearing(self, on_output: OnOutput) -> Callable[[ExecutionBase], Listener]:
        def hear(execution: ExecutionBase) -> Listener:
            return Listener(EventStream(self._execution(execution.record), self._exchange, counted=False), on_output)

        return hear
