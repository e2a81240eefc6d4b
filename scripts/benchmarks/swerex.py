"""SWE-ReX as it is deployed: its server inside the container, its client here, a published port between them.

Its own deployment compiles a Python into the image; here the image's own Python (3.10 or newer) runs the server, installed from
the wheels that this machine downloaded, so that no container needs a network.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from scripts.benchmarks.engine import Containers, NotMeasured, docker, published_port
from tests.support.server import free_port

T = TypeVar("T")
TAG = "remote-env/swe-rex"
_RECIPE = "remote-env.swe-rex"  # the label that says what the image was made of
_DOCKERFILE = """\
FROM {base}
COPY wheels /tmp/wheels
RUN python3 -m pip install --quiet --no-index --find-links /tmp/wheels {requirements} && rm -rf /tmp/wheels
LABEL {label}="{recipe}"
"""
ALIVE_S = 60.0


class Loop:
    """An event loop in a thread of its own, for clients that need one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bench-loop", daemon=True)
        self._thread.start()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it there to its end."""
        running: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def image(base: str) -> str:
    """The base image with SWE-ReX's server in it, made where it is missing. Raises NotMeasured."""
    version = importlib.metadata.version("swe-rex")
    recipe = f"{version} {docker('image', 'inspect', '--format', '{{.Id}}', base)}"
    try:
        if docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{_RECIPE}"}}}}', TAG) == recipe:
            return TAG
    except NotMeasured:
        pass  # it has never been made
    tell = "import sys; print('%d.%d' % sys.version_info[:2])"
    python = docker("run", "--rm", "--network", "none", base, "python3", "-c", tell)
    requirements = [f"swe-rex=={version}"]
    with tempfile.TemporaryDirectory() as directory:
        wheels = Path(directory) / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(wheels)]
        done = subprocess.run([*pip, "--only-binary=:all:", "--python-version", python, *requirements], capture_output=True, text=True)
        if done.returncode != 0:
            raise NotMeasured(f"pip could not download SWE-ReX for Python {python}: {done.stderr.strip()[-300:]}")
        text = _DOCKERFILE.format(base=base, requirements=" ".join(requirements), label=_RECIPE, recipe=recipe)
        (Path(directory) / "Dockerfile").write_text(text)
        docker("build", "--quiet", "--network", "none", "--tag", TAG, directory)
    return TAG


class Rex:
    """A container with SWE-ReX's server. `runtime()` makes a client of it; clients belong to one event loop.

    Args:
        published: through a published port, as its own deployment does; False: on the host's network, with no proxy between.
    """

    def __init__(self, containers: Containers, base: str, *, published: bool = True, options: tuple[str, ...] = ()) -> None:
        self.token = secrets.token_hex(16)
        made = image(base)
        self.port = 8000 if published else free_port()
        where = ("--publish", "127.0.0.1::8000") if published else ("--network", "host")
        listen = "" if published else f" --host 127.0.0.1 --port {self.port}"
        command = ["/bin/sh", "-c", f"exec swerex-remote --auth-token {self.token}{listen}"]
        self.container = containers.run(made, command, *where, *options)
        if published:
            self.port = published_port(self.container)

    def runtime(self) -> Any:
        from swerex.runtime.remote import RemoteRuntime

        return RemoteRuntime(host="http://127.0.0.1", port=self.port, auth_token=self.token, timeout=ALIVE_S)

    async def started(self) -> Any:
        """A client, once the server answers."""
        runtime = self.runtime()
        await runtime.wait_until_alive(timeout=ALIVE_S)
        return runtime
