"""The wire models, version 1: what client and server say to each other as JSON over HTTP.

They live here once; the server imports them from here. Requests refuse fields that do not exist (a misspelt
``timeout`` must not silently become the default); answers ignore them (an older client reads a newer server).
Durations are seconds (``…_s``), sizes bytes (``…_bytes``), times RFC 3339 with offset.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from remote_env.fields import ID_PATTERN as ID_PATTERN
from remote_env.fields import AbsolutePath, Duration, Env, Id, Image, Text, Time
from remote_env.fields import new_id as new_id
from remote_env.problems import PROBLEMS as PROBLEMS
from remote_env.problems import Problem as Problem

PROTOCOL_VERSION = 1
DEFAULT_PORT = 9527
EPOCH_HEADER = "X-Remote-Env-Epoch"
# Which execution and which server an answer is of: to be held against what was asked.
EXECUTION_HEADER = "X-Remote-Env-Execution"
SANDBOX_HEADER = "X-Remote-Env-Sandbox"
INSTANCE_HEADER = "X-Remote-Env-Instance"
# POST …/input: how many bytes of input were sent before these, or "restart" where nobody knows.
OFFSET_HEADER = "X-Remote-Env-Offset"
INPUT_LIMIT = 1 << 20  # bytes of one POST …/input, or of one message of a terminal's WebSocket
TERMINAL_SUBPROTOCOL = "remote-env.v1"
COUNTED_SUBPROTOCOL = "remote-env.v2"
"""As v1, and each binary message of input begins with 8 bytes, big-endian: how many bytes this typist has typed before it, over all of
its links. A typist is who `?typist=` says; the server's "at" tells how many bytes of its input have come, and drops copies of them."""
TYPIST_OFFSET_BYTES = 8
INLINE_LIMIT = 256 * 1024  # bytes of output inside an Execution; the rest is fetched by Range
OUTPUT_LIMIT = 64 << 20  # bytes kept of one execution's output, half head, half tail
BODY_LIMIT = 16 << 20  # bytes of one request body
COMMAND_TIMEOUT_S = 1800.0
GRACE_S = 2.0


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


# ------------------------------------------------------------------------------------------------ sandboxes


class Bind(Request):
    """A host directory mounted into the sandbox; only below a path that the server allows."""

    source: AbsolutePath
    target: AbsolutePath
    read_only: bool = True


class SandboxSpec(Request):
    """POST /v1/sandboxes"""

    id: Id
    image: Image
    run_id: Id
    pull: Literal["missing", "always", "never"] = "missing"
    platform: str | None = None
    workdir: AbsolutePath | None = None  # None: the image's own, else /
    env: Env = Field(default_factory=dict)
    user: Text | None = None  # None: the image's own, else root
    cpus: Annotated[float, Field(gt=0)] | None = None
    memory_bytes: Annotated[int, Field(ge=6 << 20)] | None = None  # None: the server's default
    pids: Annotated[int, Field(ge=16)] | None = None
    shm_bytes: Annotated[int, Field(ge=4096)] | None = None
    network: Literal["bridge", "none"] = "bridge"
    labels: dict[str, str] = Field(default_factory=dict)
    binds: tuple[Bind, ...] = ()
    read_only: bool = False  # the root filesystem
    no_new_privileges: bool = True  # False lets sudo and other setuid programs work
    lease_s: Duration = 300.0
    on_lease_end: Literal["wait", "kill"] = "wait"  # wait: a running command holds the lease to its own end


SandboxState = Literal["creating", "running", "removing", "removed", "dead", "failed"]
"""creating → running → removing → removed; dead: its container or engine died under it; failed: never came to be."""


class Sandbox(Answer):
    id: str
    run_id: str
    image: str
    state: SandboxState
    reason: str | None = None  # why it is dead, removed or failed
    epoch: str | None = None  # known once it runs; goes into the epoch header
    container_id: str | None = None
    workdir: str | None = None
    user: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: Time | None = None
    lease_s: float | None = None
    lease_expires_at: Time | None = None
    running: int = 0  # executions not ended
    progress: str | None = None  # while creating: what is being done


class SandboxList(Answer):
    sandboxes: list[Sandbox]


class LeaseRenewal(Request):
    """POST /v1/leases: of one run, or of several in one call"""

    run_id: Id
    run_ids: Annotated[tuple[Id, ...], Field(max_length=1000)] = ()  # further ones


class LeaseAnswer(Answer):
    """Of all runs that were renewed together."""

    run_id: str
    run_ids: list[str] = []  # the further ones
    expires_in_s: float | None  # the least of them; None: they have no sandbox
    live: list[str]
    gone: dict[str, str]  # sandbox id → reason, of their sandboxes that ended lately


# ----------------------------------------------------------------------------------------------- executions


Streams = Literal["merged", "split"]
"""merged: stdout and stderr as one output, in the order written; split: each by itself."""


class Tty(Request):
    """A terminal (pty), the controlling one of what runs on it. Size in characters."""

    rows: Annotated[int, Field(ge=1, le=0xFFFF)] = 24
    cols: Annotated[int, Field(ge=1, le=0xFFFF)] = 80
    term: Annotated[Text, Field(min_length=1, max_length=128)] = "xterm-256color"  # becomes TERM
    echo: bool = True


_STDIN = ("stdin", "stdin_base64", "stdin_path")
_NOT_WITH_OPENS = ("command", "argv", "session", "idle_timeout_s", *_STDIN)
_NOT_IN_SESSION = ("argv", "shell", "login", "workdir", "make_workdir", "env", "user", *_STDIN)


class ExecutionSpec(Request):
    """POST /v1/sandboxes/{sid}/executions. Exactly one of `command`, `argv` and `opens`; at most one form of stdin.

    `opens="session"`: this execution is the shell of a session; it has no timeout, ends when that shell ends or by cancel, and
    its output is what was said between the session's commands. `session`: run `command` in that session of the same sandbox;
    everything else about how it runs is the session's. `tty`: run on a terminal, output merged, input by POST …/input; with
    `opens` the session has a terminal for those of its commands that ask for it.
    """

    id: Id
    opens: Literal["session"] | None = None
    session: Id | None = None
    command: Annotated[Text, Field(min_length=1)] | None = None  # run by a shell
    argv: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None  # run as it is, no shell
    shell: Text | None = None  # None: bash where the image has it, else sh
    login: bool = False
    workdir: AbsolutePath | None = None  # None: the sandbox's
    make_workdir: bool = False
    env: Env = Field(default_factory=dict)
    user: Text | None = None
    stdin: str | None = None
    stdin_base64: str | None = None
    stdin_path: AbsolutePath | None = None  # a file of the sandbox, opened by the command's own process as its user
    stdin_unlink: bool | None = None  # True: remove that file once it is open
    tty: Tty | None = None
    timeout_s: Duration | None = COMMAND_TIMEOUT_S  # None: no timeout; what has none holds no lease
    idle_timeout_s: Duration | None = None
    grace_s: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] = GRACE_S
    output_limit_bytes: Annotated[int, Field(ge=2, le=64 << 30)] = OUTPUT_LIMIT
    streams: Streams = "merged"  # output_limit_bytes holds for each stream by itself

    @model_validator(mode="after")
    def _one_of_each(self) -> ExecutionSpec:
        if self.opens is not None:
            self._refuse("opens: the session's shell", _NOT_WITH_OPENS)
        elif (self.command is None) == (self.argv is None):
            raise ValueError("give either command (a string for a shell) or argv (a list), not both")
        if self.session is not None:
            self._refuse("session: a command of a session", _NOT_IN_SESSION)
        if self.tty is not None:
            self._refuse("tty: what runs on a terminal", _STDIN)
            if self.streams == "split" and self.opens is None:
                raise ValueError("tty: a terminal has one output only; leave streams merged")
        if self.argv is not None and (self.shell is not None or self.login):
            raise ValueError("shell and login go with command; argv is run without a shell")
        if sum(form is not None for form in (self.stdin, self.stdin_base64, self.stdin_path)) > 1:
            raise ValueError("give one of stdin, stdin_base64 and stdin_path")
        if self.stdin_unlink and self.stdin_path is None:
            raise ValueError("stdin_unlink goes with stdin_path")
        self.stdin_bytes()
        return self

    def _refuse(self, what: str, names: tuple[str, ...]) -> None:
        for name in self.model_fields_set.intersection(names):
            if getattr(self, name) != _DEFAULTS[name]:
                raise ValueError(f"{what} takes no {name}")

    @property
    def clock_s(self) -> float | None:
        """Seconds until its timeout; None where it has none."""
        return None if self.opens is not None else self.timeout_s

    def stdin_bytes(self) -> bytes | None:
        """The command's standard input, None for /dev/null. Raises ValueError for bad base64."""
        if self.stdin_base64 is not None:
            try:
                return base64.b64decode(self.stdin_base64, validate=True)
            except binascii.Error as error:
                raise ValueError(f"stdin_base64 is not base64: {error}") from None
        return None if self.stdin is None else self.stdin.encode("utf-8", "surrogateescape")


_DEFAULTS = {name: field.get_default(call_default_factory=True) for name, field in ExecutionSpec.model_fields.items()}

OutcomeKind = Literal["exited", "signalled", "oom", "oom_suspected", "timed_out", "cancelled", "failed_to_start", "lost", "not_run"]
LostReason = Literal["sandbox_died", "sandbox_removed", "engine_restarted", "host_restarted", "journal_set_back", "init_unreachable"]


class Outcome(Answer):
    """How an execution ended. `code` only where the command itself exited with one."""

    kind: OutcomeKind
    ran: bool | Literal["unknown"]
    code: int | None = None
    signal: int | None = None
    clock: Literal["total", "idle"] | None = None
    reason: str | None = None
    errno: int | None = None

    @property
    def returncode(self) -> int:
        """What `execute()` answers: the command's own code, 128 + n for a signal, 137 for oom, else -1 (127 and
        126 as a shell says them for a program not found and one not executable)."""
        if self.kind == "exited" and self.code is not None:
            return self.code
        if self.kind == "signalled" and self.signal is not None:
            return 128 + self.signal
        if self.kind in ("oom", "oom_suspected"):
            return 137
        if self.kind == "failed_to_start":
            return {"not_found": 127, "not_executable": 126}.get(self.reason or "", -1)
        return -1


class Output(Answer):
    """What is kept of an execution's output. `text` when it is UTF-8, `base64` when not; neither when more than
    INLINE_LIMIT is kept: then GET …/output has it. `gap` is the stretch of the whole output that was dropped."""

    text: str | None = None
    base64: str | None = None
    encoding: Literal["utf-8", "base64"] | None = None
    total_bytes: int = 0
    kept_bytes: int = 0
    sha256: str | None = None  # of the kept bytes, head and tail in a row; None while it runs
    truncated: Literal["limit", "disk_full"] | None = None
    gap: tuple[int, int] | None = None
    output_open: bool = False  # something the command started still held the output when it was taken
    purged: bool = False  # removed on request or by retention

    def inline(self) -> bytes | None:
        """The kept bytes, None when they are not in here."""
        if self.text is not None:
            return self.text.encode()
        if self.base64 is not None:
            return base64.b64decode(self.base64)
        return None if self.kept_bytes else b""


ExecutionState = Literal["accepted", "running", "ended", "abandoned"]


class Execution(Answer):
    id: str
    sandbox_id: str
    epoch: str
    run_id: str
    state: ExecutionState
    cancelling: bool = False
    outcome: Outcome | None = None
    opens: Literal["session"] | None = None  # it is a session's shell
    session: str | None = None  # it is a command of this session
    session_over: bool = False  # and that session ended with it
    tty: bool = False  # it runs on a terminal; with `opens`: the session has one
    streams: Streams = "merged"
    output: Output = Output()  # stdout alone where the streams are split
    stderr: Output | None = None  # only where they are
    accepted_at: Time | None = None
    started_at: Time | None = None
    ended_at: Time | None = None
    waited_for_server_s: float = 0.0  # how long it stood still with a full pipe while no server read it
    # Of its main process, with the children that this has waited for. Of a session's command: what its shell has used meanwhile,
    # likewise, in steps of 0.01 s; a background job counts where it ends. None: not known.
    cpu_s: float | None = None
    max_rss_bytes: int | None = None  # of its main process; of a session's command it is not known
    oom_kills: int = 0
    attempts: int = 1

    @property
    def over(self) -> bool:
        return self.state in ("ended", "abandoned")


class ExecutionList(Answer):
    executions: list[Execution]


class AbandonRequest(Request):
    """POST /v1/executions/{eid}/abandon: names the sandbox, since the id may be unknown here (FENCE)."""

    sandbox_id: Id


class SignalRequest(Request):
    """POST /v1/executions/{eid}/signal"""

    signal: Annotated[int, Field(ge=1, le=64)]


class ResizeRequest(Request):
    """POST /v1/executions/{eid}/resize: the size of its terminal, in characters"""

    rows: Annotated[int, Field(ge=1, le=0xFFFF)]
    cols: Annotated[int, Field(ge=1, le=0xFFFF)]


class InputAnswer(Answer):
    """How many bytes of input its terminal has been given since the count began: the offset of the next."""

    offset: int


class ExecuteRequest(Request):
    """POST /execute: the whole thing in one call."""

    command: Annotated[Text, Field(min_length=1)]
    cwd: Text = ""
    timeout: Duration | None = None
    id: Id | None = None
    sandbox: Id | None = None


class ExecuteAnswer(Answer):
    """What `execute()` answers, in Python and over POST /execute."""

    output: str
    returncode: int
    exception_info: str = ""
    extra: dict[str, Any] = Field(default_factory=dict)


# ------------------------------------------------------------------------------------------------- health


class Health(Answer):
    status: Literal["ok", "stopping"] = "ok"
    version: str | None = None
    protocol: int | None = None
    instance_id: str | None = None
    engine: dict[str, Any] | None = None
    capacity: dict[str, Any] | None = None
