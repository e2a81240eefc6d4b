"""Everything remote_env raises, cut by the fate of the command rather than by what broke.

RemoteEnvError
├── NotRunError             it did not run and never will
│   ├── CommandNotDelivered     the request was lost; the server has fenced its id
│   ├── ServerBusy              no room within the queue timeout
│   ├── Unauthorized            the token was refused
│   ├── Unreachable             no connection was made: no byte was sent
│   ├── SessionEnded            the session's shell is over
│   └── SandboxNotCreated       there is no sandbox to run anything in
├── OutcomeUnknownError     it may have run: ask (by its id), do not resend
│   ├── LinkLost                the server stayed away for the whole reconnect budget
│   ├── AnswerMismatch          what came back were the answers of other requests
│   ├── InputUnknown            whether a terminal's input has arrived cannot be known
│   └── EpochChanged            the sandbox was restarted or the server knows nothing of it any more
├── CommandFailed           it ran and ended otherwise than with exit code 0 (only where check=True asked for it)
├── CommandLost             it ran or may have run; container, host, engine or journal died under it
├── SignalNotSent           the signal was not sent; the command goes on as it was
├── SessionNotOpened        its shell did not start, or a startup file could not be read; the session is over
├── ExpectTimeout           what was expected did not come in time; the program goes on
├── ExpectEnded             the program has ended, and what was expected did not come
├── InputNotTaken           the program does not read; it goes on
├── SandboxGone             the sandbox was removed or died; make a new one
├── OutputIncomplete        its result is known, its output could not be fetched whole
├── FileError               a file of the sandbox could not be read or written; no command is concerned
│   ├── SandboxFileNotFound     (a FileNotFoundError)
│   ├── SandboxIsADirectory     (an IsADirectoryError)
│   ├── SandboxNotADirectory    (a NotADirectoryError)
│   ├── SandboxPermissionError  (a PermissionError)
│   ├── DirectoryNotEmpty       what is to be removed has something in it
│   ├── NotARegularFile         a device, FIFO, socket, or a loop of symlinks
│   ├── FileTooLarge            beyond a limit of the file system or of the request
│   ├── NoSpace                 the sandbox's disk or quota is full
│   ├── FileChanged             it was changed while it was read
│   └── Damaged                 what came is not what was sent
├── MisuseError             the caller's mistake; nothing was run
│   ├── InvalidSpec             the request is not valid
│   ├── IdConflict              the id is already taken by another request
│   └── ImageNotFound           the image is not there and cannot be pulled
└── ProtocolMismatch        client and server do not understand each other
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remote_env.protocol import Outcome


class RemoteEnvError(Exception):
    """Any failure of remote_env. `execution_id` and `sandbox_id` name what it is about, where that is known."""

    def __init__(self, message: str, *, execution_id: str | None = None, sandbox_id: str | None = None) -> None:
        super().__init__(message)
        self.execution_id = execution_id
        self.sandbox_id = sandbox_id


class NotRunError(RemoteEnvError):
    """The command did not run and never will. Safe to send again, as a new call."""


class CommandNotDelivered(NotRunError):
    """The request got lost on the way and its id was fenced: it did not run and never will. Safe to send again."""


class ServerBusy(NotRunError):
    """The server had no room until the queue timeout was over. It did not run. Try later, or elsewhere."""


class Unauthorized(NotRunError):
    """The server refused the token. It did not run. Set REMOTE_ENV_TOKEN or REMOTE_ENV_TOKEN_FILE and call again."""


class Unreachable(NotRunError):
    """No connection could be made, so no byte was sent. It did not run. See that the server runs and the URL is right
    (`remote-env doctor`), then call again."""


class SessionEnded(NotRunError):
    """The session's shell is over, or there is no session of that id. The command did not run. `outcome` is how the shell ended
    and `exit_code` its exit code, where they are known. Open another session with `sandbox.session()`."""

    outcome: Outcome | None = None

    @property
    def exit_code(self) -> int | None:
        return None if self.outcome is None else self.outcome.code


class SandboxNotCreated(NotRunError):
    """The sandbox could not be made, so nothing ran. The message says why; making another one is safe. `undelivered`: the request
    got lost, or the server ended over it; made again it may well succeed."""

    undelivered: bool = False


class OutcomeUnknownError(RemoteEnvError):
    """The command may have run, may be running, or may never run. Do not send it again: ask
    `client.execution(error.execution_id)` later, or look at what it would have changed."""


class LinkLost(OutcomeUnknownError):
    """The server could not be reached for the whole reconnect budget. The command is not cancelled: its result waits
    at the server. Call `client.execution(error.execution_id).wait()` when the link is back."""


class AnswerMismatch(OutcomeUnknownError):
    """The answers that came belonged to other requests (another id, sandbox or epoch), to the end of the reconnect budget:
    something on the way mixes connections up. The command is not cancelled and may have run. Mend what is between client
    and server, then call `client.execution(error.execution_id).wait()`."""


class InputUnknown(OutcomeUnknownError):
    """The server was started again while input for a terminal was on its way: nobody can tell whether the program got it. What
    was sent before has arrived, what comes after will. Look at what the program says, then send it again or not."""


class EpochChanged(OutcomeUnknownError):
    """Another life of the sandbox, or another server, answers (container restarted, journal gone, server replaced). Whether
    the command ran cannot be known any more. Make a new sandbox; do not resend blindly."""


class CommandFailed(RemoteEnvError):
    """The command ran to an end other than exit code 0, and `run(check=True)` asked to be told so. Its output is at
    `client.execution(error.execution_id).output()`. Running it again is the caller's decision."""


class CommandLost(RemoteEnvError):
    """The command ran or may have run, and container, host, engine or journal died under it. There is no result and
    never will be. `error.execution_id` has the output so far. Running it again is the caller's decision."""


class SignalNotSent(RemoteEnvError):
    """The signal was not sent: the command has not started yet, or its sandbox cannot be reached just now. It goes on as it
    was, and its result is not affected. Call `signal` again, or `cancel()`, which is kept until it can be delivered."""


class SessionNotOpened(RemoteEnvError):
    """The session's shell did not start, or one of its startup files could not be read; nothing else ran in it, and it is over.
    `output` is what the shell said. Correct the call, then open another one."""

    output: str = ""


class ExpectTimeout(RemoteEnvError):
    """None of what was expected has come in time. The program goes on: expect again, send it something, or interrupt it.
    `output` is the text that was searched; it is still there for the next `expect`."""

    output: str = ""


class ExpectEnded(RemoteEnvError):
    """The program has ended, and none of what was expected came before. It ran; `output` is what it has said since the last
    match, and `client.execution(error.execution_id)` tells how it ended. Expect `END` where an end is what is waited for."""

    output: str = ""


class InputNotTaken(RemoteEnvError):
    """The program does not read its terminal, whose buffer is full: of the input, `taken` bytes are in there, the rest was not
    sent. It goes on. Send the rest when it reads again, or interrupt it."""

    taken: int = 0


class SandboxGone(RemoteEnvError):
    """The sandbox was removed, its lease ran out, or it died. Commands not yet accepted did not run. Make a new one."""


class OutputIncomplete(RemoteEnvError):
    """The command's result is known, its output could not be fetched whole (length or sha256 differ, or it was
    purged). It ran. Call `client.execution(error.execution_id).output()` again; do not resend the command."""


def _give_number(error: BaseException, number: int | None) -> None:
    """What handlers of the built-in kinds look at."""
    if isinstance(error, OSError):
        error.errno = number


class FileError(RemoteEnvError):
    """A file of the sandbox could not be read, written or removed; no command is concerned. What was to be written is not
    there, in no part of it; of a tree, files that came before the one named may be. The call may be made again once its cause,
    which the message tells, is gone."""

    def __init__(
        self, message: str, *, path: str | None = None, execution_id: str | None = None, sandbox_id: str | None = None
    ) -> None:  # fmt: skip
        super().__init__(message, execution_id=execution_id, sandbox_id=sandbox_id)
        self.path = path
        _give_number(self, self._errno)

    _errno: int | None = None


class SandboxFileNotFound(FileError, FileNotFoundError):
    """There is no such file or directory in the sandbox. Nothing was changed. Look with `sandbox.list`, or make it first."""

    _errno = errno.ENOENT


class SandboxIsADirectory(FileError, IsADirectoryError):
    """It is a directory, and a file was asked for. Nothing was changed. Use `upload` and `download` for trees, `list` to look,
    `remove(recursive=True)` to remove it."""

    _errno = errno.EISDIR


class SandboxNotADirectory(FileError, NotADirectoryError):
    """Something on the way, or the path itself, is a file and not a directory. Nothing was changed. Correct the path."""

    _errno = errno.ENOTDIR


class SandboxPermissionError(FileError, PermissionError):
    """The user may not, or the file system is read-only. Nothing was changed. Another `user` (`"root"`) may be allowed to."""

    _errno = errno.EACCES


class DirectoryNotEmpty(FileError):
    """The directory has something in it. It is as it was. Remove it with `recursive=True`."""


class NotARegularFile(FileError):
    """A device, a FIFO, a socket or a loop of symbolic links: nothing that could be read or written as a file without the danger
    of waiting for ever. Nothing was changed. A command in the sandbox (`sandbox.run`) can do more."""


class FileTooLarge(FileError):
    """The file, or the list, is larger than the sandbox's file system or the server lets it be. Nothing is left of it. Send or
    read less at once."""


class NoSpace(FileError):
    """The sandbox's disk or quota is full. Nothing is left of the file; of a tree, the files before it are. Make room in the
    sandbox, then call again."""


class FileChanged(FileError):
    """The file was changed while it was read, at the side it was read from, so that parts of two versions would have come.
    Nothing was written under the final name. Call again when it is at rest."""


class Damaged(FileError):
    """What came is not what was sent: its SHA-256, its length or its form is wrong, again and again. Nothing was written under
    the final name. Something between client and server changes data; mend that, then call again."""


class MisuseError(RemoteEnvError):
    """The caller's mistake. Nothing ran. Correct the call."""


class InvalidSpec(MisuseError):
    """The request is not valid; the message names the field. Nothing ran. Correct it and call again."""


class IdConflict(MisuseError):
    """The id is already taken by a request with another body. This call ran nothing. Use a fresh id."""


class ImageNotFound(MisuseError):
    """The image is not there and could not be pulled. Nothing ran. Pull or build it, or correct its name."""


class ProtocolMismatch(RemoteEnvError):
    """The other side does not speak our protocol: not a remote-env server, or another version. Nothing can be said
    of commands sent before; this call ran nothing. Compare `remote-env --version` on both sides."""
