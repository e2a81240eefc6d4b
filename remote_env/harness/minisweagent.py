"""remote-env as an environment of mini-swe-agent (version 2).

In its configuration:

    environment:
      environment_class: remote_env.harness.minisweagent.RemoteDockerEnvironment
      image: python:3.12-slim

It takes what mini-swe-agent's own DockerEnvironment takes and answers as that one does, with the container on another machine, and with
each command run at most once whatever happens to the connection or to the server on the way. For version 1: `minisweagent_v1`.

Its batch runners give their instances' images to the environment class `docker` alone. This runs them with every `docker` environment in
a sandbox instead, their configurations unchanged:

    python -m remote_env.harness.minisweagent swebench --subset verified --workers 32 --output results
"""

from __future__ import annotations

import importlib
import logging
import os
import platform
import posixpath
import subprocess
import threading
import weakref
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from remote_env import environment, protocol
from remote_env.answer import execute_answer, sentence
from remote_env.errors import CommandLost, EpochChanged, MisuseError, NotRunError, OutputIncomplete, RemoteEnvError, SandboxGone
from remote_env.execution import Execution
from remote_env.harness.docker_options import sandbox_options, sleep_seconds
from remote_env.sandbox import Sandbox
from remote_env.timings import Timings

SUBMISSION_MARKER = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
LEASE_S = 300.0  # how long a sandbox outlives an agent that died; renewed while the agent lives

_SHELLS = ("bash", "sh", "/bin/bash", "/bin/sh", "/usr/bin/bash")
_SHELL_FLAGS = ("-c", "-lc", "-cl")
_UNAME = "uname -s && uname -n && uname -r && uname -v && uname -m"


class RemoteDockerEnvironmentConfig(BaseModel):
    """The fields of mini-swe-agent's DockerEnvironmentConfig, with its defaults, and below them those of the remote side."""

    model_config = ConfigDict(extra="forbid")  # a misspelt field must not silently become its default

    image: str
    cwd: str = "/"
    """Working directory in which to execute commands."""
    env: dict[str, str] = {}
    """Environment variables of every command."""
    forward_env: list[str] = []
    """Variables of this process that every command gets too, where they are set. `env` goes before them."""
    timeout: int = 30
    """Seconds that a command may take."""
    executable: str = Field(default_factory=lambda: os.getenv("MSWEA_DOCKER_EXECUTABLE", "docker"))
    """Taken so that configurations need no change, and not used: the server speaks to its engine itself."""
    run_args: list[str] = ["--rm"]
    """Options of `docker run`: what a sandbox can do is translated, what it cannot do is refused (see `docker_options`)."""
    container_timeout: str = "2h"
    """After this time the sandbox is removed, whatever it does then. As the sleep command has it: 90, 45m, 2h, infinity."""
    pull_timeout: int = 120
    """Seconds in which the sandbox must run, the pull of its image and a wait for room at the server included."""
    interpreter: list[str] = ["bash", "-lc"]
    """What runs a command: this argument list, with the command as one more argument."""

    url: str | None = None
    """The server; None: REMOTE_ENV_URL, else http://127.0.0.1:9527."""
    token: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """None: `token_file`, REMOTE_ENV_TOKEN, REMOTE_ENV_TOKEN_FILE, else the local server's. In no trajectory and no template."""
    token_file: str | None = None
    ca_file: str | None = None
    fingerprint: str | None = None
    run_id: str | None = None
    """The run that the sandbox belongs to (`remote-env gc --run`); None: one run per process."""
    on_undelivered: Literal["redeliver", "raise"] = "redeliver"
    """A command whose request got lost is fenced first, so that it cannot run. Then: send it once more, or tell the agent."""


class RemoteDockerEnvironment:
    """One sandbox, made at once, in which an agent's commands run. Threads may share it.

    Args:
        config_class: makes the configuration of the other arguments, which are its fields.
        logger: None: mini-swe-agent's own.

    Raises pydantic's ValidationError for a field that does not exist or does not fit, and what `Client.create_sandbox` raises:
    InvalidSpec (run_args, too), ImageNotFound, SandboxNotCreated, ServerBusy, Unauthorized, Unreachable, ProtocolMismatch.
    """

    def __init__(
        self,
        *,
        config_class: type[RemoteDockerEnvironmentConfig] = RemoteDockerEnvironmentConfig,
        logger: logging.Logger | None = None,
        **kwargs: Any,
    ) -> None:
        self.logger = logger or logging.getLogger("minisweagent.environment")
        self.container_id: str | None = None
        self.config = config_class(**kwargs)
        self._gone_reported = False
        self._expired = False
        self._uname: dict[str, str] | None = None
        life_s = sleep_seconds(self.config.container_timeout)
        self._remote = self._make_sandbox(life_s)
        self.container_id = self._remote.container_id
        self.logger.info(f"Started sandbox {self._remote.sandbox.id} with container ID {self.container_id}")
        self._life: threading.Timer | None = None
        if life_s is not None and life_s < threading.TIMEOUT_MAX:
            self._life = threading.Timer(life_s, _expire, [weakref.ref(self)])
            self._life.daemon = True
            self._life.start()

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox itself, for what a harness's own interface has no words for: stdin, a user, an argument list."""
        return self._remote.sandbox

    def execute(self, action: Mapping[str, Any] | str, cwd: str = "", *, timeout: float | None = None) -> dict[str, Any]:
        """Runs a command at most once and waits for its end.

        Args:
            action: the command, alone or under "command".
            cwd: directory to run in; "": the configuration's.
            timeout: seconds it may take; None: the configuration's.

        Returns:
            {"output": str, "returncode": int, "exception_info": str, "extra": dict}. Where the command has no exit code (a timeout,
            a lost sandbox, a server that stays away) the returncode is -1, `exception_info` says what happened, `extra` has
            "exception_type" and "exception", and the output is what there was until then.

        Raises:
            Submitted: mini-swe-agent's; the command succeeded and its output begins with the submission marker.
            SandboxGone: the sandbox is gone, and an earlier call has said so, or it was cleaned up.
        """
        answer = self.run(action if isinstance(action, str) else action.get("command", ""), cwd, timeout)
        self._check_finished(answer)
        return answer

    def run(self, command: str, cwd: str = "", timeout: float | None = None) -> dict[str, Any]:
        """`execute`, and an output that submits is an output like any other."""
        argv = [*self.config.interpreter, command]
        limit = timeout or self.config.timeout
        try:
            execution = self._run(argv, cwd, limit)
            answer = execute_answer(execution.record, execution.output()).model_dump()
        except RemoteEnvError as error:
            if isinstance(error, SandboxGone) and self._gone_reported:
                raise
            problem = SandboxGone(self._life_is_over(), sandbox_id=error.sandbox_id) if self._expired else error
            answer = _failure("", _fate(error), problem)
            self._gone_reported = self._gone_reported or isinstance(problem, (SandboxGone, EpochChanged))
        else:
            if answer["returncode"] == -1:
                answer = _failure(answer["output"], answer["extra"], _as_exception(execution.record, argv, limit))
                self._gone_reported = self._gone_reported or answer["extra"]["outcome"] == "lost"
            elif answer["extra"]["outcome"] == "failed_to_start":
                answer["output"] = sentence(execution.record)  # a missing interpreter needs words, as an engine has them
        return answer

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        """The configuration, and what `uname` says in the sandbox (system, node, release, version, machine)."""
        from minisweagent.utils.serialize import recursive_merge

        merged: dict[str, Any] = recursive_merge(self.config.model_dump(), self._platform(), kwargs)
        return merged

    def serialize(self) -> dict[str, Any]:
        """What a trajectory records of this environment: its configuration and its class. No token."""
        return {
            "info": {
                "config": {
                    "environment": self.config.model_dump(mode="json"),
                    "environment_type": f"{self.__class__.__module__}.{self.__class__.__name__}",
                }
            }
        }

    def cleanup(self) -> None:
        """Removes the sandbox with all that runs in it. Tried for a short while; where that fails its lease ends it. May be
        repeated."""
        life: threading.Timer | None = getattr(self, "_life", None)
        if life is not None:
            life.cancel()
        remote: environment.RemoteDockerEnvironment | None = getattr(self, "_remote", None)
        if remote is not None:  # None where the sandbox could not be made
            self._gone_reported = self._gone_reported or not self._expired
            remote.close()

    def __del__(self) -> None:
        self.cleanup()

    # ----------------------------------------------------------------------------------------------------- helpers

    def _make_sandbox(self, life_s: float | None) -> environment.RemoteDockerEnvironment:
        config = self.config
        options = {"workdir": config.cwd, **sandbox_options(config.run_args)}
        lease_s = LEASE_S if life_s is None else min(LEASE_S, life_s)
        return environment.RemoteDockerEnvironment(
            config.image,
            config.url,
            None if config.token is None else config.token.get_secret_value(),
            token_file=config.token_file,
            ca_file=config.ca_file,
            fingerprint=config.fingerprint,
            run_id=config.run_id,
            on_undelivered=config.on_undelivered,
            timings=Timings(create_s=float(config.pull_timeout)),
            lease_s=lease_s,
            **options,
        )

    def _run(self, argv: list[str], cwd: str, limit: float) -> Execution:
        config = self.config
        forwarded = {name: os.environ[name] for name in config.forward_env if name in os.environ}
        is_shell = len(argv) == 3 and argv[0] in _SHELLS and argv[1] in _SHELL_FLAGS
        return self._remote.sandbox.run(
            argv,
            workdir=posixpath.join(config.cwd, cwd),
            env=forwarded | config.env,
            timeout_s=limit,
            idempotent=self._remote.client.reads.is_read(argv[2]) if is_shell else None,
        )

    def _platform(self) -> dict[str, str]:
        """platform.uname() as it would be in the sandbox: an agent's prompt must not speak of the agent's own machine."""
        if self._uname is None:
            own = platform.uname()._asdict()
            names = [name for name in own if name != "processor"]
            try:
                lines = self._remote.sandbox.run(["sh", "-c", _UNAME], idempotent=True, timeout_s=30.0).output().decode().split("\n")
            except RemoteEnvError as error:
                self.logger.warning(f"The sandbox's uname is not known, this machine's is taken: {error}")
                return own
            # An image without a shell or uname has the server's kernel all the same, so only the names below are sure.
            known = dict(zip(names, lines, strict=False)) if len(lines) > len(names) else {"system": "Linux"}
            self._uname = dict.fromkeys(own, "") | known
        return self._uname

    def _life_is_over(self) -> str:
        return (
            f"The sandbox was removed after {self.config.container_timeout} (container_timeout); make a new environment, with a longer one "
            "where that is too short."
        )

    def _check_finished(self, output: dict[str, Any]) -> None:
        """Raises Submitted if the output indicates task completion."""
        lines = output["output"].lstrip().splitlines(keepends=True)
        if lines and lines[0].strip() == SUBMISSION_MARKER and output["returncode"] == 0:
            from minisweagent.exceptions import Submitted

            submission = "".join(lines[1:])
            raise Submitted({"role": "exit", "content": submission, "extra": {"exit_status": "Submitted", "submission": submission}})


def _failure(output: str, extra: dict[str, Any], problem: Exception) -> dict[str, Any]:
    """The answer for a command that has no exit code."""
    return {
        "output": output,
        "returncode": -1,
        "exception_info": f"An error occurred while executing the command: {problem}",
        "extra": extra | {"exception_type": type(problem).__name__, "exception": str(problem)},
    }


def _as_exception(record: protocol.Execution, argv: list[str], limit: float) -> Exception:
    """How an execution without an exit code ended, as an exception: for a timeout the one that mini-swe-agent's own would meet."""
    kind = None if record.outcome is None else record.outcome.kind
    if kind == "timed_out":
        return subprocess.TimeoutExpired(argv, int(limit) if limit == int(limit) else limit)
    return (CommandLost if kind == "lost" else RemoteEnvError)(sentence(record), execution_id=record.id, sandbox_id=record.sandbox_id)


def _fate(error: RemoteEnvError) -> dict[str, Any]:
    """What `extra` says of a command whose end, or whose output, nobody can show."""
    ran: bool | str = "unknown"
    if isinstance(error, (NotRunError, SandboxGone, MisuseError)):
        ran = False
    elif isinstance(error, OutputIncomplete):
        ran = True
    outcome = "not_run" if ran is False else "unknown"
    return {"execution_id": error.execution_id, "sandbox_id": error.sandbox_id, "outcome": outcome, "ran": ran}


def _expire(reference: weakref.ref[RemoteDockerEnvironment]) -> None:
    """The end of a sandbox's life, in the timer's thread. The timer holds no environment alive."""
    env = reference()
    if env is not None:
        env._expired = True
        env.logger.warning(env._life_is_over())
        env.cleanup()


def take_docker() -> None:
    """From now on `environment_class: docker` of mini-swe-agent, whichever version is installed, is an environment of ours."""
    from minisweagent import __version__, environments

    module = "remote_env.harness.minisweagent" + ("_v1" if __version__.startswith("1.") else "")
    environments._ENVIRONMENT_MAPPING["docker"] = f"{module}.RemoteDockerEnvironment"


def main() -> None:
    """mini-swe-agent's `mini-extra`, with its docker environments in sandboxes. Takes its arguments."""
    try:
        from minisweagent import __version__
    except ImportError:
        raise SystemExit("mini-swe-agent is not installed: pip install 'remote-env[minisweagent]'") from None
    take_docker()
    at = "minisweagent.run" if __version__.startswith("1.") else "minisweagent.run.utilities"
    importlib.import_module(f"{at}.mini_extra").main()


if __name__ == "__main__":
    main()
