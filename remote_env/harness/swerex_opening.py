"""Opens a session as SWE-ReX does: an interactive bash, with what such a shell reads at its start, and the startup files."""

from __future__ import annotations

import logging

from swerex.exceptions import CommandTimeoutError
from swerex.runtime.abstract import BashAction, CreateBashSessionRequest

from remote_env.errors import RemoteEnvError
from remote_env.harness.swerex_failures import SandboxFailure
from remote_env.harness.swerex_session import BashSession
from remote_env.protocol import Tty
from remote_env.sandbox import Sandbox

# Nobody types or looks: programs shall not draw, nor colour what they say.
TERMINAL = Tty(rows=24, cols=80, term="dumb", echo=False)

# What an interactive bash reads by itself (Debian's has the first one built in). Nothing of it decides whether there is a session.
_STARTUP = 'if [ -n "${BASH_VERSION-}" ]; then [ ! -r /etc/bash.bashrc ] || . /etc/bash.bashrc; [ ! -r ~/.bashrc ] || . ~/.bashrc; fi'
_STARTUP_S = 60.0
_GRACE_S = 0.2  # that what heeds no hangup gets, when the session is closed


def open_session(sandbox: Sandbox, request: CreateBashSessionRequest, logger: logging.Logger) -> tuple[BashSession, str]:
    """The session, and what was said while the startup files were read. A startup file that is not there is told of in that output and
    nowhere else, as SWE-ReX has it: SWE-agent names /root/.bashrc for every image.

    Raises CommandTimeoutError where the startup files take longer than `startup_timeout`, SandboxFailure where they end the shell, and
    what `Sandbox.session` raises. There is no session then.
    """
    session = BashSession(sandbox, sandbox.session(tty=TERMINAL, grace_s=_GRACE_S), logger)
    try:
        output = _read(session, [_STARTUP], _STARTUP_S)
        if request.startup_source:
            output += _read(session, [f"source {path}" for path in request.startup_source], request.startup_timeout)
        if not session.alive:
            raise SandboxFailure(f"The startup files ended the session's shell. It said: {output.strip()!r}")
    except BaseException:
        _give_up(session, logger)
        raise
    return session, output


def _read(session: BashSession, commands: list[str], timeout_s: float) -> str:
    try:
        return session.run(BashAction(command=" ; ".join(commands), check="ignore", timeout=timeout_s)).output
    except CommandTimeoutError as error:
        raise CommandTimeoutError(f"The startup files took longer than {timeout_s} seconds: {' ; '.join(commands)}") from error


def _give_up(session: BashSession, logger: logging.Logger) -> None:
    try:
        session.close()
    except RemoteEnvError as error:
        logger.warning(f"A session that could not be set up could not be closed: {error}")
