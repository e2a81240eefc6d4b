"""What a `remote_env` sandbox of Inspect is made like: its configuration file, and the compose files that say the same.

    image: python:3.12-slim
    memory: 2g
    services:            # only where a sample has several sandboxes
      default: {}
      victim: {image: "nginx:1.27", network: none}

What stands at the top holds for every service that does not say otherwise. A compose file is read for what a sandbox can do;
what it cannot is refused by name (see `inspect_compose`). `${NAME}` in a value is the environment's, or of a sample's metadata
where the name is SAMPLE_METADATA_<KEY>.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from remote_env.errors import InvalidSpec
from remote_env.harness.inspect_compose import from_compose, is_compose, is_dockerfile
from remote_env.protocol import SandboxSpec, new_id
from remote_env.quantities import parse_duration, parse_size
from remote_env.sandbox_base import invalid_spec

DEFAULT_IMAGE = "aisiuk/inspect-tool-support"  # what Inspect's own docker sandbox takes where nothing is configured
DEFAULT_SERVICE = "default"
METADATA_PREFIX = "SAMPLE_METADATA_"
CONFIG_FILES = ("remote_env.yaml", "remote_env.yml", "remote_env.json")

_BYTES = re.compile(r"(?<=[kmgt])b\s*$", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<operator>:?-)(?P<fallback>[^}]*))?\})")


def _size(value: Any) -> Any:
    """Compose writes 2gb, too."""
    return parse_size(_BYTES.sub("", value)) if isinstance(value, str) else value


def _duration(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


def _user(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _texts(value: Any) -> Any:
    """YAML reads `DEBUG: 1` as a number; a variable is a text."""
    if not isinstance(value, Mapping):
        return value
    return {name: text if isinstance(text, str) else json.dumps(text) for name, text in value.items()}


Size = Annotated[int, BeforeValidator(_size)]
"""Bytes; in a file also as text: 512m, 2g."""
Seconds = Annotated[float, BeforeValidator(_duration), Field(gt=0, allow_inf_nan=False)]
"""Seconds; in a file also as text: 30m, 24h."""


class ServiceConfig(BaseModel):
    """One sandbox. A field that is None: what the top of the configuration says, else the server's or the image's default."""

    model_config = ConfigDict(extra="forbid", frozen=True)  # a misspelt field must not silently become its default

    image: str | None = None
    workdir: str | None = None
    """What relative paths are relative to, and where commands run. None: the image's own."""
    user: Annotated[str | None, BeforeValidator(_user)] = None
    """Whom commands run as and files belong to, by name or number. None: the image's own."""
    env: Annotated[dict[str, str], BeforeValidator(_texts)] = {}
    memory: Size | None = None
    cpus: float | None = None
    pids: int | None = None
    shm: Size | None = None
    network: Literal["bridge", "none"] | None = None
    pull: Literal["missing", "always", "never"] | None = None
    platform: str | None = None
    read_only: bool | None = None
    """The root filesystem."""
    no_new_privileges: bool | None = None
    """False lets sudo and other setuid programs work. None: they do not."""


class SandboxConfig(ServiceConfig):
    """The whole configuration of a sample's sandboxes, and where their server is."""

    services: dict[str, ServiceConfig] = {}
    """Several sandboxes: name → what is different there. The default one is `default`, else the first. None: one, `default`."""

    url: str | None = None
    """The server; None: REMOTE_ENV_URL, else http://127.0.0.1:9527. The token is never in here, for Inspect logs what is."""
    token_file: str | None = None
    ca_file: str | None = None
    fingerprint: str | None = None
    lease: Seconds = 1800.0
    """Seconds that sandboxes outlive an evaluation that died, or one that was told not to clean up."""
    create_timeout: Seconds = 6 * 3600.0
    """Seconds in which a sandbox must run, the pull of its image and the wait for room at the server included."""

    @model_validator(mode="before")
    @classmethod
    def _empty_services(cls, data: Any) -> Any:
        """YAML reads `default:` with nothing behind it as null."""
        if isinstance(data, Mapping) and isinstance(data.get("services"), Mapping):
            return {**data, "services": {name: {} if each is None else each for name, each in data["services"].items()}}
        return data

    def __hash__(self) -> int:  # Inspect keeps configurations in sets
        return hash(self.model_dump_json())

    def sandboxes(self) -> dict[str, dict[str, Any]]:
        """Service → the options of `Client.create_sandbox`, image included; the default service is the first.

        Raises InvalidSpec, which names the field.
        """
        services = self.services or {DEFAULT_SERVICE: ServiceConfig()}
        first = DEFAULT_SERVICE if DEFAULT_SERVICE in services else next(iter(services))
        return {name: self._options(name, services[name]) for name in [first, *(each for each in services if each != first)]}

    def _options(self, name: str, service: ServiceConfig) -> dict[str, Any]:
        def pick(field: str) -> Any:
            own = getattr(service, field)
            return getattr(self, field) if own is None else own

        options = {
            "image": pick("image") or DEFAULT_IMAGE,
            "workdir": pick("workdir"),
            "user": pick("user"),
            "env": {**self.env, **service.env},
            "memory_bytes": pick("memory"),
            "cpus": pick("cpus"),
            "pids": pick("pids"),
            "shm_bytes": pick("shm"),
            "network": pick("network"),
            "pull": pick("pull"),
            "platform": pick("platform"),
            "read_only": pick("read_only"),
            "no_new_privileges": pick("no_new_privileges"),
            "lease_s": self.lease,
        }
        options = {field: value for field, value in options.items() if value is not None}
        try:
            SandboxSpec(id=new_id(), run_id=new_id(), **options)
        except ValidationError as error:
            raise InvalidSpec(f"The sandbox {name!r} cannot be made so: {invalid_spec(error)}") from None
        return options


def resolve(config: BaseModel | str | None, variables: Mapping[str, str] | None = None) -> SandboxConfig:
    """The configuration that Inspect has for a task or a sample.

    Args:
        config: None, the path of a file, or a model: a SandboxConfig, or Inspect's own of a compose file.
        variables: further ones for `${NAME}` in a file, as `metadata_variables` makes them; before the environment's.

    Raises:
        InvalidSpec: there is no such file, or it does not hold a configuration; the message names file and field.
    """
    if config is None:
        return SandboxConfig(network="none")  # as Inspect's own docker sandbox without a configuration: no way out
    if isinstance(config, SandboxConfig):
        return config
    if isinstance(config, BaseModel):
        return _validated("The compose configuration", from_compose(config.model_dump(exclude_none=True, by_alias=True)))
    if is_dockerfile(config):
        raise InvalidSpec(
            f"{config}: the server builds no images. Build it where the server's engine finds it, and name it: `image: NAME` in a "
            f"{CONFIG_FILES[0]} beside the task, with sandbox=('remote_env', '{CONFIG_FILES[0]}')."
        )
    document = _interpolate(config, _parse(config), {**os.environ, **(variables or {})})
    return _validated(config, from_compose(document) if is_compose(config) else document)


def deserialize(config: Mapping[str, Any]) -> SandboxConfig:
    """The configuration that a log holds. Raises InvalidSpec."""
    return _validated("The sandbox's configuration", dict(config))


def metadata_variables(config: BaseModel | str | None, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Those of a sample's metadata that the configuration file speaks of: SAMPLE_METADATA_<KEY> → value."""
    if not isinstance(config, str) or not Path(config).is_file():
        return {}
    text = Path(config).read_text(encoding="utf-8")
    named = {f"{METADATA_PREFIX}{str(key).replace(' ', '_').upper()}": str(value) for key, value in metadata.items()}
    return {name: value for name, value in named.items() if re.search(rf"{re.escape(name)}\b", text)}


def _parse(file: str) -> dict[str, Any]:
    import yaml  # Inspect depends on it; the client alone does not

    try:
        document = yaml.safe_load(Path(file).read_text(encoding="utf-8"))  # JSON is YAML, too
    except OSError as error:
        raise InvalidSpec(f"{file}: the sandbox's configuration cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{file}: the sandbox's configuration is no YAML or JSON: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InvalidSpec(f"{file}: a sandbox's configuration is a mapping of field: value.")
    return document


def _validated(source: str, document: dict[str, Any]) -> SandboxConfig:
    try:
        config = SandboxConfig(**document)
    except ValidationError as error:
        raise InvalidSpec(f"{source}: {invalid_spec(error)}") from None
    config.sandboxes()
    return config


def _interpolate(source: str, value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(source, each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_interpolate(source, each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        found = variables.get(match["name"])
        if found is None or (found == "" and match["operator"] == ":-"):
            if match["operator"] is None and found is None:
                raise InvalidSpec(f"{source}: ${{{match['name']}}} is not set; ${{{match['name']}:-…}} gives it a default.")
            return match["fallback"] or ""
        return found

    return _VARIABLE.sub(replacement, value)
