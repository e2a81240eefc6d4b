"""Everything remote_env raises, cut by the fate of the command rather than by what broke.

RemoteEnvError
├── NotRunError             it did not run and never will
│   ├── CommandNotDelivered     the request was lost; the server has fenced its id
│   ├── ServerBusy              no room within the queue timeout
│   ├── Unauthorized            the token was refused
│   ├── Unreachable             no connection was made: no byte was sent
│   └── SandboxNotCreated       there is no sandbox to run anything in
├── OutcomeUnknownError     it may have run: ask (by its id), do not resend
│   ├── LinkLost                the server stayed away for the whole reconnect budget
│   ├── AnswerMismatch          what came back were the answers of other requests
│   └── EpochChanged            the sandbox was restarted or the server knows nothing of it any more
├── CommandFailed           it ran and ended otherwise than with exit code 0 (only where check=True asked for it)
├── CommandLost             it ran or may have run; container, host, engine or journal died under it
├── SignalNotSent           the signal was not sent; the command goes on as it was
├── SandboxGone             the sandbox was removed or died; make a new one
├── OutputIncomplete        its result is known, its output could not be fetched whole
├── MisuseError             the caller's mistake; nothing was run
│   ├── InvalidSpec             the request is not valid
│   ├── IdConflict              the id is already taken by another request
│   └── ImageNotFound           the image is not there and cannot be pulled
└── ProtocolMismatch        client and server do not understand each other
"""

from __future__ import annotations


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


class SandboxNotCreated(NotRunError):
    """The sandbox could not be made, so nothing ran. The message says why; making another one is safe."""


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


class SandboxGone(RemoteEnvError):
    """The sandbox was removed, its lease ran out, or it died. Commands not yet accepted did not run. Make a new one."""


class OutputIncomplete(RemoteEnvError):
    """The command's result is known, its output could not be fetched whole (length or sha256 differ, or it was
    purged). It ran. Call `client.execution(error.execution_id).output()` again; do not resend the command."""


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
