"""The server stops, dies, freezes; a client dies and another one comes."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

from remote_env import Execution
from remote_env.protocol import new_id
from server.failpoints import KNOWN, OF_WARM
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.hurting import drive_while, kill_at, until_running
from tests.faults.matrix.row import row
from tests.faults.matrix.subjects import told
from tests.faults.matrix.tenant import Tenant
from tests.faults.matrix.traffic import LARGE_LINES, Call, Command, Result
from tests.faults.matrix.worker import Worker

OF_COMMANDS = {  # passed by every command, so that any of its passes may be the one
    "before_accept_commit", "after_accept_commit", "after_send", "after_started", "before_output_taken", "after_output_taken",
    "after_final_commit", "after_ack",
}  # fmt: skip


@row(
    "sigterm-restart",
    "SIGTERM with 100 commands running, then a restart",
    "SIGTERM to the server's process; started again",
    "server",
    short=24,
)
def sigterm_restart(arena: Arena) -> None:
    arena.ours.on_undelivered = "redeliver"
    arena.drive([arena.traffic.command()])
    waves, width = max(1, arena.commands // 100), min(100, arena.commands)
    for _ in range(waves):
        commands = arena.traffic.commands(width, sleep_s=2.0 * max(arena.scale, 0.5), lines=40)
        with arena.meanwhile(commands, workers=width):
            until_running(arena, commands, width // 2)
            assert arena.server.stop() == 0
            arena.server.start()
    arena.note(f"{waves} orderly stops")


@row(
    "sigkill-failpoints",
    "SIGKILL at each failpoint",
    "the server kills itself before or after each durable step, while commands run and are cancelled and sandboxes come and go",
    "server",
    allows=("not run",),
    short=24,
)
def sigkill_failpoints(arena: Arena) -> None:
    arena.ours.on_undelivered = "redeliver"
    passed = KNOWN - OF_WARM  # those have a test of their own: this server keeps no sandboxes warm
    names = sorted(passed) * (1 if arena.short else 2)
    failpoints = [(name, arena.rng.randint(1, 8) if name in OF_COMMANDS else 1) for name in names]
    kills = 0

    def hurt() -> None:
        nonlocal kills
        kills = kill_at(arena, failpoints)

    with sandboxes_come_and_go(arena):
        drive_while(arena, hurt, lambda: some_to_cancel(arena, 24), workers=12, run=lambda command: run_or_cancel(arena, command))
    arena.note(f"{kills} kills, at each of the {len(passed)} failpoints")


@contextmanager
def sandboxes_come_and_go(arena: Arena) -> Iterator[None]:
    """Meanwhile one sandbox after the other is made, runs a command and is removed."""
    over = threading.Event()

    def run(command: Command) -> Call:
        def in_new_sandbox() -> Execution:
            with arena.ours.new_sandbox() as sandbox:
                return sandbox.run(command.text, on_undelivered="redeliver")

        return told(command, in_new_sandbox)

    def come_and_go() -> None:
        while not over.is_set():
            arena.drive([arena.traffic.command()], workers=1, run=run)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(come_and_go)
        try:
            yield
        finally:
            over.set()
        coming.result()


def some_to_cancel(arena: Arena, count: int) -> list[Command]:
    """Commands, one in six of which would run for ever."""
    for_ever = [arena.traffic.made_of("sleep 100000", -1, "", outcome="cancelled") for _ in range(count // 6)]
    commands = [*arena.traffic.commands(count - len(for_ever)), *for_ever]
    arena.rng.shuffle(commands)
    return commands


def run_or_cancel(arena: Arena, command: Command) -> Call:
    """Run the command; cancel it once it runs where it would run for ever."""
    if command.outcome != "cancelled":
        return arena.ours.run(command)

    def cancelled() -> Execution:
        execution = arena.ours.sandbox.start(command.text)
        until_running(arena, [command])
        return execution.cancel().wait()

    return told(command, cancelled)


@row(
    "sigkill-random",
    "SIGKILL at random moments",
    "SIGKILL to the server, also while it starts; started again",
    "server",
    allows=("not run",),
    commands=10_000,
    short=48,
)
def sigkill_random(arena: Arena) -> None:
    arena.ours.on_undelivered = "redeliver"
    wanted, kills = max(6, arena.commands // 20), 0
    over = threading.Event()
    arena.on_close(over.set)

    def hurt() -> None:
        nonlocal kills
        while kills < wanted or len(arena.calls) < arena.commands // 2:
            if arena.rng.random() < 0.9:
                arena.server.start()
            else:
                arena.server.spawn()
            over.wait(arena.rng.uniform(0.0, 0.6))
            arena.server.kill()
            kills += 1
        arena.server.start()

    arena.server.kill()
    workers = 16 if arena.short else 64
    drive_while(arena, hurt, lambda: arena.traffic.commands(workers * 4), workers=workers)
    arena.note(f"{kills} kills")


@row(
    "sigstop",
    "the server frozen for 30 s during large output",
    "SIGSTOP to the server's process, SIGCONT after 30 s",
    "server",
)
def sigstop(arena: Arena) -> None:
    process = arena.server.process
    assert process is not None
    commands = arena.traffic.commands(arena.commands, sleep_s=1.0, lines=2 * LARGE_LINES)
    arena.drive([arena.traffic.command()])
    with arena.meanwhile(commands, workers=len(commands)):
        until_running(arena, commands, len(commands) // 2)
        process.send_signal(signal.SIGSTOP)
        try:
            arena.until(lambda: state_of(process.pid) == "T", "the server is stopped")
            arena.wait(30)
        finally:
            process.send_signal(signal.SIGCONT)
    arena.note(f"stopped for {30 * arena.scale:.0f} s")


def state_of(pid: int) -> str:
    """A process's state, as proc(5) has it."""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


@row(
    "loop-blocked",
    "the server's event loop blocked for 5 s, three times",
    "the event loop sleeps after the 20th, 80th and 140th command was sent to the init",
    "server",
    short=32,
)
def loop_blocked(arena: Arena) -> None:
    ours = arena.ours
    at = [round(arena.commands * part) for part in (0.1, 0.4, 0.7)]
    arena.server.stop()
    arena.server.start(",".join(f"after_send:block={5 * arena.scale}@{n}" for n in at))
    arena.drive(arena.traffic.commands(arena.commands, sleep_s=0.2), workers=32)
    blocked = ours.server.log.read_text().count("place=after_send")
    assert blocked == len(at), f"the loop was blocked {blocked} times"
    arena.note(f"blocked {blocked} times")


@row(
    "fd-exhaustion",
    "the server out of file descriptors for 10 s",
    "the limit of its process lowered to what it has open and four more (prlimit), while connections and commands come",
    "server",
    allows=("not run",),
)
def fd_exhaustion(arena: Arena) -> None:
    arena.ours.on_undelivered = "redeliver"
    arena.drive([arena.traffic.command()])
    process = arena.server.process
    assert process is not None
    limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    before = arena.traffic.commands(arena.commands // 2, sleep_s=1.0, lines=100)
    during = arena.traffic.commands(arena.commands - len(before), sleep_s=0.2)
    with arena.meanwhile(before, workers=len(before)):
        until_running(arena, before)
        most = len(open_descriptors(process.pid)) + 4
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, limits[1]))
        with ExitStack() as idle, arena.meanwhile(during, workers=len(during)):

            def crowded() -> bool:
                """A server that starts itself again for want of descriptors loses its connections: more have to come."""
                with suppress(ConnectionRefusedError):
                    for _ in range(10):
                        idle.enter_context(socket.create_connection(("127.0.0.1", arena.server.port)))
                return open_descriptors(process.pid) >= set(range(most))

            arena.until(crowded, "the server has no descriptor left")
            arena.wait(10)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
    assert process.poll() is None, "the server ended"
    arena.note(f"{most} descriptors, all taken")


def open_descriptors(pid: int) -> set[int]:
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}


@row(
    "client-sigkill",
    "the client killed, and a new one that sends the same ids",
    "SIGKILL to the client's process while its commands are under way; another client posts the same ids under the same epoch",
    "server",
)
def client_sigkill(arena: Arena) -> None:
    ours, width = arena.ours, 16
    kills = interrupted = 0
    while len(arena.calls) < arena.commands:
        commands = arena.traffic.commands(width, sleep_s=arena.rng.choice([0.0, 0.5]), lines=200)
        ids = {command.name: new_id() for command in commands}
        worker = Worker(ours, arena.client_log)
        with ThreadPoolExecutor(width) as pool:
            sent = [pool.submit(worker.run, command, ids[command.name]) for command in commands]
            until_running(arena, commands, arena.rng.randint(1, width))
            worker.kill()
            kills += 1
            interrupted += sum(each.result().returncode is None for each in sent)
        arena.drive(commands, workers=width, run=under_ids(arena, ids))
    assert interrupted, "every command was over before its client was killed"
    arena.note(f"{kills} clients killed, {interrupted} of their commands under way")


def under_ids(arena: Arena, ids: dict[str, str]) -> Callable[[Command], Call]:
    """Runs each command under its id."""
    return lambda command: arena.ours.run(command, id=ids[command.name])


@row(
    "lease-over",
    "the client gone for good: its lease runs out",
    "SIGKILL to the client's process, which alone renews its lease; its commands' own timeouts are longer than the lease",
    "server",
)
def lease_over(arena: Arena) -> None:
    client_gone(arena)


@row(
    "lease-over-sigkill",
    "the client gone for good, the server killed while it removes the sandboxes",
    "as above, and SIGKILL to the server at each durable step of a removal",
    "server",
)
def lease_over_sigkill(arena: Arena) -> None:
    steps = [("after_removing_commit", 1), ("after_container_remove", 1), ("after_removed_commit", 1)]
    client_gone(arena, steps)


def client_gone(arena: Arena, killed_at: list[tuple[str, int]] | None = None) -> None:
    """Sandboxes whose client is killed. A command holds the lease until its own timeout, or is ended by it, as its run chose;
    either way its result can be had, and its sandbox goes. A sandbox whose client lives stays."""
    ours = arena.ours
    arena.fd_slack += 16  # several sandboxes at once fill the pool of connections to the engine
    lease_s, timeout_s = 20.0 * max(arena.scale, 0.1), 30.0 * max(arena.scale, 0.1)
    traffic, each = arena.traffic, (arena.commands + 3) // 4

    def tenant(on_lease_end: str, outcome: str, timeout_s: float, *also: Result) -> tuple[Tenant, dict[str, Command]]:
        halves = []
        script = "echo so far; sleep 100000"
        for _ in range(2):
            for_ever = [traffic.made_of(script, -1, "so far\n", outcome=outcome, also=also) for _ in range(each // 2)]
            halves.append([(new_id(), command) for command in (*traffic.commands(each - len(for_ever), lines=200), *for_ever)])
        made = Tenant(
            ours, arena.client_log, halves, count=arena.count, lease_s=lease_s, timeout_s=timeout_s, on_lease_end=on_lease_end
        )  # fmt: skip
        arena.on_close(made.kill)
        return made, {eid: command for half in halves for eid, command in half}

    waits, its_waiting = tenant("wait", "timed_out", timeout_s)
    # A server that starts gives every lease a full new term, within which a command's own timeout may come first.
    also = (Result(-1, "so far\n", "timed_out"),) if killed_at else ()
    # Its client renews the lease until it is killed: on a busy machine that is long after these commands have begun.
    kills, its_killed = tenant("kill", "cancelled", timeout_s if killed_at else 20 * timeout_s, *also)
    ids = {command.name: eid for eid, command in (its_waiting | its_killed).items()}
    commands = [*its_waiting.values(), *its_killed.values()]
    until_running(arena, commands)
    with ThreadPoolExecutor(1) as pool:
        hurting = pool.submit(kill_at, arena, killed_at) if killed_at else None
        waits.kill()
        kills.kill()
        arena.drive(
            commands,
            workers=len(commands),
            run=lambda command: told(command, lambda: ours.client.execution(ids[command.name]).wait()),
        )
        if hurting is not None:
            arena.note(f"{hurting.result()} kills")
    gone = {*waits.sandboxes, *kills.sandboxes}
    arena.until(lambda: not gone & {sandbox.id for sandbox in ours.client.sandboxes()}, "their sandboxes are gone", 90)
    arena.drive([traffic.command()])  # the sandbox whose client lives is still there
    arena.note(f"{len(gone)} leases ran out")
