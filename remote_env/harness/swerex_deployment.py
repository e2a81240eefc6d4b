"""A deployment of SWE-ReX whose container is a sandbox of remote-env, and its configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidatorFunctionWrapHandler, WrapValidator, field_validator
from swerex.deployment import config as peer
from swerex.deployment.abstract import AbstractDeployment
from swerex.deployment.hooks.abstract import CombinedDeploymentHook, DeploymentHook
from swerex.exceptions import DeploymentNotStartedError, DeploymentStartupError, DockerPullError
from swerex.runtime.abstract import IsAliveResponse
from swerex.utils.log import get_logger
from typing_extensions import Self

from remote_env.environment import RemoteDockerEnvironment
from remote_env.errors import ImageNotFound, InvalidSpec, RemoteEnvError
from remote_env.harness.docker_options import sandbox_options
from remote_env.harness.swerex_runtime import RemoteEnvRuntime
from remote_env.harness.swerex_threads import in_thread
from remote_env.timings import Timings


class RemoteEnvDeploymentConfig(peer.DockerDeploymentConfig):
    """The fields of SWE-ReX's DockerDeploymentConfig, with its defaults, and below them those of the remote side.

    It is one of them: whatever takes a DockerDeploymentConfig takes this, so SWE-agent's EnvironmentConfig does. Where it runs nothing
    of SWE-ReX is needed in the image, no Python, no port: `port`, `python_standalone_dir` and `container_runtime` are taken so that
    configurations need no change, and not used. `docker_args`: what a sandbox can do is translated, what it cannot do is refused (see
    `docker_options`). A sandbox is always removed, and images stay on the server: `remove_container=False` and `remove_images=True`
    are answered with a warning.
    """

    type: Literal["remote_env"] = "remote_env"  # type: ignore[assignment]
    """Discriminator for (de)serialization/CLI. Do not change."""

    url: str | None = None
    """The server; None: REMOTE_ENV_URL, else http://127.0.0.1:9527."""
    token: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """None: `token_file`, REMOTE_ENV_TOKEN, REMOTE_ENV_TOKEN_FILE, else the local server's. In no trajectory."""
    token_file: str | None = None
    ca_file: str | None = None
    fingerprint: str | None = None
    run_id: str | None = None
    """The run that the sandbox belongs to (`remote-env gc --run`); None: one run per process."""
    on_undelivered: Literal["redeliver", "raise"] = "redeliver"
    """A command whose request got lost is fenced first, so that it cannot run. Then: send it once more, or raise."""

    @field_validator("docker_args")
    @classmethod
    def _possible_in_a_sandbox(cls, value: list[str]) -> list[str]:
        try:
            sandbox_options(value)
        except InvalidSpec as error:
            raise ValueError(str(error).replace("run_args", "docker_args")) from None
        return value

    def get_deployment(self) -> RemoteEnvDeployment:
        return RemoteEnvDeployment.from_config(self)


class RemoteEnvDeployment(AbstractDeployment):
    """One sandbox, from `start()` to `stop()`; it may be started again then.

    Args:
        logger: None: SWE-ReX's own.
        kwargs: the fields of `RemoteEnvDeploymentConfig`.
    """

    def __init__(self, *, logger: logging.Logger | None = None, **kwargs: Any) -> None:
        self._config = RemoteEnvDeploymentConfig(**kwargs)
        self._environment: RemoteDockerEnvironment | None = None
        self._runtime: RemoteEnvRuntime | None = None
        self._hooks = CombinedDeploymentHook()
        self.logger = logger or get_logger("rex-deploy")

    @classmethod
    def from_config(cls, config: RemoteEnvDeploymentConfig) -> Self:
        return cls(**{name: getattr(config, name) for name in type(config).model_fields})  # model_dump would leave the token out

    def add_hook(self, hook: DeploymentHook) -> None:
        self._hooks.add_hook(hook)

    @property
    def runtime(self) -> RemoteEnvRuntime:
        """Raises DeploymentNotStartedError."""
        if self._runtime is None:
            raise DeploymentNotStartedError
        return self._runtime

    @property
    def container_name(self) -> str | None:
        """The engine's own id of the container, on the server's machine; None while there is none."""
        return None if self._environment is None else self._environment.container_id

    async def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        """Whether commands can run in the sandbox. Raises DeploymentNotStartedError."""
        return await self.runtime.is_alive(timeout=timeout)

    async def start(self) -> None:
        """Makes the sandbox; pulls the image where it is missing.

        Raises DockerPullError (no such image), DeploymentStartupError (it is started already, or there is no sandbox: the message says
        why).
        """
        if self._runtime is not None:
            raise DeploymentStartupError("This deployment is started already; stop it first.")
        config = self._config
        if config.remove_images or not config.remove_container:
            self.logger.warning("A sandbox is always removed and its image stays: remove_images and remove_container change nothing.")
        self._hooks.on_custom_step("Starting runtime")
        with _startup_errors():
            self._environment = await in_thread(self._make_environment)
        self._runtime = RemoteEnvRuntime(self._environment.sandbox)
        self.logger.info(f"Started sandbox {self._environment.sandbox.id} with container ID {self._environment.container_id}")

    async def stop(self) -> None:
        """Removes the sandbox with all that runs in it. Tried for a short while; where that fails its lease ends it. May be repeated."""
        environment, self._environment, self._runtime = self._environment, None, None
        if environment is not None:
            await in_thread(environment.close)

    def __del__(self) -> None:
        """Nothing: the sandbox is removed when its environment is, without the event loop that the peer's way would take."""

    def _make_environment(self) -> RemoteDockerEnvironment:
        config = self._config
        pull_s = 0.0 if config.pull == "never" else Timings().create_s  # the peer's startup timeout begins after the pull
        options: dict[str, Any] = {"pull": config.pull, "platform": config.platform, **sandbox_options(config.docker_args)}
        return RemoteDockerEnvironment(
            config.image,
            config.url,
            None if config.token is None else config.token.get_secret_value(),
            token_file=config.token_file,
            ca_file=config.ca_file,
            fingerprint=config.fingerprint,
            run_id=config.run_id,
            on_undelivered=config.on_undelivered,
            timings=Timings(create_s=pull_s + config.startup_timeout),
            **options,
        )


def register() -> None:
    """Makes `type: remote_env` a deployment of configurations that are read from files and command lines. May be repeated.

    SWE-ReX's own `DeploymentConfig` is a closed union of types, which SWE-agent's classes are made of when they are imported: so this
    has to be called before `sweagent` is. `python -m remote_env.harness.sweagent` does that.
    """
    union: Any = peer.DeploymentConfig
    if RemoteEnvDeploymentConfig not in getattr(getattr(union, "__origin__", union), "__args__", ()):
        peer.DeploymentConfig = Annotated[  # type: ignore[assignment]
            union | RemoteEnvDeploymentConfig, WrapValidator(_by_its_name)
        ]


def _by_its_name(value: Any, as_union: ValidatorFunctionWrapHandler) -> Any:
    """A mistake in a field of ours is told. In the union it would have made a deployment of another type of it: one of those takes
    whatever fields it gets."""
    if isinstance(value, dict) and value.get("type") == RemoteEnvDeploymentConfig.model_fields["type"].default:
        return RemoteEnvDeploymentConfig.model_validate(value)
    return as_union(value)


@contextmanager
def _startup_errors() -> Iterator[None]:
    try:
        yield
    except ImageNotFound as error:
        raise DockerPullError(str(error)) from error
    except RemoteEnvError as error:
        raise DeploymentStartupError(str(error)) from error
