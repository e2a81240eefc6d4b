"""The wire models, version 1: what client and server say to each other as JSON over HTTP.

They live here once; the server imports them from here. Requests refuse fields that do not exist (a misspelt
``timeout`` must not silently become the default); answers ignore them (an older client reads a newer server).
Durations are seconds (``…_s``), sizes bytes (``…_bytes``), times RFC 3339 with offset.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

PROTOCOL_VERSION = 1
DEFAULT_PORT = 9527
EPOCH_HEADER = "X-Remote-Env-Epoch"
# Which execution and which server an answer is of: to be held against what was asked.
EXECUTION_HEADER = "X-Remote-Env-Execution"
SANDBOX_HEADER = "X-Remote-Env-Sandbox"
INSTANCE_HEADER = "X-Remote-Env-Instance"
INLINE_LIMIT = 256 * 1024  # bytes of output inside an Execution; the rest is fetched by Range
OUTPUT_LIMIT = 64 << 20  # bytes kept of one execution's output, half head, half tail
BODY_LIMIT = 16 << 20  # bytes of one request body
COMMAND_TIMEOUT_S = 1800.0
GRACE_S = 2.0

ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{7,63}")
_IMAGE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}")
_ENV_NAME_PATTERN = re.compile(r"[^=\0]+")


def new_id() -> str:
    """A fresh id: a UUIDv7 (RFC 9562 §5.7) as 32 hex digits, so that ids sort by the time they were made."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"


def _check_id(value: str) -> str:
    if not ID_PATTERN.fullmatch(value):
        raise ValueError("an id is 8 to 64 characters of a-z, 0-9, _ and -, and begins with a letter or digit")
    return value


def _check_no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("a NUL byte cannot be part of a command, a name or a path")
    return value


def _check_env(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not _ENV_NAME_PATTERN.fullmatch(name) or "\0" in text:
            raise ValueError(f"not an environment variable: {name!r}")
    return value


def _check_image(value: str) -> str:
    if not _IMAGE_PATTERN.fullmatch(value):
        raise ValueError("not an image reference")
    return value


def _check_absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("not an absolute path")
    return value


def _in_utc(time: datetime) -> datetime:
    """Without the parser's own kind of time zone: the interpreter may have freed that type before the last such time goes, and
    then dies at its exit."""
    try:
        return time if time.tzinfo is None else time.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError("no year of ours") from None


Id = Annotated[str, AfterValidator(_check_id)]
Text = Annotated[str, AfterValidator(_check_no_nul)]
Time = Annotated[datetime, AfterValidator(_in_utc)]
AbsolutePath = Annotated[str, AfterValidator(_check_no_nul), AfterValidator(_check_absolute)]
Env = Annotated[dict[str, str], AfterValidator(_check_env)]
Duration = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
    image: Annotated[str, AfterValidator(_check_image)]
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


class ExecutionSpec(Request):
    """POST /v1/sandboxes/{sid}/executions. Exactly one of `command` and `argv`; at most one form of stdin."""

    id: Id
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
    timeout_s: Duration = COMMAND_TIMEOUT_S
    idle_timeout_s: Duration | None = None
    grace_s: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] = GRACE_S
    output_limit_bytes: Annotated[int, Field(ge=2, le=64 << 30)] = OUTPUT_LIMIT
    streams: Streams = "merged"  # output_limit_bytes holds for each stream by itself

    @model_validator(mode="after")
    def _one_of_each(self) -> ExecutionSpec:
        if (self.command is None) == (self.argv is None):
            raise ValueError("give either command (a string for a shell) or argv (a list), not both")
        if self.argv is not None and (self.shell is not None or self.login):
            raise ValueError("shell and login go with command; argv is run without a shell")
        if self.stdin is not None and self.stdin_base64 is not None:
            raise ValueError("give stdin or stdin_base64, not both")
        self.stdin_bytes()
        return self

    def stdin_bytes(self) -> bytes | None:
        """The command's standard input, None for /dev/null. Raises ValueError for bad base64."""
        if self.stdin_base64 is not None:
            try:
                return base64.b64decode(self.stdin_base64, validate=True)
            except binascii.Error as error:
                raise ValueError(f"stdin_base64 is not base64: {error}") from None
        return None if self.stdin is None else self.stdin.encode("utf-8", "surrogateescape")


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
    streams: Streams = "merged"
    output: Output = Output()  # stdout alone where the streams are split
    stderr: Output | None = None  # only where they are
    accepted_at: Time | None = None
    started_at: Time | None = None
    ended_at: Time | None = None
    waited_for_server_s: float = 0.0  # how long it stood still with a full pipe while no server read it
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
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


# --------------------------------------------------------------------------------------- health and problems


class Health(Answer):
    status: Literal["ok", "stopping"] = "ok"
    version: str | None = None
    protocol: int | None = None
    instance_id: str | None = None
    engine: dict[str, Any] | None = None
    capacity: dict[str, Any] | None = None


PROBLEMS: dict[str, tuple[int, str, bool | Literal["unknown"], bool]] = {
    # code: (status, title, accepted, retryable)
    "damaged": (400, "The request was damaged on the way", False, True),
    "unauthorized": (401, "The token is missing or wrong", False, False),
    "forbidden": (403, "Not allowed", False, False),
    "not_found": (404, "Unknown here", False, False),
    "image_not_found": (404, "The image is not there and cannot be pulled", False, False),
    "method_not_allowed": (405, "No such method here", False, False),
    "wrong_state": (409, "Not possible in this state", False, False),
    "gone": (410, "Removed, or beyond retention", False, False),
    "epoch_mismatch": (412, "Another sandbox than the one the request speaks of", False, False),
    "too_large": (413, "The request is too large", False, False),
    "range_not_satisfiable": (416, "No such range", False, False),
    "invalid": (422, "The request is not valid", False, False),
    "id_conflict": (422, "The id is taken by another request", False, False),
    "epoch_required": (428, "The epoch header is missing", False, False),
    "too_many": (429, "Too many requests", False, True),
    "internal": (500, "The server failed", "unknown", False),
    "commit_failed": (500, "The journal could not be written", "unknown", False),
    "capacity": (503, "No room for more work now", False, True),
    "disk_full": (503, "Too little free disk for new work", False, True),
    "stopping": (503, "The server is stopping", False, True),
    "engine_unavailable": (503, "The container engine does not answer", False, True),
}


class Problem(Answer):
    """Every error of ours: RFC 9457 problem+json. `accepted` says whether the request was taken."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    accepted: bool | Literal["unknown"]
    retryable: bool
    retry_after_s: float | None = None
    id: str | None = None  # the execution's or sandbox's

    @classmethod
    def of(cls, code: str, detail: str, *, retry_after_s: float | None = None, id: str | None = None) -> Problem:
        status, title, accepted, retryable = PROBLEMS[code]
        return cls(
            title=title, status=status, detail=detail, code=code, accepted=accepted, retryable=retryable,
            retry_after_s=retry_after_s, id=id,
        )  # fmt: skip
