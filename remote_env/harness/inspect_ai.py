"""remote-env as a sandbox of Inspect AI: `sandbox="remote_env"`, or `sandbox=("remote_env", "remote_env.yaml")`.

The containers are on another machine; each command runs at most once, whatever happens to the connection or to the server on the way.
Inspect finds this module by its entry point. The configuration: `inspect_config`; what a command's end becomes: `inspect_results`.
"""

from __future__ import annotations

import posixpath
import shlex
from functools import partial
from typing import Any, Literal, overload

import anyio
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.util import ExecResult, SandboxConnection, SandboxEnvironment, SandboxEnvironmentLimits, sandboxenv
from pydantic import BaseModel

from remote_env.client import Client
from remote_env.errors import RemoteEnvError
from remote_env.harness import inspect_cleanup, inspect_files
from remote_env.harness.inspect_commands import Command, run
from remote_env.harness.inspect_compose import DOCKERFILE
from remote_env.harness.inspect_compose import FILES as COMPOSE_FILES
from remote_env.harness.inspect_config import CONFIG_FILES, deserialize, metadata_variables, resolve
from remote_env.harness.inspect_results import argument_too_long, exec_result, translated
from remote_env.harness.inspect_servers import (
    OWNER_LABEL,
    SAMPLE_LABEL,
    SERVERS,
    SERVICE_LABEL,
    TASK_LABEL,
    Made,
    ServerKey,
    lifecycle_scope,
    owner,
)
from remote_env.harness.inspect_threads import Cancellation, in_thread
from remote_env.sandbox import Sandbox


@sandboxenv(name="remote_env")
class RemoteEnvSandboxEnvironment(SandboxEnvironment):
    """One sandbox of a sample. `sandbox` is the sandbox itself, for what Inspect has no words for."""

    def __init__(self, sandbox: Sandbox, url: str) -> None:
        super().__init__()
        self.sandbox = sandbox
        self._url = url

    # ------------------------------------------------------------------------------------------ commands and files

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,  # noqa: ASYNC109  # Inspect's own name for it
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Runs the command at most once and waits for its end; it is cancelled when the caller is.

        Args:
            input: standard input; None: /dev/null.
            cwd: absolute, or below the sandbox's workdir.
            user: by name or number; None: the sandbox's.
            timeout: seconds, after which the command is killed with all that it has started; None: no limit.
            timeout_retry: without meaning here. Inspect means it for an engine that hangs; here the clock is in the sandbox, and
                a command that timed out did run so long. It is not run again.
            concurrency: without meaning here: nothing runs on this machine.

        Raises what `inspect_results` lists, and ValueError for what no command can hold.
        """
        command = Command.of(cmd, input=input, cwd=self._path(cwd) if cwd else None, env=env or {}, user=user or None)
        if command.too_long:
            return argument_too_long(cmd)
        limit, words = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE, SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR
        timeout_s = float(timeout) if timeout else None
        try:
            ended = await in_thread(partial(run, self.sandbox, command, timeout_s, limit))
            return exec_result(*ended, cmd=cmd, user=user, timeout=timeout_s, limit=words)
        except RemoteEnvError as error:
            raise translated(error) from error

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Writes the file as the sandbox's user, and makes its directory where there is none.

        Raises PermissionError, IsADirectoryError; OSError for a full disk and the like.
        """
        data = contents.encode() if isinstance(contents, str) else contents
        await in_thread(partial(inspect_files.write, self.sandbox, file, self._path(file), data))

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """The contents of a file, as the sandbox's user may read it; as text they are UTF-8, line ends untouched.

        Raises FileNotFoundError, PermissionError, IsADirectoryError, UnicodeDecodeError, OutputLimitExceededError.
        """
        limit, words = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE, SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR
        data = await in_thread(partial(inspect_files.read, self.sandbox, file, self._path(file), limit, words))
        return data.decode("utf-8") if text else data

    async def connection(self, *, user: str | None = None) -> SandboxConnection:
        """The command that opens a shell in the sandbox. Raises ConnectionError where it does not run any more."""

        def refreshed(cancellation: Cancellation) -> None:
            try:
                self.sandbox.refresh()
            except RemoteEnvError as error:
                raise ConnectionError(str(error)) from error

        await in_thread(refreshed)
        if self.sandbox.gone is not None:
            raise ConnectionError(f"Sandbox {self.sandbox.id} is gone: {self.sandbox.gone}.")
        who = ["--user", user] if user else []
        words = ["remote-env", "--url", self._url, "shell", *who, self.sandbox.id]
        return SandboxConnection(type="remote_env", command=shlex.join(words), container=self.sandbox.container_id)

    def default_polling_interval(self) -> float:
        """Seconds between two looks of Inspect's services into the sandbox: a look takes some milliseconds and the server's network."""
        return 0.2

    def _path(self, path: str) -> str:
        return posixpath.join(self.sandbox.record.workdir or "/", path)

    # --------------------------------------------------------------------------------------------- tasks and samples

    @classmethod
    async def task_init(cls, task_name: str, config: BaseModel | str | None) -> None:
        """Refuses what cannot work before the first sample begins: a bad configuration, a server that is not there."""

        def look(cancellation: Cancellation) -> None:
            key = ServerKey.of(resolve(config))
            client = SERVERS.acquire(key)
            try:
                client.sandboxes(run_id=client.run_id)  # unlike /health it needs the token
            finally:
                SERVERS.release(key)

        try:
            await in_thread(look)
        except RemoteEnvError as error:
            raise PrerequisiteError(f"ERROR: sandbox 'remote_env': {error}") from error

    @classmethod
    async def task_init_environment(cls, config: BaseModel | str | None, metadata: dict[str, str]) -> dict[str, str]:
        """The samples' metadata that the configuration file speaks of, as ${SAMPLE_METADATA_<KEY>}."""
        return metadata_variables(config, metadata)

    @classmethod
    async def sample_init(cls, task_name: str, config: BaseModel | str | None, metadata: dict[str, str]) -> dict[str, SandboxEnvironment]:
        """Makes the sample's sandboxes, one beside the other; the default one comes first.

        Raises what `Client.create_sandbox` raises; then none is left.
        """
        resolved = resolve(config, metadata_variables(config, metadata))
        key = ServerKey.of(resolved)
        sample = str(metadata.get("__sample_id__", ""))
        labels = {OWNER_LABEL: owner(), TASK_LABEL: task_name, SAMPLE_LABEL: sample}
        services = resolved.sandboxes()
        made: dict[str, Made] = {}

        async def make(service: str, options: dict[str, Any]) -> None:
            options = {**options, "labels": {**labels, SERVICE_LABEL: service}}
            sandbox, client = await in_thread(partial(_create, key, options))
            made[service] = Made(sandbox, client, key, config, lifecycle_scope(), service, sample)
            SERVERS.keep(made[service])

        try:
            async with anyio.create_task_group() as group:
                for service, options in services.items():
                    group.start_soon(make, service, options)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await inspect_cleanup.remove(made.values())
            first = _first(error)
            if first is error:
                raise
            raise first from error
        return {service: cls(made[service].sandbox, made[service].client.url) for service in services}

    @classmethod
    async def sample_cleanup(
        cls, task_name: str, config: BaseModel | str | None, environments: dict[str, SandboxEnvironment], interrupted: bool
    ) -> None:
        """Removes the sample's sandboxes, with all that runs in them; what cannot be removed now is left to `task_cleanup`."""
        found = [SERVERS.made(environment.as_type(cls).sandbox.id) for environment in environments.values()]
        await inspect_cleanup.remove([made for made in found if made is not None])

    @classmethod
    async def task_cleanup(cls, task_name: str, config: BaseModel | str | None, cleanup: bool) -> None:
        """Removes what samples have left behind; or, where there is to be no cleanup, tells what is left and how to get at it."""
        left = SERVERS.left(config)
        if cleanup:
            await inspect_cleanup.remove(left)
        elif left:
            inspect_cleanup.tell(left)
        inspect_cleanup.forget(left)

    @classmethod
    async def cli_cleanup(cls, id: str | None) -> None:
        """`inspect sandbox cleanup remote_env [ID]`: removes one sandbox that Inspect has made, or all that its user has made from this
        machine. The server: REMOTE_ENV_URL."""
        try:
            await inspect_cleanup.from_command_line(id)
        except BaseException as error:
            first = _first(error)
            if not isinstance(first, RemoteEnvError):
                raise
            raise PrerequisiteError(f"ERROR: {first}") from error

    # --------------------------------------------------------------------------------------------------- the provider

    @classmethod
    def default_concurrency(cls) -> int | None:
        """No limit of this machine's: a full server lets sandboxes wait. `--max-sandboxes` sets one."""
        return None

    @classmethod
    def config_files(cls) -> list[str]:
        """What is looked for beside a task that names no configuration."""
        return [*CONFIG_FILES, *COMPOSE_FILES, DOCKERFILE]

    @classmethod
    def is_docker_compatible(cls) -> bool:
        """Compose files are taken, for what a sandbox can do."""
        return True

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        return deserialize(config)


def _create(key: ServerKey, options: dict[str, Any], cancellation: Cancellation) -> tuple[Sandbox, Client]:
    client = SERVERS.acquire(key)
    try:
        sandbox = client.create_sandbox(**options)
    except BaseException:
        SERVERS.release(key)
        raise

    def undo() -> None:
        try:
            sandbox.remove()
        finally:
            SERVERS.release(key)

    cancellation.undo_with(undo)
    return sandbox, client


def _first(error: BaseException) -> BaseException:
    """The failure in a group of them, which several sandboxes at once may bring."""
    while failures := getattr(error, "exceptions", ()):
        error = next((each for each in failures if isinstance(each, Exception)), failures[0])
    return error
