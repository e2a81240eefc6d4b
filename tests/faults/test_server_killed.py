"""The server dies by SIGKILL, at any moment; commands do not notice, and nothing runs twice."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from remote_env import Client, CommandNotDelivered, Execution, Sandbox
from tests.support.outside import runs, until
from tests.support.server import BUSYBOX, SMALL, Server

STEPS_OF_A_COMMAND = (
    "before_accept_commit",
    "after_accept_commit",
    "after_send",
    "after_started",
    "before_output_taken",
    "after_output_taken",
    "after_final_commit",
    "after_ack",
)


class Revived:
    """Starts the server again whenever it died."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self.deaths = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            if self._server.process is not None and self._server.process.poll() is not None:
                self.deaths += 1
                self._server.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def own_server(make_server: Callable[..., Server]) -> Server:
    return make_server().start()


def make_sandbox(client: Client) -> Sandbox:
    return client.create_sandbox(BUSYBOX, memory_bytes=SMALL)


@pytest.mark.parametrize("failpoint", STEPS_OF_A_COMMAND)
def test_server_killed_at_failpoint_loses_nothing_and_runs_nothing_twice(failpoint: str, own_server: Server) -> None:
    """Broken: the server is killed at this step of the second command's life, and started again. Must hold: every caller
    gets the true result, and each command ran exactly once."""
    with own_server.client() as client:
        sandbox = make_sandbox(client)
        own_server.stop()
        own_server.start(f"{failpoint}:kill@2")
        revived = Revived(own_server)
        try:
            results = [sandbox.run(f"echo c{n} >> /ran; seq 1 2000; exit {n}", on_undelivered="redeliver") for n in range(4)]
        finally:
            revived.close()
        assert revived.deaths == 1, "the failpoint was not reached: nothing was tested"
        expected = "".join(f"{n}\n" for n in range(1, 2001))
        assert [(each.returncode, each.text) for each in results] == [(n, expected) for n in range(4)]
        assert runs(sandbox) == Counter({f"c{n}": 1 for n in range(4)}), "broke At-most-once"


@pytest.mark.parametrize("failpoint", ["before_cancel_commit", "after_cancel_commit"])
def test_server_killed_while_it_cancels_ends_the_command_all_the_same(failpoint: str, own_server: Server) -> None:
    """Broken: killed before, or just after, the cancel is committed. Must hold: a repeated cancel ends the command; nothing
    of it is left."""
    with own_server.client() as client:
        sandbox = make_sandbox(client)
        own_server.stop()
        own_server.start(f"{failpoint}:kill")
        revived = Revived(own_server)
        try:
            execution = sandbox.start("echo c >> /ran; exec sleep 1000")
            until(lambda: runs(sandbox) == Counter(c=1), "the command runs")
            execution.cancel()
            execution.wait()
        finally:
            revived.close()
        assert revived.deaths == 1
        assert execution.outcome is not None
        assert execution.outcome.kind == "cancelled"
        assert runs(sandbox) == Counter(c=1)


@pytest.mark.parametrize("failpoint", ["after_hello_read", "after_hello_reconciled", "before_socket_rename"])
def test_server_killed_in_the_middle_of_a_hello_takes_the_next_one(failpoint: str, own_server: Server) -> None:
    """Broken: the server dies while it takes up its sandboxes after an earlier death. Must hold: the command that ran all the
    while ends with its whole output."""
    with own_server.client() as client:
        sandbox = make_sandbox(client)
        execution = sandbox.start("echo c >> /ran; for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done; exit 7")
        until(lambda: runs(sandbox) == Counter(c=1), "the command runs")
        own_server.kill()
        own_server.spawn(f"{failpoint}:kill").wait(timeout=30)
        own_server.start()
        execution.wait()
        assert (execution.returncode, execution.text) == (7, "".join(f"{n}\n" for n in range(1, 9)))
        assert runs(sandbox) == Counter(c=1)


@pytest.mark.parametrize(
    "failpoint", ["after_sandbox_commit", "before_container_start", "after_container_start", "after_incarnation_commit"]
)
def test_server_killed_while_it_makes_a_sandbox_leaves_no_container_behind(failpoint: str, own_server: Server) -> None:
    """Broken: killed at a step of a sandbox's creation. Must hold: the caller gets a working sandbox or a clear error, and
    after its removal the engine has no container of ours."""
    own_server.stop()
    own_server.start(f"{failpoint}:kill")
    revived = Revived(own_server)
    try:
        with own_server.client() as client:
            sandbox = make_sandbox(client)
            assert sandbox.run("echo c >> /ran; exit 3").returncode == 3
            assert runs(sandbox) == Counter(c=1)
            sandbox.remove()
            until(lambda: own_server.containers() == [], "every container of this server is gone")
    finally:
        revived.close()
    assert revived.deaths == 1


@pytest.mark.parametrize("failpoint", ["after_removing_commit", "after_container_remove", "after_removed_commit"])
def test_server_killed_while_it_removes_a_sandbox_removes_it_in_its_next_life(failpoint: str, own_server: Server) -> None:
    """Broken: killed at a step of a removal, with a command under way. Must hold: the container goes, the command has an
    end, and the caller of remove() is not bothered."""
    own_server.stop()
    own_server.start(f"{failpoint}:kill")
    revived = Revived(own_server)
    try:
        with own_server.client() as client:
            sandbox = make_sandbox(client)
            execution = sandbox.start("exec sleep 1000")
            sandbox.remove()
            execution.wait()
            assert execution.outcome is not None
            assert (execution.outcome.kind, execution.outcome.reason) in (("cancelled", "sandbox_removed"), ("lost", "sandbox_removed"))
            until(lambda: own_server.containers() == [], "every container of this server is gone")
    finally:
        revived.close()
    assert revived.deaths == 1


def test_a_hundred_random_kills_under_five_hundred_commands(own_server: Server) -> None:
    """Broken: the server is killed 100 times at random moments while 8 callers run commands. Must hold: every caller gets
    the true result of every command, and each ran exactly once (P1, P2, P4)."""
    seed, kills, commands = 20, 100, 500
    rng = random.Random(seed)
    with own_server.client() as client:
        sandboxes = [make_sandbox(client) for _ in range(4)]
        done = threading.Event()
        killed = 0

        def kill_again_and_again() -> int:
            nonlocal killed
            while killed < kills and not done.is_set():
                done.wait(rng.uniform(0.0, 0.15))
                own_server.restart()
                killed += 1
            return killed

        def command(n: int) -> tuple[int, Execution]:
            # Half of them are over at once, half take about as long as a server lives here.
            pause = 0 if n % 2 else 0.2 + (n % 7) / 5
            run = f"echo c{n} >> /ran; echo begin {n}; sleep {pause}; seq 1 {n}; exit {n % 256}"
            while True:
                try:
                    return n, sandboxes[n % 4].run(run)
                except CommandNotDelivered:
                    continue  # it did not run and never will (P3): the count below would tell

        with ThreadPoolExecutor(9) as pool:
            killer = pool.submit(kill_again_and_again)
            results = list(pool.map(command, range(commands)))
            killer.result() if killed < kills else None
        for n, execution in results:
            expected = f"begin {n}\n" + "".join(f"{i}\n" for i in range(1, n + 1))
            assert (execution.returncode, execution.text) == (n % 256, expected), (
                f"broke Never-lost (seed {seed}): c{n}: {execution.outcome}"
            )
        for k, sandbox in enumerate(sandboxes):
            expected_runs = Counter({f"c{n}": 1 for n in range(commands) if n % 4 == k})
            assert runs(sandbox) == expected_runs, f"broke At-most-once (seed {seed})"
        assert killed == kills, f"only {killed} kills: not all was tested"
