"""What the figures were taken on: the machine, its engine, the version of everything that took part."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

from scripts.benchmarks.arena import Arena
from scripts.benchmarks.engine import NotMeasured, docker

_PACKAGES = (
    "remote-env",
    "docker",
    "mini-swe-agent",
    "swe-rex",
    "aiohttp",
    "requests",
    "urllib3",
    "fastapi",
    "uvicorn",
    "uvloop",
    "httptools",
)


def _first_line(path: str, start: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(start):
            return line.partition(":")[2].strip()
    return "unknown"


def _engine() -> dict[str, str]:
    told = docker("info", "--format", "{{.ServerVersion}}|{{.Driver}}|{{.CgroupVersion}}|{{.DefaultRuntime}}|{{.OperatingSystem}}").split(
        "|"
    )
    return dict(zip(("docker engine", "storage driver", "cgroup version", "runtime", "operating system"), told, strict=True))


def versions() -> dict[str, str]:
    """Packages that are installed here, by name."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _in_image(image: str) -> dict[str, str]:
    script = "bash --version | head -n 1; dpkg-query -W -f 'dash ${Version}\\n' dash 2>/dev/null || readlink -f /bin/sh; python3 --version"
    lines = docker("run", "--rm", "--network", "none", image, "sh", "-c", script).splitlines()
    return {"image": image, "in the image": "; ".join(lines)}


def describe(arena: Arena) -> dict[str, str]:
    """Facts by name, as the report shows them."""
    found = {
        "taken at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": f"{os.cpu_count()} × {_first_line('/proc/cpuinfo', 'model name')}",
        "memory": f"{int(_first_line('/proc/meminfo', 'MemTotal').split()[0]) / (1 << 20):.1f} GiB",
        "load before the run": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **_engine(),
        "docker command": subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout.strip(),
    }
    try:
        found |= _in_image(arena.image)
    except NotMeasured as error:
        found["image"] = f"{arena.image} ({error})"
    return {**found, **versions()}
