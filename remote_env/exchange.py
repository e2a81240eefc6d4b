"""One exchange with the server: a request out, an answer of ours back. Only our own envelope counts.

An answer is ours when it parses as the model asked for, or as a Problem with a code that we know. A proxy's 502 page, a
bare 500, half a JSON, a redirect: a broken transport, nothing more, and so `BrokenAnswer`, a kind of MaybeSent.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from remote_env.backoff import Backoff
from remote_env.carrier import Carrier, MaybeSent, NotSent, Reply
from remote_env.correlation import About, Homes
from remote_env.errors import (
    AnswerMismatch,
    DirectoryNotEmpty,
    EpochChanged,
    FileChanged,
    FileError,
    FileTooLarge,
    IdConflict,
    ImageNotFound,
    InputUnknown,
    InvalidSpec,
    LinkLost,
    NoSpace,
    NotARegularFile,
    NotRunError,
    OutcomeUnknownError,
    OutputIncomplete,
    ProtocolMismatch,
    RemoteEnvError,
    SandboxFileNotFound,
    SandboxGone,
    SandboxIsADirectory,
    SandboxNotADirectory,
    SandboxPermissionError,
    ServerBusy,
    SessionEnded,
    Unauthorized,
    Unreachable,
)
from remote_env.protocol import INSTANCE_HEADER, PROBLEMS, PROTOCOL_VERSION, Execution, ExecutionSpec, Problem, Sandbox

PROTOCOL_HEADER = "X-Remote-Env-Protocol"
JSON_BODY = {"Content-Type": "application/json"}

log = logging.getLogger("remote_env")
Model = TypeVar("Model", bound=BaseModel)
Answer = TypeVar("Answer")

ERRORS: dict[str, type[RemoteEnvError]] = {
    "damaged": NotRunError,
    "unauthorized": Unauthorized,
    "forbidden": Unauthorized,
    "not_found": SandboxGone,
    "image_not_found": ImageNotFound,
    "method_not_allowed": ProtocolMismatch,
    "wrong_state": SandboxGone,
    "session_ended": SessionEnded,
    "session_busy": ServerBusy,
    "input_unknown": InputUnknown,
    "gone": SandboxGone,
    "epoch_mismatch": EpochChanged,
    "too_large": InvalidSpec,
    "permission_denied": SandboxPermissionError,
    "file_not_found": SandboxFileNotFound,
    "is_directory": SandboxIsADirectory,
    "not_directory": SandboxNotADirectory,
    "not_regular": NotARegularFile,
    "directory_not_empty": DirectoryNotEmpty,
    "read_only": SandboxPermissionError,
    "too_many_links": NotARegularFile,
    "changed": FileChanged,
    "file_too_large": FileTooLarge,
    "name_too_long": InvalidSpec,
    "sandbox_full": ServerBusy,
    "no_space": NoSpace,
    "range_not_satisfiable": OutputIncomplete,
    "invalid": InvalidSpec,
    "id_conflict": IdConflict,
    "epoch_required": ProtocolMismatch,
    "too_many": ServerBusy,
    "internal": OutcomeUnknownError,
    "commit_failed": OutcomeUnknownError,
    "file_agent_failed": FileError,
    "capacity": ServerBusy,
    "disk_full": ServerBusy,
    "stopping": ServerBusy,
    "engine_unavailable": ServerBusy,
}
"""What each code of ours is in Python, where the request itself is what was refused."""

TOKEN_HELP = (
    "Set REMOTE_ENV_TOKEN to the server's token, or REMOTE_ENV_TOKEN_FILE to a file that holds it (the server keeps it in the file "
    "`token` of its data directory), and call again."
)


class BrokenAnswer(MaybeSent):
    """Something answered, and it was not our envelope."""


class Mismatch(BrokenAnswer):
    """An answer of ours that speaks of something else than the request: another request's. It completes no call."""


class Refused(Exception):
    """The server's own answer: no. `problem` says why, and whether this copy of the request was taken."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.code}: {problem.detail}")
        self.problem = problem

    def error(self, *, execution_id: str | None = None, sandbox_id: str | None = None) -> RemoteEnvError:
        problem = self.problem
        if problem.no_such_route:
            return older_server(problem)
        said = f"{problem.title}: {explain_gone(problem.detail)}"
        if problem.code == "unauthorized":
            said += f". {TOKEN_HELP}"
        return ERRORS[problem.code](said, execution_id=execution_id, sandbox_id=sandbox_id)


class Exchange:
    """Typed requests over one transport. Each answer is held against what its request was about (`correlation`): by the ids
    in the request's path and its epoch header, or by `about`, where the caller knows more."""

    def __init__(self, transport: Carrier, *, on_first_answer: Callable[[str | None], None] = lambda instance_id: None) -> None:
        self.transport = transport
        self.instance_id: str | None = None  # of the server that answered last
        self._on_first_answer = on_first_answer
        self._homes = Homes()

    async def once(
        self,
        model: type[Model],
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        wait_s: float = 0.0,
        read_s: float | None = None,
        check: Callable[[Model], str | None] | None = None,
        about: About | None = None,
    ) -> Model:
        """Sends the request and reads the answer. `wait_s` is how long the server may hold the answer back; `check`
        says what else is wrong with an answer, None when it is the one asked for; `read_s`: give up after this silence.

        Sent a second time only where the server refused the token, so that the first copy was not taken, and its
        file holds another one now. Raises NotSent, MaybeSent, Refused, ProtocolMismatch, EpochChanged (another server
        answers than the one that the epoch is of).
        """
        about = about or About.of(path, headers)
        if read_s is None and wait_s:
            read_s = wait_s + self.transport.timings.poll_margin_s
        try:
            return await self._once(model, method, path, body, headers, read_s, check, about)
        except Refused as refusal:
            if refusal.problem.code != "unauthorized" or not self.transport.token.reload():
                raise
            log.info("the server refused the token; its file holds another one: using that")
            self.transport.stats.add(retries=1)
            return await self._once(model, method, path, body, headers, read_s, check, about)

    async def _once(
        self,
        model: type[Model],
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str] | None,
        read_s: float | None,
        check: Callable[[Model], str | None] | None,
        about: About,
    ) -> Model:
        reply = await self.transport.request(method, path, body, headers, read_s=read_s)
        self.require_ours(reply, about)
        try:
            answer = model.model_validate_json(reply.body)
        except ValidationError:
            raise self._not_ours(reply) from None
        wrong = about.wrong_body(answer) or (check(answer) if check is not None else None)
        if wrong is not None:
            raise self.mismatch(wrong)
        if isinstance(answer, (Execution, Sandbox)):
            self._homes.learn(answer.epoch, reply.headers.get(INSTANCE_HEADER))
        return answer

    def require_ours(self, reply: Reply, about: About, *, named: bool = False) -> None:
        """Lets pass what is a success of ours and, as far as its headers tell, about what was asked. `named`: they must
        tell, for nothing else in the answer does.

        Raises Refused for our own no, BrokenAnswer for what is not ours, Mismatch, EpochChanged, ProtocolMismatch.
        """
        self.check_version(reply)
        problem = self._problem(reply) if reply.status >= 300 else None
        wrong = about.wrong_headers(reply.headers, required=named and problem is None)
        if wrong is None and problem is not None:
            wrong = about.wrong_problem(problem)
        if wrong is not None:
            raise self.mismatch(wrong)
        self._heard(reply, about)
        if problem is not None:
            raise Refused(problem)

    def mismatch(self, wrong: str) -> Mismatch:
        """Another request's answer came: the connection is off by one, and with it all that comes later on it."""
        self.transport.stats.add(mismatched=1)
        self.transport.drop_connections()
        log.error("%s; that answer is thrown away", wrong)
        return Mismatch(wrong)

    def _heard(self, reply: Reply, about: About) -> None:
        instance_id = reply.headers.get(INSTANCE_HEADER)
        home = self._homes.stranger(about.epoch, instance_id)
        if home is not None:
            raise EpochChanged(
                f"Another server (instance {instance_id}) answers at {self.transport.endpoint.url} than the one (instance {home}) that "
                f"{about} is of. What became of it cannot be known here; do not send it again blindly.",
                execution_id=about.execution_id,
                sandbox_id=about.sandbox_id,
            )
        self.instance_id = instance_id or self.instance_id
        if not self.transport.reached:
            self.transport.reached = True
            self._on_first_answer(self.instance_id)

    def _problem(self, reply: Reply) -> Problem:
        try:
            problem = Problem.model_validate_json(reply.body)
        except ValidationError:
            raise self._not_ours(reply) from None
        if problem.code not in PROBLEMS or problem.status != reply.status:
            raise self._not_ours(reply)
        return problem

    def check_version(self, reply: Reply) -> None:
        """Raises ProtocolMismatch for a server of another version, BrokenAnswer for what is no server of ours."""
        spoken = reply.headers.get(PROTOCOL_HEADER)
        if spoken is None:
            raise self._not_ours(reply)
        if spoken != str(PROTOCOL_VERSION):
            raise ProtocolMismatch(
                f"The server at {self.transport.endpoint.url} speaks protocol {spoken!r}, this client {PROTOCOL_VERSION}. "
                "Install the same version of remote-env on both sides."
            )

    def _not_ours(self, reply: Reply) -> BrokenAnswer:
        self.transport.stats.add(not_ours=1)
        kind = reply.headers.get("Content-Type", "no content type")
        return BrokenAnswer(f"an answer that is not remote-env's: HTTP {reply.status}, {kind}, {len(reply.body)} bytes")

    async def piece(self, path: str, headers: dict[str, str], *, wait_s: float = 0.0, about: About | None = None) -> Reply:
        """A GET of raw bytes: 200, 204 or 206 of ours. Raises NotSent, MaybeSent, Refused, ProtocolMismatch, EpochChanged."""
        timings = self.transport.timings
        reply = await self.transport.request("GET", path, None, headers, read_s=wait_s + timings.poll_margin_s if wait_s else None)
        self.require_ours(reply, about or About.of(path, headers), named=True)
        if reply.status not in (200, 204, 206):
            raise self._not_ours(reply)
        return reply

    async def ask(
        self,
        model: type[Model],
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        budget_s: float,
        wait_s: float = 0.0,
        read_s: float | None = None,
        check: Callable[[Model], str | None] | None = None,
        about: About | None = None,
    ) -> Model:
        """`once` until it is answered, for requests that may be sent any number of times. Raises as `persist` does."""
        return await self.persist(
            lambda: self.once(model, method, path, body, headers, wait_s=wait_s, read_s=read_s, check=check, about=about),
            f"{method} {path.partition('?')[0]}",
            budget_s=budget_s,
        )

    async def persist(self, attempt: Callable[[], Awaitable[Answer]], what: str, *, budget_s: float) -> Answer:
        """Makes the attempt until it is answered, for at most `budget_s` seconds (`Timings.first_contact_s` where the
        server was never reached).

        Raises Refused for what the server will not do, Unreachable when no copy was sent, LinkLost when none was
        answered, AnswerMismatch when what came was another's, ServerBusy, ProtocolMismatch, EpochChanged.
        """
        started = time.monotonic()
        exposed = False
        backoff = self.backoff()
        while True:
            delay: float | None = None
            try:
                return await attempt()
            except NotSent as error:
                failure: Exception = error
            except MaybeSent as error:
                failure, exposed = error, True
            except Refused as refusal:
                problem = refusal.problem
                if not problem.retryable and problem.accepted != "unknown":
                    raise
                failure, exposed, delay = refusal, True, problem.retry_after_s
            if delay is None:
                delay = backoff.next_s()
            limit = budget_s if self.transport.reached else min(budget_s, self.transport.timings.first_contact_s)
            if time.monotonic() - started + delay > limit or not await self.transport.pause(delay):
                raise self.gave_up(failure, exposed, time.monotonic() - started) from failure
            self.transport.stats.add(retries=1)
            log.warning("%s: %s; trying again", what, failure)

    async def post_once(self, model: type[Model], path: str, body: bytes, headers: dict[str, str], about: About) -> Model:
        """A POST that is not sent twice. Raises Unreachable, OutcomeUnknownError, Refused."""
        try:
            return await self.once(model, "POST", path, body, headers, about=about)
        except NotSent as error:
            raise unreachable(self.transport.endpoint.url, error, 0.0) from error
        except MaybeSent as error:
            raise OutcomeUnknownError(f"POST {path}: no answer came ({error}); it may have been done.") from error

    def backoff(self) -> Backoff:
        return Backoff(self.transport.timings.retry_first_s, self.transport.timings.retry_most_s)

    def gave_up(self, failure: Exception, exposed: bool, seconds: float) -> RemoteEnvError:
        url = self.transport.endpoint.url
        if self.transport.closed:
            return (LinkLost if exposed else Unreachable)("The client was closed before an answer came.")
        if isinstance(failure, Refused):
            return failure.error()
        if not exposed:
            return unreachable(url, failure, seconds)
        if isinstance(failure, BrokenAnswer) and not self.transport.reached:
            return ProtocolMismatch(f"What answers at {url} is no remote-env server: {failure}. See that the URL is right.")
        if isinstance(failure, Mismatch):
            return AnswerMismatch(f"For {seconds:.0f} s the server at {url} gave the answers of other requests: {failure}.")
        return LinkLost(f"The server at {url} gave no answer for {seconds:.0f} s: {failure}.")


def unreachable(url: str, failure: object, seconds: float) -> Unreachable:
    return Unreachable(
        f"No connection to {url} within {seconds:.1f} s ({failure}); nothing was sent. "
        "See that `remote-env serve` runs there and that REMOTE_ENV_URL is right; `remote-env doctor` tells more."
    )


def older_server(problem: Problem) -> ProtocolMismatch:
    """For a request that the server has no route for."""
    return ProtocolMismatch(
        f"The server is older than this client and cannot do that ({problem.detail}); nothing was done. "
        "Install the same version of remote-env on both sides."
    )


def explain_gone(reason: str) -> str:
    """Why a sandbox is gone, in words for the one whose laptop slept."""
    if "lease_over" not in reason:
        return reason
    return f"{reason}: its lease is over; nobody renewed it for too long, as when this machine slept or was cut off"


def dump(model: BaseModel) -> bytes:
    """A request's body. What is None is the server's to choose and is left out; our own defaults are said aloud."""
    body = model.model_dump_json(exclude_none=True).encode()
    if isinstance(model, ExecutionSpec) and model.timeout_s is None:
        return body[:-1] + b',"timeout_s":null}'  # not the server's default, but none
    return body


def dump_fields(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def wait_value(seconds: float) -> str:
    """Seconds for `Prefer: wait=` and `?wait=`: whole ones wherever that does not make it nothing."""
    return str(int(seconds)) if seconds >= 1 else f"{max(seconds, 0.0):.3f}"
