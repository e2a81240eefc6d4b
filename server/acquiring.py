"""How somebody's sandbox gets a warm container, in this order, so that it is nobody's or one sandbox's whenever this process dies:

1. The link directory is renamed to the sandbox's id (its mount follows the inode). One that still has the warm one's name has
   never been anybody's, whatever becomes of the journal.
2. One transaction gives the container to the sandbox, which is being made, and lets go of the warm row. Should this process
   die from here on, the next one removes the container, as that of any sandbox that was being made.
3. What the container was made without is applied: the workdir is made where it is missing, the environment goes with every
   command, labels stay in the journal (a container's cannot be changed).
4. The incarnation is committed with the sandbox (INCARN), which runs then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from remote_env.protocol import SandboxSpec
from server.engine import Engine, EngineError
from server.failpoints import failpoint
from server.fileagent import AgentLost, FileAgent
from server.fileagents import through_link
from server.files import SandboxFiles
from server.hellos import LifeCycle
from server.journal import Journal
from server.live import LiveSandbox
from server.machines import sandbox as rules
from server.machines.sandbox import Happening, State
from server.making import CreationFailed, Maker
from server.messages import LINK_VERSION
from server.problems import ProblemError
from server.sandboxenv import SandboxEnv
from server.warm import WarmSandbox
from server.warmrows import WarmRows

log = logging.getLogger("server.acquiring")

_WORKDIR_S = 10.0  # seconds for the workdir to be made


class Acquiring:
    """Gives warm containers to sandboxes."""

    def __init__(self, journal: Journal, rows: WarmRows, maker: Maker, env: SandboxEnv) -> None:
        self._journal = journal
        self._rows = rows
        self._maker = maker
        self._env = env

    async def give(self, warm: WarmSandbox, sandbox: LiveSandbox, spec: SandboxSpec, life_cycle: LifeCycle) -> None:
        """Make it the container of this sandbox, which is being made. Raises OSError, CommitFailed, CreationFailed; what there is of
        it then is the sandbox's, and goes with it."""
        failpoint("before_acquire")
        container = warm.container
        self._hand_over(warm, sandbox, spec)
        warm.owner.hand_over(sandbox, life_cycle)
        os.rename(self._maker.link_directory(warm.sandbox.id), self._maker.link_directory(sandbox.id))
        self._env.keep(sandbox.id, spec.env)
        self._rows.acquire(warm.sandbox.id, sandbox.id, container.id, sandbox.spec)
        if spec.workdir is not None and spec.workdir != warm.image.workdir:
            await _make_workdir(sandbox, spec.workdir)
            if sandbox.state is not State.CREATING:
                raise CreationFailed("removed: it was removed while it was being made")
        self._journal.sandbox_running(sandbox.id, container.pid, container.epoch, container.secret)
        sandbox.state = rules.after(sandbox.state, Happening.FIRST_HELLO)

    def _hand_over(self, warm: WarmSandbox, sandbox: LiveSandbox, spec: SandboxSpec) -> None:
        old = warm.sandbox
        sandbox.container_id, sandbox.container_pid = old.container_id, old.container_pid
        sandbox.epoch, sandbox.secret = old.epoch, old.secret
        sandbox.listener, sandbox.link = old.listener, old.link
        if sandbox.link is not None:
            sandbox.linked.set()
        sandbox.env = dict(spec.env)
        user = warm.image.user if spec.user is None else spec.user
        sandbox.spec |= {"workdir": spec.workdir or warm.image.workdir, "user": user, "link_version": LINK_VERSION}


async def _make_workdir(sandbox: LiveSandbox, workdir: str) -> None:
    """As the engine would have: root's, with those above it."""
    try:
        connected = await asyncio.wait_for(through_link(sandbox, ""), _WORKDIR_S)
        agent = FileAgent(socket.socket(fileno=connected))
        try:
            files = SandboxFiles(agent)
            await asyncio.wait_for(files.make_directory(os.fsencode(workdir), parents=True, mode=None), _WORKDIR_S)
        finally:
            agent.close()
    except asyncio.TimeoutError:
        raise CreationFailed(f"internal: its workdir {workdir} was not made within {_WORKDIR_S:.0f} s") from None
    except (ConnectionError, AgentLost) as error:
        raise CreationFailed(f"internal: its workdir {workdir} was not made: {error}") from error
    except (OSError, ProblemError) as error:
        raise CreationFailed(f"invalid: its workdir {workdir} cannot be made: {error}") from error


async def rename(engine: Engine, container_id: str, sandbox_id: str) -> None:
    """Name the container after its sandbox, for people who look. Nothing relies on it."""
    try:
        await engine.rename(container_id, sandbox_id)
    except EngineError as error:
        log.debug("container not renamed: %s", error.detail, extra={"sandbox_id": sandbox_id})
