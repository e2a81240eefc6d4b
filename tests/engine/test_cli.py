"""`remote-env` as a person runs it: real processes, a real server, real containers."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remote_env import Client, Sandbox
from tests.support.outside import docker, processes, runs, until
from tests.support.server import BUSYBOX, SCRATCH, Server

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
# Whoever runs the tests may have been started with SIGINT ignored, as jobs in the background are.
FROM_A_TERMINAL = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from remote_env.cli.main import main; main()"

Done = subprocess.CompletedProcess[bytes]
Cli = Callable[..., Done]
Spawn = Callable[..., "subprocess.Popen[bytes]"]


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", FROM_A_TERMINAL, *words]


def environ(server: Server) -> dict[str, str]:
    return {**os.environ, **server.env, "REMOTE_ENV_SERVER_DATA_DIR": str(server.data_dir)}


@pytest.fixture
def cli(server: Server) -> Cli:
    """Runs `remote-env WORDS…` against the shared server to its end."""

    def run(*words: str, stdin: bytes = b"") -> Done:
        return subprocess.run(
            command(*words), input=stdin, capture_output=True, env=environ(server), cwd=ROOT, timeout=PATIENCE_S, check=False
        )

    return run


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts `remote-env WORDS…` against a server and leaves it running."""
    started: list[subprocess.Popen[bytes]] = []

    def start(server: Server, *words: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command(*words), stdin=pipe, stdout=pipe, stderr=pipe, env=environ(server), cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def of_run(client: Client, run_id: str) -> Sandbox:
    [sandbox] = client.sandboxes(run_id=run_id)
    return sandbox


def without_notes(stderr: bytes) -> bytes:
    """Without what the client says of a sandbox that takes long to make."""
    return stderr.replace(b"waiting for its turn\n", b"").replace(b"starting the container\n", b"")


def test_run_exits_as_the_command_did_and_leaves_no_container(server: Server, cli: Cli, busybox_image: str) -> None:
    before = server.containers()
    done = cli("run", BUSYBOX, "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, without_notes(done.stderr)) == (7, b"out\n", b"err\n")
    done = cli("run", "--merged", BUSYBOX, "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, without_notes(done.stderr)) == (7, b"out\nerr\n", b"")
    assert server.containers() == before


def test_argv_runs_in_an_image_without_a_shell(cli: Cli, scratch_image: str) -> None:
    done = cli("run", SCRATCH, "--", "/prog", "a b")
    assert done.returncode == 0, done.stderr
    assert b"a b" in done.stdout


def test_output_comes_while_the_command_still_runs(server: Server, cli: Cli, spawn: Spawn, sandbox: Sandbox) -> None:
    process = spawn(server, "exec", sandbox.id, "echo first; until [ -e /go ]; do sleep 0.02; done; echo second")
    assert first_line(process) == b"first\n"
    assert cli("exec", sandbox.id, "touch", "/go").returncode == 0
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (0, b"second\n", b"")


def test_binary_data_passes_through_unchanged(cli: Cli, sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 8192  # 2 MiB, more than an answer holds inline
    done = cli("exec", "-i", sandbox.id, "cat", stdin=data)
    assert (done.returncode, hashlib.sha256(done.stdout).hexdigest()) == (0, hashlib.sha256(data).hexdigest())


def test_timed_out_command_exits_with_124_and_shows_what_it_wrote(cli: Cli, sandbox: Sandbox) -> None:
    done = cli("exec", "--timeout", "0.3s", sandbox.id, "echo before; sleep 600")
    assert (done.returncode, done.stdout) == (124, b"before\n")
    assert len(done.stderr.splitlines()) == 1
    assert processes(sandbox) == ["/.remote-env/init"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["no-such-program"], 127),
        (["/etc/passwd"], 126),
        (["-u", "nobody-of-that-name", "true"], 125),
        (["-w", "/nowhere", "true"], 125),
        (["kill -SEGV $$"], 139),
    ],
)
def test_what_cannot_be_started_or_dies_has_the_exit_code_a_shell_gives_it(cli: Cli, sandbox: Sandbox, words: list[str], code: int) -> None:
    done = cli("exec", sandbox.id, *words)
    assert (done.returncode, done.stdout) == (code, b"")
    assert len(done.stderr.splitlines()) == 1


def test_image_that_is_missing_means_did_not_run(server: Server, cli: Cli) -> None:
    before = server.containers()
    done = cli("run", "--pull", "never", "remote-env/no-such-image", "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"remote-env/no-such-image" in done.stderr
    assert server.containers() == before


def test_ctrl_c_ends_everything_and_leaves_no_container(server: Server, client: Client, spawn: Spawn, busybox_image: str) -> None:
    process = spawn(server, "run", "--run-id", "run-ctrl-c", BUSYBOX, "setsid sleep 600 & echo begun; sleep 600")
    assert first_line(process) == b"begun\n"
    container = of_run(client, "run-ctrl-c").container_id
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert container not in server.containers()
    assert client.sandboxes(run_id="run-ctrl-c") == []


def test_container_that_is_killed_underneath_means_lost(server: Server, client: Client, spawn: Spawn, busybox_image: str) -> None:
    process = spawn(server, "run", "--run-id", "run-killed", BUSYBOX, "echo begun; sleep 600")
    assert first_line(process) == b"begun\n"
    docker("kill", str(of_run(client, "run-killed").container_id))
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 123, err
    assert b"lost" in err


def test_server_that_is_killed_in_the_middle_goes_unnoticed(make_server: Callable[..., Server], spawn: Spawn, busybox_image: str) -> None:
    server = make_server().start()
    with server.client() as client:
        made = client.create_sandbox(BUSYBOX)
        script = "echo ran >> /ran; echo first; until [ -e /go ]; do sleep 0.02; done; echo second; exit 3"
        process = spawn(server, "exec", made.id, script)
        assert first_line(process) == b"first\n"
        server.restart()
        made.run("touch /go")
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out) == (3, b"second\n"), err
        assert runs(made) == {"ran": 1}


def test_gc_removes_at_once_what_a_killed_run_left(server: Server, client: Client, spawn: Spawn, cli: Cli, busybox_image: str) -> None:
    process = spawn(server, "run", "--run-id", "run-crashed", BUSYBOX, "echo begun; sleep 600")
    first_line(process)
    left = of_run(client, "run-crashed")
    process.kill()
    process.wait()
    listed = json.loads(cli("gc", "--json").stdout)["runs"]
    assert [row["sandboxes"] for row in listed if row["run_id"] == "run-crashed"] == [[left.id]]
    done = cli("gc", "--run", "run-crashed")
    assert (done.returncode, done.stdout.decode()) == (0, f"{left.id}\n")
    assert left.container_id not in server.containers()


def test_sandbox_lives_from_create_to_rm(server: Server, cli: Cli, busybox_image: str) -> None:
    created = cli("create", BUSYBOX, "-e", "GREETING=hello", "-m", "64m")
    sandbox = created.stdout.decode().strip()
    try:
        assert cli("exec", sandbox, "echo $GREETING > /kept").returncode == 0
        assert cli("exec", sandbox[:20], "cat", "/kept").stdout == b"hello\n"
        assert sandbox in cli("ps").stdout.decode()
        listed = json.loads(cli("ps", "-x", "--all", "--sandbox", sandbox, "--json").stdout)["executions"]
        assert [each["outcome"]["code"] for each in listed] == [0, 0]
        assert cli("logs", listed[0]["id"]).stdout == b"hello\n"
    finally:
        removed = cli("rm", sandbox)
    assert (removed.returncode, removed.stdout.decode()) == (0, f"{sandbox}\n")
    assert sandbox not in cli("ps").stdout.decode()
    assert cli("exec", sandbox, "true").returncode == 125
    assert cli("logs", listed[0]["id"]).stdout == b"hello\n"  # results outlive their sandbox


def test_kill_ends_a_command_of_another_process(server: Server, cli: Cli, spawn: Spawn, sandbox: Sandbox) -> None:
    process = spawn(server, "exec", sandbox.id, "echo begun; sleep 600")
    first_line(process)
    [running] = json.loads(cli("ps", "-x", "--sandbox", sandbox.id, "--json").stdout)["executions"]
    assert cli("kill", running["id"]).stdout.decode() == f"{running['id']} cancelled\n"
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    until(lambda: processes(sandbox) == ["/.remote-env/init"], "nothing is left")


def test_signal_reaches_the_command(server: Server, cli: Cli, spawn: Spawn, sandbox: Sandbox) -> None:
    process = spawn(server, "exec", sandbox.id, "trap 'echo caught; exit 9' USR1; echo begun; while :; do :; done")
    first_line(process)
    [running] = json.loads(cli("ps", "-x", "--sandbox", sandbox.id, "--json").stdout)["executions"]
    assert cli("kill", "-s", "USR1", running["id"]).returncode == 0
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (9, b"caught\n", b"")


def test_doctor_finds_nothing_wrong_where_all_is_well(server: Server, cli: Cli, busybox_image: str) -> None:
    before = server.containers()
    done = cli("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0, findings
    assert {"engine", "port", "token", "server", "clock", "data directory", "free disk", "sandbox"} <= findings.keys()
    assert findings["sandbox"]["verdict"] == "good"
    assert server.containers() == before


def test_doctor_recognises_a_server_that_is_down(make_server: Callable[..., Server]) -> None:
    server = make_server().start()
    server.stop()
    done = subprocess.run(command("doctor"), capture_output=True, env=environ(server), cwd=ROOT, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert "remote-env serve" in done.stdout.decode()
