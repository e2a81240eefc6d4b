"""The Docker engine by its command line, as its users know it."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

PATIENCE_S = 300.0


class NotMeasured(Exception):
    """A peer cannot be had on this machine, or cannot do this; one sentence says why."""


def docker(*words: str, stdin: bytes | None = None, environ: Mapping[str, str] | None = None) -> str:
    """What the command says, stripped. Raises NotMeasured with its complaint."""
    done = subprocess.run(["docker", *words], input=stdin or b"", capture_output=True, timeout=PATIENCE_S, env=environ, check=False)
    if done.returncode != 0:
        raise NotMeasured(f"docker {words[0]}: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout.decode().strip()


class Containers:
    """The containers of one run: they carry its label, by which the last of them is found at the end."""

    def __init__(self) -> None:
        self.label = f"remote-env.bench={secrets.token_hex(6)}"

    def run(self, image: str, command: Sequence[str], *options: str) -> str:
        """Starts a container that stays, as users do; returns its id."""
        return docker("run", "-d", "--label", self.label, *options, image, *command)

    def remove(self, *ids: str) -> None:
        docker("rm", "-fv", *ids)

    def remove_all(self) -> None:
        found = docker("ps", "-aq", "--filter", f"label={self.label}").split()
        if found:
            self.remove(*found)


def inspect(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def published_port(container: str) -> int:
    """The port of this machine's loopback that the container's only published port has."""
    ports = inspect(container)["NetworkSettings"]["Ports"]
    return int(next(bound for bound in ports.values() if bound)[0]["HostPort"])
