"""Packets go missing, cables are pulled, names resolve to the wrong family, TLS records are damaged, the client's
surroundings mislead it. The client is a process of its own; where packets are lost it is alone in a network namespace."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from remote_env import Timings
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.netns import Network
from tests.faults.matrix.row import row
from tests.faults.matrix.traffic import Command, Fate
from tests.faults.matrix.worker import Worker

DROP_BOTH = ("INPUT -p tcp -j DROP", "OUTPUT -p tcp -j DROP")


@contextmanager
def far_client(arena: Arena, timings: Timings | None = None) -> Iterator[tuple[Network, Worker]]:
    """A client in a namespace of its own, and the server where it can be reached from there."""
    network = Network()
    arena.on_close(network.close)
    arena.server_host = network.host
    worker = Worker(arena.ours, arena.client_log, prefix=network.prefix, timings=timings)
    try:
        yield network, worker
    finally:
        worker.close()


def waves(arena: Arena, most: int) -> list[int]:
    """The row's commands cut into waves of at most `most` at once."""
    full, rest = divmod(arena.commands, most)
    return [most] * full + ([rest] if rest else [])


def slow_commands(arena: Arena, count: int) -> list[Command]:
    """Commands that are still running when the fault comes, and over when it ends."""
    return arena.traffic.commands(count, sleep_s=3.0 * max(arena.scale, 0.4), lines=50)


def all_run(arena: Arena, commands: list[Command]) -> None:
    names = {command.name for command in commands}
    arena.until(lambda: names <= set(arena.runs()), "all commands of the wave run")


def cut_while_all_run(arena: Arena, *rules: str, seconds: float) -> None:
    """Waves of commands; once all of a wave run, the rules hold for so long, and then everything passes again."""
    dropped = 0
    with far_client(arena) as (network, worker):
        for width in waves(arena, 100):
            commands = slow_commands(arena, width)
            with arena.meanwhile(commands, workers=width, run=worker.run):
                all_run(arena, commands)
                with network.rules(*rules):
                    arena.wait(seconds)
                    dropped += network.dropped()
    assert dropped, "no packet was dropped: nothing was tested"
    arena.note(f"{dropped} packets dropped")


@row(
    "blackhole-poll",
    "black hole during the long-polls, for 25 s",
    "network namespace, iptables DROP both ways once every command of a wave runs",
    "network",
)
def blackhole_poll(arena: Arena) -> None:
    cut_while_all_run(arena, *DROP_BOTH, seconds=25)


@row("answers-lost", "only the answers are lost, for 25 s", "iptables DROP of what comes from the server", "network")
def answers_lost(arena: Arena) -> None:
    cut_while_all_run(arena, "INPUT -p tcp -j DROP", seconds=25)


@row(
    "blackhole-stays", "black hole that stays",
    "iptables DROP both ways until every call has given up; then each result is asked for by its id", "network", allows=("unknown",),
)  # fmt: skip
def blackhole_stays(arena: Arena) -> None:
    timings = dataclasses.replace(arena.timings, reconnect_budget_s=40 * arena.scale)
    with far_client(arena, timings) as (network, worker):
        commands = slow_commands(arena, arena.commands)
        with arena.meanwhile(commands, workers=len(commands), run=worker.run) as calls:
            all_run(arena, commands)
            with network.rules(*DROP_BOTH):
                arena.until(lambda: len(calls) == len(commands), "every call has given up", 200)
    kept = 0
    for call in calls:
        assert call.fate is Fate.UNKNOWN, call.detail
        assert call.execution_id is not None
        found = arena.ours.client.execution(call.execution_id).wait()
        kept += (found.returncode, found.text) == (call.command.returncode, call.command.output)
    assert kept == len(calls), "a result was not there when it was asked for afterwards"
    arena.note(f"{kept} of {len(calls)} results were at the server afterwards, whole")


@row(
    "nat-forgets",
    "a NAT forgets the connections",
    "iptables DROP of the packets of all connections that stand at that moment; new ones pass",
    "network",
)
def nat_forgets(arena: Arena) -> None:
    forgotten = 0
    with far_client(arena) as (network, worker):
        for width in waves(arena, 50):
            warm = arena.traffic.commands(width // 2, lines=5)
            arena.drive(warm, run=worker.run, workers=len(warm))  # connections that will idle
            commands = slow_commands(arena, width - len(warm))
            with arena.meanwhile(commands, workers=len(commands), run=worker.run):
                all_run(arena, commands)
                ports = network.connections(arena.server.port)
                forgotten += len(ports)
                rules = [
                    rule for port in ports for rule in (f"OUTPUT -p tcp --sport {port} -j DROP", f"INPUT -p tcp --dport {port} -j DROP")
                ]
                stack = network.rules(*rules)
                stack.__enter__()
            arena.drive(arena.traffic.commands(2, lines=5), run=worker.run)
            stack.__exit__(None, None, None)
    assert forgotten, "there was no connection to forget"
    arena.note(f"{forgotten} connections forgotten")


def lossy(arena: Arena, probability: float) -> None:
    chance = f"-m statistic --mode random --probability {probability} -j DROP"
    # A lost SYN is sent again after a second, by the kernel's clock, whatever the scale.
    timings = dataclasses.replace(arena.timings, connect_s=3.0, poll_margin_s=15.0, request_s=35.0, reconnect_budget_s=120.0)
    with far_client(arena, timings) as (network, worker), network.rules(f"INPUT -p tcp {chance}", f"OUTPUT -p tcp {chance}"):
        arena.drive(arena.traffic.commands(arena.commands), run=worker.run, workers=32)
        dropped = network.dropped()
    assert dropped, "no packet was dropped: nothing was tested"
    arena.note(f"{dropped} packets dropped")


@row("loss-5", "5 % packet loss", "iptables -m statistic, both ways", "network", allows=("not run",))
def loss_5(arena: Arena) -> None:
    lossy(arena, 0.05)


@row("loss-20", "20 % packet loss", "iptables -m statistic, both ways", "network", allows=("not run",), short=8)
def loss_20(arena: Arena) -> None:
    lossy(arena, 0.20)


@row("unplugged", "the cable is pulled for 25 s", "the link of the client's network is set down, and up again", "network")
def unplugged(arena: Arena) -> None:
    with far_client(arena) as (network, worker):
        for width in waves(arena, 100):
            commands = slow_commands(arena, width)
            with arena.meanwhile(commands, workers=width, run=worker.run):
                all_run(arena, commands)
                network.unplug()
                arena.wait(25)
                network.plug_in()


# ------------------------------------------------------------------------------------------------------------ names


def by_name(arena: Arena, listen: str, hosts: str, precedence: str = "") -> None:
    """The client goes to http://localhost, with an /etc/hosts and a gai.conf of its own."""
    arena.server_host = listen
    (arena.tmp / "hosts").write_text(hosts)
    (arena.tmp / "gai.conf").write_text(precedence)
    port = arena.ours.server.port
    mount = f'mount --bind {arena.tmp}/hosts /etc/hosts && mount --bind {arena.tmp}/gai.conf /etc/gai.conf && exec "$@"'
    Path("/etc/gai.conf").touch()
    prefix = ("unshare", "--mount", "sh", "-c", mount, "sh")
    worker = Worker(arena.ours, arena.client_log, prefix=prefix, url=f"http://localhost:{port}")
    try:
        arena.drive(arena.traffic.commands(arena.commands), run=worker.run)
    finally:
        worker.close()


@row("localhost-v6-first", "localhost is ::1 first, the server listens on IPv4 only", "an /etc/hosts of the client's own", "network")
def localhost_v6_first(arena: Arena) -> None:
    by_name(arena, "127.0.0.2", "::1 localhost\n127.0.0.2 localhost\n")


@row(
    "localhost-v4-first",
    "localhost is 127.0.0.1 first, the server listens on ::1 only",
    "an /etc/hosts and a gai.conf of the client's own",
    "network",
)
def localhost_v4_first(arena: Arena) -> None:
    by_name(arena, "::1", "127.0.0.2 localhost\n::1 localhost\n", "precedence ::ffff:0:0/96 100\n")


# -------------------------------------------------------------------------------------------------- TLS, surroundings


class Flipper:
    """Forwards TCP to a port and flips one bit of every n-th chunk that comes from the server."""

    def __init__(self, port: int, every: int) -> None:
        self._target, self._every = port, every
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self.flipped = 0
        self._seen = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="traffic-flipper", daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for source, sink, flip in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, flip), name="traffic-flipper", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, flip: bool) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(self._pass(data) if flip else data)
        except OSError:
            return
        finally:
            for each in (source, sink):
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def _pass(self, data: bytes) -> bytes:
        with self._lock:
            self._seen += 1
            if self._seen % self._every:
                return data
            self.flipped += 1
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


@row(
    "tls-corrupted",
    "a TLS record is corrupted",
    "a proxy flips a bit in every twelfth chunk of the encrypted stream from the server",
    "network",
    allows=("not run",),
)
def tls_corrupted(arena: Arena) -> None:
    arena.server_options.append("--tls-self-signed")
    flipper = Flipper(arena.ours.server.port, every=12)
    arena.on_close(flipper.close)
    worker = Worker(arena.ours, arena.client_log, url=f"https://127.0.0.1:{flipper.port}", fingerprint=arena.server.fingerprint)
    try:
        arena.drive(arena.traffic.commands(arena.commands), run=worker.run)
    finally:
        worker.close()
    assert flipper.flipped, "no bit was flipped: nothing was tested"
    arena.note(f"{flipper.flipped} bits flipped")


@row(
    "misleading-environment",
    "HTTP_PROXY, .netrc and CA bundle in the client's environment",
    "variables that point to a listener, and a .netrc with another password",
    "network",
)
def misleading_environment(arena: Arena) -> None:
    trap = socket.create_server(("127.0.0.1", 0))
    trap.settimeout(0)
    arena.on_close(trap.close)
    home = arena.tmp / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login someone password else\ndefault login someone password else\n")
    (home / ".netrc").chmod(0o600)
    proxy = f"http://127.0.0.1:{trap.getsockname()[1]}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    environ = dict.fromkeys(names, proxy) | {
        "HOME": str(home),
        "NETRC": str(home / ".netrc"),
        "REQUESTS_CA_BUNDLE": "/nonexistent",
        "NO_PROXY": "",
    }
    worker = Worker(arena.ours, arena.client_log, environ=environ)
    try:
        arena.drive(arena.traffic.commands(arena.commands), run=worker.run)
    finally:
        worker.close()
    try:
        trap.accept()
    except BlockingIOError:
        arena.note("0 connections to the proxy named there")
    else:
        raise AssertionError("the client connected to the proxy that the environment names")
