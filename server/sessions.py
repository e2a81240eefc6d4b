"""Sessions as requests see them: whether one takes a command now, and whether its sandbox has any."""

from __future__ import annotations

from collections.abc import Mapping

from remote_env.protocol import ExecutionSpec, Outcome
from server import messages
from server.initage import made_before
from server.journal import Journal
from server.live import LiveExecution, LiveSandbox
from server.machines.execution import State
from server.outcomes import outcome_of
from server.problems import ProblemError

_BUSY_RETRY_S = 0.05  # commands of a session are short, mostly


def check_link(sandbox: LiveSandbox, spec: ExecutionSpec) -> None:
    """That the sandbox's init, which may be of a server before this one, knows what is asked for. Raises ProblemError invalid."""
    if sandbox.link_version >= messages.SESSIONS_SINCE:
        return
    wanted = None
    if spec.opens is not None or spec.session is not None:
        wanted = "session"
    elif spec.tty is not None:
        wanted = "tty"
    elif spec.stdin_path is not None:
        wanted = "stdin_path"
    elif spec.streams == "split" and sandbox.link_version < messages.SPLIT_SINCE:
        wanted = "streams"
    if wanted is not None:
        raise made_before(wanted, spec.id)


def session_for(
    sandbox: LiveSandbox, spec: ExecutionSpec, live: Mapping[str, LiveExecution], journal: Journal
) -> LiveExecution:  # fmt: skip
    """The session that a command is sent to, which takes it now. Nothing is journaled for one that does not.

    Args:
        live: all executions that have not ended, by id.
    Raises:
        ProblemError: session_ended, session_busy, invalid.
    """
    assert spec.session is not None
    session = live.get(spec.session)
    if session is None or session.sandbox is not sandbox or not session.opens_session:
        raise ProblemError("session_ended", _why_none(sandbox, spec.session, journal), id=spec.id)
    state = session.machine.state
    if state in (State.HELD, State.DRAINING, State.ENDED):
        detail = f"session {session.id} is over" if session.ending is None else _over(session.id, outcome_of(session.ending))
        raise ProblemError("session_ended", detail, id=spec.id)
    if session.machine.cancelling:
        raise ProblemError("session_ended", f"session {session.id} is being closed", id=spec.id)
    if state is not State.RUNNING:
        raise ProblemError("session_busy", f"session {session.id} has not started, or is not heard of again yet", _BUSY_RETRY_S, spec.id)
    if session.command is not None:
        raise ProblemError("session_busy", f"session {session.id} runs {session.command.id}", _BUSY_RETRY_S, spec.id)
    if spec.tty is not None and "tty" not in (session.spec or {}):
        raise ProblemError("invalid", f"tty: session {session.id} was opened without a terminal", id=spec.id)
    if spec.streams == "split" and len(session.outputs) == 1:
        raise ProblemError("invalid", f"streams: session {session.id} was opened with one output", id=spec.id)
    return session


def _why_none(sandbox: LiveSandbox, session_id: str, journal: Journal) -> str:
    row = journal.execution(session_id)
    if row is None or row.sandbox_id != sandbox.id or "opens" not in (row.spec or {}):
        return f"session {session_id} is unknown in this sandbox"
    if row.final is None:
        return f"session {session_id} is over"
    return _over(session_id, Outcome(**row.final["outcome"]))


def _over(session_id: str, outcome: Outcome) -> str:
    how = {"exited": f"exited with code {outcome.code}", "signalled": f"died of signal {outcome.signal}"}.get(outcome.kind, outcome.kind)
    return f"session {session_id} is over: {how.replace('_', ' ')}"
