"""A network namespace with one cable to the host: what a client on another machine sees, and a place to cut it."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CLIENT_ENDS = "INPUT", "OUTPUT"


class Network:
    """198.18.x.y/30 (RFC 2544: for tests of networks), the host's end `.host`, the client's end inside the namespace.

    Everything that is done to packets is done by rules inside the namespace, and so is gone with it.
    """

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        self.name = f"re-{tag}"
        self._outside, self._inside = f"re{tag}h", f"re{tag}c"
        block = 4 * secrets.randbelow(64)
        net = f"198.18.{secrets.randbelow(256)}"
        self.host, self.client = f"{net}.{block + 1}", f"{net}.{block + 2}"
        self.prefix = ("ip", "netns", "exec", self.name)
        _ip("netns", "add", self.name)
        _ip("link", "add", self._outside, "type", "veth", "peer", "name", self._inside, "netns", self.name)
        _ip("addr", "add", f"{self.host}/30", "dev", self._outside)
        _ip("link", "set", self._outside, "up")
        self.inside("ip", "addr", "add", f"{self.client}/30", "dev", self._inside)
        self.inside("ip", "link", "set", self._inside, "up")
        self.inside("ip", "link", "set", "lo", "up")

    def inside(self, *command: str) -> str:
        """The output of a command that is run in the namespace."""
        return subprocess.run([*self.prefix, *command], check=True, capture_output=True, text=True).stdout

    @contextmanager
    def rules(self, *rules: str) -> Iterator[None]:
        """iptables rules for as long as the body lasts, each as on iptables' command line after -A."""
        for rule in rules:
            self.inside("iptables", "-w", "-A", *rule.split())
        try:
            yield
        finally:
            self.inside("iptables", "-w", "-F")

    def dropped(self) -> int:
        """Packets that the rules at hand have dropped so far."""
        lines = self.inside("iptables", "-w", "-nvxL").splitlines()
        return sum(int(line.split()[0]) for line in lines if " DROP " in line)

    def unplug(self) -> None:
        _ip("link", "set", self._outside, "down")

    def plug_in(self) -> None:
        _ip("link", "set", self._outside, "up")

    def connections(self, port: int) -> list[int]:
        """The client's own ports of its established connections to `port`."""
        found = []
        for line in self.inside("cat", "/proc/net/tcp").splitlines()[1:]:
            local, remote, state = line.split()[1:4]
            if int(remote.rpartition(":")[2], 16) == port and state == "01":
                found.append(int(local.rpartition(":")[2], 16))
        return found

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self._outside], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
