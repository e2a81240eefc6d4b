"""The options of `docker run` as harness configurations hold them, translated into a sandbox's typed options.

What a sandbox has or does anyway (`--rm`, `--detach`, `--init`) is taken and changes nothing; what it can do is translated; the rest is
refused with a sentence, because dropping `--cap-add` or a mount without a word would only fail later, and less clearly.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from remote_env.errors import InvalidSpec

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([bkmgt])(?:i?b)?)?", re.IGNORECASE)
_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)([smhd]?)")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BOOLEANS = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}

_SHORT = {
    "-c": "--cpu-shares", "-d": "--detach", "-e": "--env", "-h": "--hostname", "-i": "--interactive", "-l": "--label", "-m": "--memory",
    "-p": "--publish", "-t": "--tty", "-u": "--user", "-v": "--volume", "-w": "--workdir",
}  # fmt: skip
_SYNONYMS = {"--net": "--network", "--dns-opt": "--dns-option"}
_HARMLESS_SWITCHES = {"--detach", "--init", "--interactive", "--no-healthcheck", "--rm", "--tty"}
_SWITCHES = _HARMLESS_SWITCHES | {"--oom-kill-disable", "--privileged", "--publish-all", "--read-only"}
_SPOKEN_REFUSALS = {
    "--privileged": "a privileged container owns the server's machine",
    "--cap-add": "the capabilities of a sandbox are fixed",
    "--device": "a sandbox gets no devices",
    "--gpus": "a sandbox gets no devices",
    "--pid": "a sandbox has a process namespace of its own, and its first process is remote-env's",
    "--ipc": "a sandbox has namespaces of its own; --shm-size sets the size of /dev/shm",
    "--userns": "a sandbox has the engine's user namespace",
    "--uts": "a sandbox has namespaces of its own",
    "--publish": "a sandbox publishes no ports",
    "--publish-all": "a sandbox publishes no ports",
    "--name": "sandboxes are named by the server; `container_id` has the engine's id",
    "--restart": "a restarted sandbox would be another one: its commands are lost",
    "--mount": "say it as -v SOURCE:TARGET[:ro]",
    "--env-file": "say it as `env` or `forward_env`",
}


def sandbox_options(arguments: Iterable[str], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The fields of `protocol.SandboxSpec` that say the same as these arguments of `docker run`.

    Args:
        arguments: options as they stand between `docker run` and the image, each a string of its own.
        environ: where `-e NAME` without a value is looked up; None: this process's environment.

    Raises:
        InvalidSpec: an option that a sandbox has no equivalent for, or a value that is none; the message names it.
    """
    source = os.environ if environ is None else environ
    options: dict[str, Any] = {}
    for name, value in _pairs(arguments):
        if name in _HARMLESS_SWITCHES or name == "--entrypoint":
            continue  # the entrypoint of an image is never run
        translate = _TRANSLATIONS.get(name)
        if translate is not None:
            translate(options, name, value)
        elif name == "--env":
            _add_variable(options, value, source)
        elif name not in _SWITCHES or _switch(name, value):
            raise InvalidSpec(f"run_args: {name} is not possible in a sandbox: {_SPOKEN_REFUSALS.get(name, 'it has no such option')}.")
    return options


def sleep_seconds(text: str) -> float | None:
    """A duration as the `sleep` command takes it ("2h", "90", "1.5m", "infinity") in seconds; None for infinity.

    Raises InvalidSpec.
    """
    if text.strip().lower() in ("inf", "infinity"):
        return None
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds <= 0:
        raise InvalidSpec(f"container_timeout: {text!r} is not a duration such as 90, 45m, 2h, 1d or infinity.")
    return seconds


def _pairs(arguments: Iterable[str]) -> Iterable[tuple[str, str]]:
    """(long name, value) of each option; a switch's value is "true" unless it was given one."""
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("--"):
            name, given, value = argument.partition("=")
            name = _SYNONYMS.get(name, name)
            if given or name in _SWITCHES:
                yield name, value if given else "true"
                continue
        elif len(argument) >= 2 and argument[0] == "-":
            name, value = argument[:2], argument[2:]
            # Switches may stand together: -dit. The last one of such a group may take a value: -ite NAME=VALUE.
            while _long(name, argument) in _SWITCHES:
                yield _long(name, argument), "true"
                if not value:
                    break
                name, value = f"-{value[0]}", value[1:]
            if _long(name, argument) in _SWITCHES:
                continue
            name = _long(name, argument)
            if value:
                yield name, value.removeprefix("=")
                continue
        else:
            raise InvalidSpec(f"run_args: {argument!r} is not an option; the image has a field of its own, its command is remote-env's.")
        try:
            yield name, next(rest)
        except StopIteration:
            raise InvalidSpec(f"run_args: {argument} lacks its value, or is no option of a sandbox.") from None


def _long(name: str, argument: str) -> str:
    if name not in _SHORT:
        raise InvalidSpec(f"run_args: {argument}: a sandbox has no such option.")
    return _SHORT[name]


def _switch(name: str, value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise InvalidSpec(f"run_args: {name}={value}: say true or false.")
    return _BOOLEANS[value.lower()]


def _bytes(name: str, value: str) -> int:
    match = _SIZE.fullmatch(value)
    if match is None:
        raise InvalidSpec(f"run_args: {name} {value}: say a size such as 512m or 4g.")
    return int(float(match[1]) * _UNITS[(match[2] or "b").lower()])


def _number(kind: type[int] | type[float], name: str, value: str) -> float:
    try:
        number = kind(value)
    except ValueError:
        number = 0
    if not 0 < number < math.inf:
        raise InvalidSpec(f"run_args: {name} {value}: say a number above zero.")
    return number


def _add_variable(options: dict[str, Any], value: str, environ: Mapping[str, str]) -> None:
    name, given, text = value.partition("=")
    if not name:
        raise InvalidSpec(f"run_args: --env {value!r} has no name.")
    if given or name in environ:
        options.setdefault("env", {})[name] = text if given else environ[name]


def _add_label(options: dict[str, Any], name: str, value: str) -> None:
    key, _, text = value.partition("=")
    options.setdefault("labels", {})[key] = text


def _set_network(options: dict[str, Any], name: str, value: str) -> None:
    if value not in ("none", "bridge", "default"):
        raise InvalidSpec(f"run_args: {name} {value} is not possible in a sandbox: its network is bridge or none.")
    options["network"] = "none" if value == "none" else "bridge"


def _set_pull(options: dict[str, Any], name: str, value: str) -> None:
    if value not in ("missing", "always", "never"):
        raise InvalidSpec(f"run_args: {name} {value}: say missing, always or never.")
    options["pull"] = value


def _set_security(options: dict[str, Any], name: str, value: str) -> None:
    option, _, setting = value.replace("=", ":").partition(":")
    if option != "no-new-privileges":
        raise InvalidSpec(f"run_args: {name} {value} is not possible in a sandbox: only no-new-privileges[:true|:false] is.")
    options["no_new_privileges"] = _switch(f"{name} {option}", setting or "true")


def _add_bind(options: dict[str, Any], name: str, value: str) -> None:
    source, *rest = value.split(":")
    if not rest or not source.startswith("/") or not rest[0].startswith("/") or len(rest) > 2:
        raise InvalidSpec(f"run_args: {name} {value}: only directories of the server's machine are mounted, as /SOURCE:/TARGET[:ro].")
    if source.rstrip("/").endswith((".sock", "/run", "/var/run")):
        raise InvalidSpec(f"run_args: {name} {value}: an engine's socket gives away the server's machine and is not mounted.")
    modes = set(rest[1].split(",")) if len(rest) == 2 else {"rw"}
    if not modes <= {"ro", "rw"}:
        raise InvalidSpec(f"run_args: {name} {value}: the only mount options are ro and rw.")
    options.setdefault("binds", []).append({"source": source, "target": rest[0], "read_only": "ro" in modes})


def _to(field: str, convert: Callable[[str, str], Any] | None = None) -> Callable[[dict[str, Any], str, str], None]:
    def translate(options: dict[str, Any], name: str, value: str) -> None:
        options[field] = value if convert is None else convert(name, value)

    return translate


_TRANSLATIONS: dict[str, Callable[[dict[str, Any], str, str], None]] = {
    "--cpus": _to("cpus", lambda name, value: _number(float, name, value)),
    "--label": _add_label,
    "--memory": _to("memory_bytes", _bytes),
    "--network": _set_network,
    "--pids-limit": _to("pids", lambda name, value: _number(int, name, value)),
    "--platform": _to("platform"),
    "--pull": _set_pull,
    "--read-only": _to("read_only", _switch),
    "--security-opt": _set_security,
    "--shm-size": _to("shm_bytes", _bytes),
    "--user": _to("user"),
    "--volume": _add_bind,
    "--workdir": _to("workdir"),
}
