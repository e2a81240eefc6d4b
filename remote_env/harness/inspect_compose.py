"""Docker compose files as Inspect's tasks have them, translated into a sandbox's configuration.

What a sandbox has or does anyway is taken and changes nothing; what it can do is translated; the rest is refused with a sentence,
because a service that silently lacks its network, volume or program would fail later, and less clearly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remote_env.errors import InvalidSpec

FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
DOCKERFILE = "Dockerfile"

_NAMED = re.compile(r"[-.]compose\.yaml$")
_TRANSLATED = {
    "image": "image",
    "working_dir": "workdir",
    "user": "user",
    "mem_limit": "memory",
    "cpus": "cpus",
    "pids_limit": "pids",
    "shm_size": "shm",
    "pull_policy": "pull",
    "platform": "platform",
    "read_only": "read_only",
}
# A sandbox has an init of its own, ends at once, is never restarted, and takes what it may have, not what it wants at least.
_HARMLESS = {
    "depends_on", "expose", "healthcheck", "init", "mem_reservation", "memswap_limit", "restart", "stdin_open", "stop_grace_period", "tty",
}  # fmt: skip
_IDLE = re.compile(r"(?:(?:/bin/)?(?:ba)?sh -l?c )?[\"']?(?:tail -f /dev/null|sleep (?:infinity|inf|\d+[smhd]?))[\"']?|(?:/bin/)?(?:ba)?sh")
_PULL = {"if_not_present": "missing"}
_ADVICE = {
    "build": "the server builds no images; build it where the server's engine finds it, and name it as `image`",
    "command": "a sandbox runs no program but what Inspect sends; start it with the sample's setup script",
    "entrypoint": "a sandbox runs no program but what Inspect sends; start it with the sample's setup script",
    "volumes": "the machine of the evaluation is not the server's; give the sample `files`",
    "networks": "sandboxes have no network of their own together; `network_mode: none` closes one off",
    "ports": "a sandbox publishes no ports",
    "env_file": "say it as `environment`",
    "privileged": "a privileged container owns the server's machine",
    "cap_add": "the capabilities of a sandbox are fixed",
}


def is_compose(file: str) -> bool:
    """Whether Inspect takes a file of this name for a compose file."""
    name = Path(file).name
    return name in FILES or _NAMED.search(name) is not None


def is_dockerfile(file: str) -> bool:
    path = Path(file)
    return path.stem == DOCKERFILE or path.suffix == f".{DOCKERFILE}"


def from_compose(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a SandboxConfig that say the same. Raises InvalidSpec, which names service and key."""
    services = document.get("services")
    if not isinstance(services, Mapping) or not services:
        raise InvalidSpec("A compose file without `services` describes no sandbox.")
    translated = {str(name): _service(str(name), service or {}) for name, service in services.items()}
    default = next((str(name) for name, service in services.items() if (service or {}).get("x-default")), None)
    if default is None and "default" not in translated:
        raise InvalidSpec("No service of the compose file is the default: name one `default`, or give it `x-default: true`.")
    if default is not None:
        translated = {default: translated[default], **translated}
        if default != "default" and "default" in translated:
            raise InvalidSpec(f"Two services of the compose file are the default: `default`, and {default!r} with `x-default: true`.")
    return {"services": translated}


def _service(name: str, service: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in service.items():
        if value is None or key.startswith("x-") or key in _HARMLESS:
            continue
        if key in _TRANSLATED:
            result[_TRANSLATED[key]] = value
        elif key == "environment":
            result["env"] = _environment(name, value)
        elif key == "network_mode" and value in ("none", "bridge"):
            result["network"] = value
        elif key == "deploy":
            result = {**_limits(name, value), **result}
        elif not _changes_nothing(key, value, service):
            raise _refusal(name, key)
    if "image" not in result:
        raise InvalidSpec(f"The compose service {name!r} names no image.")
    if "pull" in result:
        result["pull"] = _PULL.get(result["pull"], result["pull"])
    if result.get("pids") in (-1, "-1"):
        del result["pids"]
    return result


def _changes_nothing(key: str, value: Any, service: Mapping[str, Any]) -> bool:
    if key in ("command", "entrypoint"):
        return _is_idle(value)
    if key == "build":
        return bool(service.get("image"))  # built elsewhere, under this name
    return key == "privileged" and value is False


def _limits(name: str, deploy: Any) -> dict[str, Any]:
    """`deploy.resources.limits`; reservations promise what no sandbox is refused."""
    if not isinstance(deploy, Mapping) or deploy.keys() - {"resources"}:
        raise _refusal(name, "deploy")
    resources = deploy.get("resources") or {}
    if ((resources.get("reservations") or {}).get("devices")) is not None:
        raise _refusal(name, "deploy.resources.reservations.devices")
    limits = resources.get("limits") or {}
    return {ours: limits[theirs] for theirs, ours in (("cpus", "cpus"), ("memory", "memory")) if limits.get(theirs) is not None}


def _environment(name: str, value: Any) -> dict[str, Any]:
    pairs = dict(item.partition("=")[::2] for item in value) if isinstance(value, list) else dict(value)
    assigned = {item.partition("=")[0] for item in value if "=" in item} if isinstance(value, list) else pairs.keys()
    for variable, text in pairs.items():
        if text is None or variable not in assigned:
            how = f"`{variable}: ${{{variable}}}` passes it on"
            raise InvalidSpec(f"The compose service {name!r}: environment: {variable} has no value; {how}.")
    return pairs


def _is_idle(value: Any) -> bool:
    """Whether a command only keeps a container alive, as a sandbox stays alive anyway."""
    words = " ".join(str(word) for word in value) if isinstance(value, list) else str(value)
    return _IDLE.fullmatch(words.strip()) is not None or not words.strip()


def _refusal(name: str, key: str) -> InvalidSpec:
    return InvalidSpec(f"The compose service {name!r}: `{key}` is not possible in a sandbox: {_ADVICE.get(key, 'it has no such option')}.")
