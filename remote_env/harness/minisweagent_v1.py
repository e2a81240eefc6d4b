"""remote-env as an environment of mini-swe-agent, version 1.

In its configuration:

    environment:
      environment_class: remote_env.harness.minisweagent_v1.RemoteDockerEnvironment
      image: python:3.12-slim

Version 1 differs from 2 (`remote_env.harness.minisweagent`) in what it makes of a command's end: a timeout is an exception, the agent
looks for the submission itself, and trajectories hold the configuration as a dataclass.
"""

from __future__ import annotations

import dataclasses
import logging
import subprocess
from typing import Any

from remote_env.harness import minisweagent as version_2
from remote_env.sandbox import Sandbox


class RemoteDockerEnvironment:
    """One sandbox, made at once, in which an agent's commands run. Threads may share it.

    Arguments and errors as `remote_env.harness.minisweagent.RemoteDockerEnvironment`.
    """

    def __init__(
        self,
        *,
        config_class: type[version_2.RemoteDockerEnvironmentConfig] = version_2.RemoteDockerEnvironmentConfig,
        logger: logging.Logger | None = None,
        **kwargs: Any,
    ) -> None:
        self._env = version_2.RemoteDockerEnvironment(config_class=config_class, logger=logger, **kwargs)
        self.config = _as_dataclass(self._env.config)

    @property
    def container_id(self) -> str | None:
        """The engine's own id of the container."""
        return self._env.container_id

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox itself, for what a harness's own interface has no words for."""
        return self._env.sandbox

    def execute(self, command: str, cwd: str = "", *, timeout: float | None = None) -> dict[str, Any]:
        """Runs a command at most once and waits for its end.

        Args:
            command: for the interpreter, a login bash.
            cwd: directory to run in; "": the configuration's.
            timeout: seconds it may take; None: the configuration's.

        Returns:
            {"output": str, "returncode": int, "exception_info": str, "extra": dict}. Where the command has no exit code and ran into no
            timeout (a lost sandbox, a server that stays away) the returncode is -1 and the output ends with what happened: the
            agent reads nothing else.

        Raises:
            subprocess.TimeoutExpired: with the output until then, as bytes. The command is dead with everything that it started.
            SandboxGone: the sandbox is gone, and an earlier call has said so, or it was cleaned up.
        """
        answer = self._env.run(command, cwd, timeout)
        if answer["extra"].get("exception_type") == subprocess.TimeoutExpired.__name__:
            argv = [*self._env.config.interpreter, command]
            raise subprocess.TimeoutExpired(argv, timeout or self._env.config.timeout, output=answer["output"].encode())
        if answer["exception_info"]:
            answer["output"] += answer["exception_info"] + "\n"
        return answer

    def get_template_vars(self) -> dict[str, Any]:
        """The configuration."""
        return dataclasses.asdict(self.config)

    def cleanup(self) -> None:
        """Removes the sandbox with all that runs in it. May be repeated."""
        self._env.cleanup()


def _as_dataclass(config: version_2.RemoteDockerEnvironmentConfig) -> Any:
    """The configuration without its token, as trajectories of version 1 take it."""
    fields = config.model_dump(mode="json")
    return dataclasses.make_dataclass(type(config).__name__, fields, frozen=True)(**fields)
