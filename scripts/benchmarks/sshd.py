"""An SSH server of this run's own on a loopback port, for `DOCKER_HOST=ssh://`."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from scripts.benchmarks.engine import NotMeasured, docker
from tests.support.server import free_port

_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host
AuthorizedKeysFile {directory}/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 200:30:400
MaxSessions 200
"""
START_S = 10.0


class Sshd:
    """Takes the key that it made for this run, and no other. `environ` is what the docker command needs to come through it."""

    def __init__(self) -> None:
        program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
        if program is None or shutil.which("ssh") is None:
            raise NotMeasured("no sshd is installed (on Debian, scripts/bench as root installs openssh-server)")
        self._directory = Path(tempfile.mkdtemp(prefix="remote-env-ssh."))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start(program)
        except BaseException:
            self.close()
            raise

    def _start(self, program: str) -> None:
        port = free_port()
        for name in ("host", "key"):
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._directory / name)]
            subprocess.run(keygen, check=True, stdin=subprocess.DEVNULL)
        shutil.copy(self._directory / "key.pub", self._directory / "authorized")
        config = self._directory / "config"
        config.write_text(_CONFIG.format(port=port, directory=self._directory))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its privilege separation wants this directory
        log = self._directory / "log"
        with open(log, "wb") as written:
            self._process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=written, stderr=written, start_new_session=True
            )
        self._wait(port, log)
        # The docker command runs whatever `ssh` is first in PATH, and has no option for a key.
        ssh = self._directory / "bin" / "ssh"
        ssh.parent.mkdir()
        options = f"-i {self._directory}/key -o UserKnownHostsFile={self._directory}/known -o StrictHostKeyChecking=no -o LogLevel=ERROR"
        ssh.write_text(f'#!/bin/sh\nexec {shlex.quote(str(shutil.which("ssh")))} -F none {options} "$@"\n')
        ssh.chmod(0o755)
        user = os.environ.get("USER", "root") if os.geteuid() else "root"
        self.environ: Mapping[str, str] = {
            **{name: value for name, value in os.environ.items() if name not in ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY")},
            "PATH": f"{ssh.parent}:{os.environ.get('PATH', '')}",
            "DOCKER_HOST": f"ssh://{user}@127.0.0.1:{port}",
        }
        docker("version", environ=self.environ)

    def _wait(self, port: int, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise NotMeasured(f"sshd does not listen: {log.read_text()[-300:]}")

    def close(self) -> None:
        """Ends it, with the connections that it serves."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
