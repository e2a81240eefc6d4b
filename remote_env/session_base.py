"""A long-lived shell in a sandbox: what both faces know of it, and how commands are sent to it.

On the wire a session is an execution, and so is each of its commands: delivered at most once, journaled, told of for ever. What is
said here is only which of them may be sent when, and what their endings mean for the shell.
"""

from __future__ import annotations

import logging
import shlex
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from remote_env import protocol
from remote_env.answer import sentence
from remote_env.errors import InvalidSpec, NotRunError, RemoteEnvError, SessionEnded, SessionNotOpened
from remote_env.protocol import Tty
from remote_env.sandbox_base import Hearing, OnUndelivered, SandboxBase, require_success
from remote_env.terminal_base import INTERRUPT, Expected

if TYPE_CHECKING:
    from remote_env.execution_base import ExecutionBase
    from remote_env.terminal_base import Patterns, TerminalBase

Talk = TypeVar("Talk", bound="TerminalBase")

_LEAVING_S = 5.0  # how long a program that was talked with may take to end, before a command that waits for that is refused

log = logging.getLogger("remote_env")


class SessionBase:
    """`opening` is the execution that is the session's shell; its output is what was said between the commands."""

    def __init__(self, sandbox: SandboxBase, opening: ExecutionBase, tty: Tty | None) -> None:
        self._base = sandbox
        self._opening = opening
        self._tty = tty
        self._over = opening.over
        self._last: protocol.Outcome | None = None  # of the command that ended it: that is its shell's own
        self._current: ExecutionBase | None = None  # the latest command that was sent without waiting for its end
        self._talking = False  # with that one, which has no timeout

    @property
    def id(self) -> str:
        return self._opening.id

    @property
    def alive(self) -> bool:
        """Whether commands can be sent to it, as far as this process knows: an end by `exit` or `exec` in one of its commands is
        known here, one that came otherwise by `refresh()` or by the next command."""
        return not self._over

    @property
    def outcome(self) -> protocol.Outcome | None:
        """How its shell ended, once that is known (`refresh()`); None while it lives."""
        return self._opening.outcome or self._last

    @property
    def exit_code(self) -> int | None:
        """Its shell's exit code, once that is known; None while it lives, or where it did not exit."""
        return None if self.outcome is None else self.outcome.code

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {'alive' if self.alive else 'over'}>"

    # ---------------------------------------------------------------------------------------------------- commands

    async def _run(
        self,
        command: str,
        idempotent: bool | None,
        on_undelivered: OnUndelivered | None,
        hear: Callable[[ExecutionBase], Hearing] | None,
        check: bool,
        spec: dict[str, Any],
    ) -> protocol.Execution:
        """The command's end."""
        options = await self._ready(command, spec)
        try:
            record = self._heed(await self._base._run(command, idempotent, on_undelivered, hear, False, options))
        except SessionEnded as error:
            raise await self._told(error) from error
        if check:
            require_success(record)
        return record

    async def _begin(
        self, command: str, on_undelivered: OnUndelivered | None, spec: dict[str, Any], *, talking: bool = False
    ) -> ExecutionBase:
        """The command, accepted. `talking`: it is a program for somebody to talk with; it ends when that is over."""
        options = await self._ready(command, spec)
        try:
            record = await self._base._begin(command, False, on_undelivered, options)
        except SessionEnded as error:
            raise await self._told(error) from error
        self._current, self._talking = self._base._execution(record), talking
        return self._current

    async def _ready(self, command: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Waits for the end of a command that was started before. The options that the next one is sent with."""
        if not isinstance(command, str):
            raise InvalidSpec(f"A session's command is a string for its shell, not {type(command).__name__}. Nothing was sent.")
        if self._over and "id" not in spec:  # of a given id, which may have been sent before, only the server can tell
            raise await self._told(SessionEnded(""))
        options = {**spec, "session": self.id}
        tty = options.pop("tty", None)
        if tty:
            if self._tty is None:
                raise InvalidSpec("The session has no terminal: open it with tty=True. Nothing was sent.")
            options["tty"] = self._tty if tty is True else tty
        await self._turn_of_next()
        return options

    async def _turn_of_next(self) -> None:
        before = self._current
        if before is None:
            return
        try:
            self._heed((await before._wait(_LEAVING_S if self._talking else None)).record)
        except TimeoutError:
            raise InvalidSpec(
                f"A program that was started to be talked with still runs in session {self.id} (execution {before.id}): send to it, "
                "interrupt it, or close its terminal first. Nothing was sent."
            ) from None
        except RemoteEnvError as error:
            # Whether it is over is for the server to say: it refuses a command that comes too early, and is asked again.
            log.warning("session %s: whether execution %s has ended is not known: %s", self.id, before.id, error)
        self._current = None

    def _heed(self, record: protocol.Execution) -> protocol.Execution:
        """What a command's record says of the session."""
        if record.session_over:
            self._over, self._last = True, record.outcome
        return record

    async def _told(self, error: SessionEnded) -> SessionEnded:
        """The error with all that can be known of the session's end."""
        self._over = True
        try:
            await self._refresh()
        except RemoteEnvError as unknown:
            log.warning("how session %s ended is not known: %s", self.id, unknown)
        ended = SessionEnded(
            f"Session {self.id} is over{_how(self.outcome)}. This command did not run. Open another session.",
            execution_id=error.execution_id, sandbox_id=self._base.id,
        )  # fmt: skip
        ended.outcome = self.outcome
        return ended

    # ------------------------------------------------------------------------------------------ programs to talk with

    def _talked_with(self, terminal: Talk | None) -> Talk:
        if terminal is None:
            raise self._silent()
        return terminal

    def _silent(self) -> InvalidSpec:
        return InvalidSpec(f"No program is talked with in session {self.id}: `run(…, expect=…)` starts one. Nothing was sent.")

    @staticmethod
    def _only_expecting(**given: object) -> None:
        """What speaks of a command's end has no meaning where it is not waited for."""
        wrong = [name for name, value in given.items() if value]
        if wrong:
            raise InvalidSpec(
                f"{' and '.join(wrong)} cannot be combined with expect: `run(…, expect=…)` returns while the program runs, is sent at most "
                "once, and its output is what is expected. Nothing was sent."
            )

    async def _interrupt(self, terminal: TerminalBase | None, expect: Patterns | None, timeout_s: float | None) -> Expected | None:
        """Ctrl-C to the program that is talked with; else SIGINT to the shell's process group, which is that of the command that runs."""
        if terminal is not None and not terminal.over:
            return await terminal._send(INTERRUPT, expect, timeout_s)
        if expect is not None:
            raise self._silent()
        await self._opening._signal(signal.SIGINT)
        return None

    # ------------------------------------------------------------------------------------------------- the session

    async def _refresh(self) -> None:
        self._over = (await self._opening._refresh()).over or self._over

    async def _close(self) -> None:
        if self._opening.over or self._base.gone is not None:
            self._over = True
            return
        self._over = True
        await self._opening._cancel()
        try:
            await self._opening._wait(self._base._exchange.transport.timings.farewell_s)
        except TimeoutError:
            log.warning("session %s has not ended yet; it is being cancelled", self.id)


async def open_session(sandbox: SandboxBase, startup: Sequence[str], tty: Tty | None, options: dict[str, Any]) -> protocol.Execution:
    """A session whose shell has answered, and has taken in the startup files.

    Raises SessionNotOpened, NotRunError, OutcomeUnknownError, SandboxGone, MisuseError.
    """
    fields = {**options, "opens": "session"} | ({} if tty is None else {"tty": tty})
    opening = await sandbox._begin(None, True, None, fields)
    session = SessionBase(sandbox, sandbox._execution(opening), tty)
    # Of a session that an earlier process may have opened, what sets it up has ids that follow from the session's: it is done once.
    ids = [{"id": f"{opening.id[:56]}-setup{number}"} if "id" in options else {} for number in range(len(startup) + 1)]
    for file, own_id in zip([None, *startup], ids, strict=True):
        try:
            record = await session._run(":" if file is None else _source(file), False, "redeliver", None, False, own_id)
        except SessionEnded as error:
            raise _not_opened(session, file) from error
        except NotRunError:
            await _give_up(session)
            raise
        except GeneratorExit:  # its event loop is gone: nothing can be awaited any more
            raise
        except BaseException:  # Ctrl-C, say: nobody gets the session, and its shell would have no end
            await sandbox._call_off(opening.id)
            raise
        if record.session_over or record.outcome is None or record.outcome.kind != "exited" or record.outcome.code != 0:
            output = await sandbox._execution(record)._fetch_output()
            await _give_up(session)
            raise _not_opened(session, file, record.outcome, output.decode("utf-8", "replace"))
    return session._opening.record


def _source(file: str) -> str:
    """Sources it; fails where it cannot be read, whatever the last command in it came to."""
    quoted = shlex.quote(file)
    return f". {quoted}\n[ $? -eq 0 ] || [ -r {quoted} ]"


async def _give_up(session: SessionBase) -> None:
    try:
        await session._close()
    except RemoteEnvError as error:
        log.warning("session %s could not be closed: %s", session.id, error)


def _not_opened(session: SessionBase, file: str | None, setup: protocol.Outcome | None = None, output: str = "") -> SessionNotOpened:
    """`setup`: how the command ended that reads the file, or sees whether the shell is there."""
    shell = session.outcome
    if shell is not None and shell.kind == "failed_to_start":
        what = sentence(session._opening.record).removesuffix(".")
    elif file is None:
        what = f"its shell did not start{_how(shell or setup)}"
    elif setup is not None and setup.kind == "exited":
        what = f"its startup file {file} could not be read"
    else:
        what = f"its startup file {file} did not come to an end{_how(setup)}"
    said = f" The shell said: {output.strip()}" if output.strip() else ""
    error = SessionNotOpened(f"Session {session.id} was not opened: {what}.{said}", execution_id=session.id, sandbox_id=session._base.id)
    error.output = output
    return error


def _how(outcome: protocol.Outcome | None) -> str:
    if outcome is None:
        return ""
    if outcome.kind == "exited":
        return f": its shell exited with code {outcome.code}"
    if outcome.kind == "signalled":
        return f": its shell died of signal {outcome.signal}"
    return f": {outcome.kind.replace('_', ' ')}" + (f" ({outcome.reason})" if outcome.reason else "")
