"""The engine is killed, restarted, frozen, cut off; commands do not pass through it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from remote_env import Sandbox
from remote_env.errors import SandboxNotCreated
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.row import row
from tests.faults.matrix.rows.sandbox import last_words, said
from tests.faults.matrix.traffic import Fate
from tests.support.engine_proxy import EngineProxy, remove_short_path, short_path
from tests.support.server import BUSYBOX

DOCKER_SOCKET = Path("/var/run/docker.sock")


def through(arena: Arena, hurt: Callable[[], object], *, pause_s: float = 1.0, rounds: int = 1) -> None:
    """Commands run without a break while the engine is hurt `rounds` times; nobody may notice."""
    arena.drive([arena.traffic.command()])
    count = max(4, arena.commands // rounds)
    for _ in range(rounds):
        before = sum(arena.runs().values())
        with arena.meanwhile(arena.traffic.commands(count, sleep_s=pause_s * arena.scale), workers=8):
            arena.until(lambda due=before + 4: sum(arena.runs().values()) >= due, "some of them run")
            hurt()
    arena.drive(arena.traffic.commands(8))


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def _makes_containers(arena: Arena) -> bool:
    return arena.docker("run", "--rm", "--network", "none", BUSYBOX, "echo", "made", check=False) == "made\n"


@row(
    "engine-restarted", "dockerd is restarted, with live-restore", "SIGTERM to dockerd, started again, while commands run", "engine",
    engine="private",
)  # fmt: skip
def engine_restarted(arena: Arena) -> None:
    def hurt() -> None:
        arena.engine.shut_down()
        arena.engine.start()

    rounds = 1 if arena.short else 3
    through(arena, hurt, rounds=rounds)
    arena.note(f"{rounds} restarts")


@row("engine-killed", "dockerd is killed", "SIGKILL to dockerd, started again, while commands run", "engine", engine="private")
def engine_killed(arena: Arena) -> None:
    def hurt() -> None:
        arena.engine.kill()
        arena.engine.start()

    rounds = 1 if arena.short else 3
    through(arena, hurt, rounds=rounds)
    arena.note(f"{rounds} kills")


@row(
    "containerd-killed", "The engine's containerd is killed", "SIGKILL to containerd, which dockerd starts again, while commands run",
    "engine", engine="private",
)  # fmt: skip
def containerd_killed(arena: Arena) -> None:
    pidfile = arena.engine.socket.parent / "containerd" / "containerd.pid"

    def hurt() -> None:
        before = int(pidfile.read_text())
        os.kill(before, signal.SIGKILL)
        arena.until(lambda: pidfile.exists() and pidfile.read_text().strip() not in ("", str(before)), "there is another containerd")
        arena.until(lambda: _makes_containers(arena), "the engine makes containers again")

    rounds = 1 if arena.short else 3
    through(arena, hurt, rounds=rounds)
    # A sandbox that is made afterwards is as good as any.
    sandbox = arena.ours.new_sandbox()
    arena.drive(arena.traffic.commands(4), run=lambda command: arena.ours.run(command, sandbox))
    sandbox.remove()
    arena.note(f"{rounds} kills")


@row(
    "engine-frozen", "dockerd hangs for a minute",
    "SIGSTOP to dockerd for 60 s; commands run, a sandbox is made, one is removed and one killed meanwhile; only the last may lose any",
    "engine", engine="private", allows=("lost",),
)  # fmt: skip
def engine_frozen(arena: Arena) -> None:
    arena.server_options = ["--sweep-every", "5s"]
    ours = arena.ours
    doomed, made, refused = ours.new_sandbox(), [], []

    def make() -> None:
        try:
            made.append(ours.new_sandbox())
        except SandboxNotCreated as error:
            refused.append(error)

    dead = ours.new_sandbox()
    lasting = [last_words(arena) for _ in range(4)]
    with arena.meanwhile(lasting, workers=4, run=lambda command: ours.run(command, dead)) as lost:
        arena.until(lambda: said(arena) == 4, "the lasting ones have said all")
        making = threading.Thread(target=make, name="making")
        removing = threading.Thread(target=doomed.remove, name="removing")
        with frozen(arena.engine.pid()):
            began = time.monotonic()
            making.start()
            removing.start()
            _kill_init(dead)
            while time.monotonic() - began < 60.0 * arena.scale or len(arena.calls) < arena.commands // 2:
                calls = arena.drive(arena.traffic.commands(8, sleep_s=0.2), workers=8)
                assert all(call.fate is Fate.RESULT for call in calls), "a command in a living sandbox noticed"
        making.join()
        removing.join()
    assert [call.fate for call in lost] == [Fate.LOST] * 4, f"the commands of a dead sandbox were told {[call.fate.value for call in lost]}"
    assert [call.output for call in lost] == [call.command.output for call in lost]
    assert len(made) + len(refused) == 1, "whoever wanted a sandbox was told nothing"
    sandbox = made[0] if made else ours.new_sandbox()
    # An engine that wakes up carries out what it was asked for, though nobody waits for it any more.
    known = {str(ours.sandbox.container_id), str(sandbox.container_id)}
    arena.until(lambda: set(arena._containers(arena.server)) == known, "no container is left that nobody owns")
    arena.drive(arena.traffic.commands(max(4, arena.commands - len(arena.calls))), run=lambda command: ours.run(command, sandbox))
    sandbox.remove()
    arena.note(f"frozen for {60.0 * arena.scale:.0f} s; {len(lost)} commands of the killed sandbox lost, no other")
    arena.note("the sandbox was made once the engine woke up" if made else "the sandbox was told as not made")


def _kill_init(sandbox: Sandbox) -> None:
    """SIGKILL to a sandbox's PID 1, found without the engine: it hangs."""
    mark = f"/docker/{sandbox.container_id}"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                inside = mark in (entry / "cgroup").read_text() and "NSpid:" in (status := (entry / "status").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
            if inside and next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == "1":
                os.kill(int(entry.name), signal.SIGKILL)
                return
    raise AssertionError("no init of that container is found")


@row(
    "shim-killed", "A container's shim is killed", "SIGKILL to containerd-shim: the engine then ends that container", "engine",
    engine="private", allows=("lost", "not run"),
)  # fmt: skip
def shim_killed(arena: Arena) -> None:
    ours = arena.ours
    rounds = max(1, arena.commands // 20)
    for _ in range(rounds):
        sandbox = ours.new_sandbox()
        lasting = [last_words(arena) for _ in range(5)]
        before = said(arena)
        with arena.meanwhile(lasting, workers=5, run=lambda command, at=sandbox: ours.run(command, at)) as lost:
            arena.until(lambda due=before + 5: said(arena) == due, "the lasting ones have said all")
            init = int(arena.docker("inspect", "-f", "{{.State.Pid}}", str(sandbox.container_id)))
            shim = int(Path(f"/proc/{init}/stat").read_text().rsplit(")", 1)[1].split()[1])
            assert "containerd-shim" in Path(f"/proc/{shim}/cmdline").read_text()
            os.kill(shim, signal.SIGKILL)
            # Nobody else notices.
            arena.drive(arena.traffic.commands(15))
        assert [call.fate for call in lost] == [Fate.LOST] * 5
        assert [call.output for call in lost] == [call.command.output for call in lost]
        arena.until(lambda pid=init: _ended(pid), "what was below that shim has ended")
        sandbox.remove()
    arena.note(f"{rounds} shims killed: the engine ends such a container")


@row(
    "engine-restarted-hard", "dockerd is restarted, without live-restore",
    "SIGTERM to dockerd, which ends every container, started again",
    "engine", engine="private, no live-restore", allows=("lost", "not run"),
)  # fmt: skip
def engine_restarted_hard(arena: Arena) -> None:
    ours = arena.ours
    rounds = 1 if arena.short else 4
    width = max(8, arena.commands // rounds)
    lost = 0
    for _ in range(rounds):
        sandbox = ours.new_sandbox()
        lasting = [last_words(arena) for _ in range(width // 4)]
        brief = arena.traffic.commands(width - len(lasting), sleep_s=0.02)
        before = said(arena)
        with arena.meanwhile([*lasting, *brief], workers=len(lasting) + 4, run=lambda command, at=sandbox: ours.run(command, at)) as calls:
            due = before + len(lasting)
            arena.until(lambda due=due: said(arena) == due, "the lasting ones have said all")
            arena.engine.shut_down()
            arena.engine.start()
        told = {call.command.name: call for call in calls}
        for command in lasting:
            call = told[command.name]
            assert (call.fate, call.detail) == (Fate.LOST, "lost: engine_restarted"), f"{command.name}: {call.fate.value}: {call.detail}"
            assert call.output == command.output, f"{command.name} is lost and so is what it had said"
        lost += sum(call.fate is Fate.LOST for call in calls)
    arena.note(f"{rounds} restarts, {lost} commands lost with what they had said, each told so")


def _proxied(arena: Arena) -> EngineProxy:
    path = short_path(arena.tmp, "engine.sock")
    arena.on_close(lambda: remove_short_path(path))
    proxy = EngineProxy(path, DOCKER_SOCKET)
    arena.on_close(proxy.close)
    arena.server_options = [*arena.server_options, "--docker-host", proxy.url]
    return proxy


@row(
    "create-cut", "The engine's connection breaks between create and start",
    "a proxy before the engine's socket delivers the create (or the start), and cuts before its answer", "engine",
)  # fmt: skip
def create_cut(arena: Arena) -> None:
    proxy = _proxied(arena)
    ours = arena.ours
    rounds = 2 if arena.short else 20
    each = max(1, arena.commands // rounds)
    told = 0
    for number in range(rounds):
        proxy.cut((r"POST \S*/containers/create", r"POST \S*/containers/[0-9a-f]+/start")[number % 2])
        with arena.meanwhile(arena.traffic.commands(each), workers=4):
            try:
                ours.new_sandbox().remove()
            except SandboxNotCreated:
                told += 1
    assert proxy.cuts == rounds, f"{proxy.cuts} cuts, not {rounds}"
    alive = {str(ours.sandbox.container_id)}
    arena.until(lambda: set(arena._containers(arena.server)) == alive, "no container is left of a sandbox that was not made")
    arena.note(f"{proxy.cuts} calls cut; {told} sandboxes told as not made, no container left")


@row(
    "engine-500", "The engine answers 500 to everything",
    "a proxy before the engine's socket; commands run, a sandbox is made and one removed meanwhile", "engine",
)  # fmt: skip
def engine_fails(arena: Arena) -> None:
    proxy = _proxied(arena)
    ours = arena.ours
    doomed = ours.new_sandbox()
    removing = threading.Thread(target=doomed.remove, name="removing")
    proxy.fail(".")
    with arena.meanwhile(arena.traffic.commands(arena.commands, sleep_s=0.1), workers=8):
        removing.start()
        try:
            ours.new_sandbox()
            raise AssertionError("a sandbox was made by an engine that fails")
        except SandboxNotCreated:
            pass
        arena.wait(5.0)
    failures = proxy.failures
    assert failures >= 2, "nothing was answered with 500"
    proxy.fail(None)
    removing.join()
    arena.until(lambda: set(arena._containers(arena.server)) == {str(ours.sandbox.container_id)}, "what was to go is gone")
    arena.note(f"{failures} calls answered with 500")
