"""What a process in a sandbox can reach of the init, the link and the server, and what a stranger gets over HTTP."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from remote_env import Sandbox
from remote_env.protocol import new_id
from tests.engine.conftest import Http
from tests.support.outside import docker, processes, until
from tests.support.server import BUSYBOX, SANDBOX, SMALL, Server

PEEK = """
import ctypes, os, sys
pid = os.environ["TARGET"]
opened = []
for name in ("environ", "mem", "maps", "auxv", "io", "stack", "personality", "syscall"):
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            if name == "mem" or file.read(1):
                opened.append(name)
    except OSError:
        pass
for name in ("exe", "cwd", "root", *(f"fd/{number}" for number in range(32))):
    try:
        opened.append((name, os.readlink(f"/proc/{pid}/{name}")))
    except OSError:
        pass
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(0x4206, int(pid), None, None) == 0:  # PTRACE_SEIZE, which stops nobody
    opened.append("ptrace")
if libc.syscall(438, libc.syscall(434, int(pid), 0), 0, 0) >= 0:
    opened.append("pidfd_getfd")
print(opened)
"""

STRANGER = """
import os, socket, struct
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.settimeout(20)
sock.connect("/.remote-env/server.sock")
body = struct.pack("<I16s16sQII", 1, bytes(16), bytes(16), 0, 0, 0)
sock.send(struct.pack("<BBHI", 64, 0, 0, len(body)) + body)
try:
    print("answer", sock.recv(65536))
except OSError as error:
    print("error", error)
"""


@pytest.mark.parametrize("target", ["1", "PPID"])
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_memory_and_descriptors_of_init_and_runner_cannot_be_reached(debian: Sandbox, target: str, user: str) -> None:
    command = f'TARGET={"1" if target == "1" else "$PPID"} python3 -c "$PEEK"'
    execution = debian.run(command, env={"PEEK": PEEK}, user=user)
    assert (execution.text, execution.returncode) == ("[]\n", 0)


def test_peek_finds_what_it_looks_for_where_it_may(debian: Sandbox) -> None:
    execution = debian.run('TARGET=$$ python3 -c "$PEEK"; :', env={"PEEK": PEEK})
    assert "environ" in execution.text and "exe" in execution.text


@pytest.mark.parametrize("name", ["KILL", "TERM", "INT", "QUIT", "STOP", "TSTP", "HUP", "USR1", "SEGV", "PIPE", "CHLD"])
def test_init_takes_no_signal_from_inside(shared: Sandbox, name: str) -> None:
    bystander = shared.start(["sleep", "300"], grace_s=0)
    epoch = shared.epoch
    assert shared.run(f"kill -{name} 1").returncode == 0
    assert shared.run("echo lives").text == "lives\n"
    assert not bystander.refresh().over
    assert (shared.refresh().record.state, shared.epoch) == ("running", epoch)
    bystander.cancel().wait()


def test_init_obeys_the_engines_stop(make_server: Callable[..., Server]) -> None:
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        sandbox.start("trap '' TERM; sleep 300")
        server.kill()  # else it would remove the container at once
        docker("stop", "-t", "60", str(sandbox.container_id))
        # 137 would be the engine's SIGKILL.
        assert docker("inspect", "-f", "{{.State.Running}} {{.State.ExitCode}}", str(sandbox.container_id)) == "false 0\n"


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_stranger_on_the_socket_is_refused_and_the_link_is_unharmed(server: Server, debian: Sandbox, user: str) -> None:
    running = debian.start("echo begun; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo done")
    epoch = debian.epoch
    before = server.log.read_text().count("a stranger on the link")
    said = debian.run(["python3", "-c", STRANGER], user=user).text
    # It is cut off before, or while, it says its first word; whoever it is.
    assert any(words in said for words in ("answer b''", "Connection reset", "Broken pipe"))
    until(lambda: server.log.read_text().count("a stranger on the link") > before, "the log tells of it")
    debian.run("touch /tmp/go")
    assert running.wait().text == "begun\ndone\n"
    debian.run("rm /tmp/go")
    assert (debian.refresh().record.state, debian.epoch) == ("running", epoch)


def test_strangers_that_say_nothing_keep_no_command_waiting(debian: Sandbox) -> None:
    crowd = "import socket, time\nall = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(64)]\n" + (
        "for each in all: each.connect('/.remote-env/server.sock')\nprint('crowded', flush=True)\ntime.sleep(300)"
    )
    execution = debian.start(["python3", "-c", crowd], grace_s=0)
    until(lambda: execution.refresh().record.output.total_bytes > 0, "all are connected")
    assert debian.run("echo works").text == "works\n"
    execution.cancel().wait()


def test_mount_of_init_and_socket_is_read_only(sandbox: Sandbox) -> None:
    attempts = (
        "touch /.remote-env/new", "rm /.remote-env/server.sock", "rm /.remote-env/init", "echo x >> /.remote-env/init",
        "mv /.remote-env/init /.remote-env/other", "chmod 777 /.remote-env/init", "mount -o remount,rw /.remote-env",
        "umount /.remote-env", "mknod /dev/sda b 8 0",
    )  # fmt: skip
    for attempt in attempts:
        assert sandbox.run(f"({attempt}) 2>/dev/null && echo done || echo refused").text == "refused\n", attempt
    assert sandbox.run("ls /.remote-env").text.split() == ["init", "server.sock"]


def test_sandbox_sees_no_process_of_the_host(sandbox: Sandbox) -> None:
    seen = sandbox.run("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null; echo; done").text.splitlines()
    assert {line.split()[0] for line in seen if line.split()} <= {"/.remote-env/init", "sh", "tr"}


def test_result_cannot_be_forged_by_who_runs_beside(sandbox: Sandbox) -> None:
    execution = sandbox.start("echo true; while [ ! -e /go ]; do sleep 0.02; done; exit 3")
    until(lambda: execution.refresh().record.output.total_bytes > 0, "it runs")
    # A command of another user beside it can neither write to its pipe nor end it.
    forger = "for f in /proc/[0-9]*/fd/1; do echo forged > $f; done; for p in /proc/[0-9]*; do kill -9 ${p#/proc/}; done"
    sandbox.run(f"({forger}) 2>/dev/null", user="nobody")
    sandbox.run("touch /go")
    assert (execution.wait().text, execution.returncode) == ("true\n", 3)


# --------------------------------------------------------------------------------------------------------------- HTTP


def test_data_directory_is_the_servers_alone(server: Server) -> None:
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
    for name in ("token", "journal.sqlite3", "spec_key", "instance_id"):
        assert stat.S_IMODE((server.data_dir / name).stat().st_mode) & 0o077 == 0, name


def test_token_is_in_no_command_line_and_no_log(server: Server, http: Http) -> None:
    assert http("GET", "/v1/sandboxes").status_code == 200
    assert server.token not in Path(f"/proc/{server.pid}/cmdline").read_text()
    assert server.token not in server.log.read_text()


@pytest.mark.parametrize("path", ["/v1/sandboxes", "/v1/executions", "/metrics", "/docs", "/openapi.json"])
@pytest.mark.parametrize("token", [None, "", "Bearer", "Bearer wrong", "Basic dXNlcjpwdw=="])
def test_nothing_is_told_without_the_token(server: Server, path: str, token: str | None) -> None:
    answer = requests.get(server.url + path, headers={} if token is None else {"Authorization": token}, timeout=30)
    assert (answer.status_code, answer.json()["code"], answer.json()["accepted"]) == (401, "unauthorized", False)


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://127.0.0.1"}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": "evil.example:9527"}]
)
def test_web_pages_are_refused_even_with_the_token(http: Http, headers: dict[str, str]) -> None:
    answer = http("GET", "/v1/sandboxes", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("name", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "A" * 10, "short", "x" * 65, "%00" * 8])
def test_what_is_no_id_reaches_no_file(http: Http, name: str) -> None:
    for path in (f"/v1/executions/{name}", f"/v1/executions/{name}/output", f"/v1/sandboxes/{name}"):
        assert http("GET", path, epoch="epoch").status_code in (404, 422)


# ------------------------------------------------------------------------------------------------------------ secrets


def holders(directory: Path, secret: bytes) -> list[str]:
    """The files below a directory that hold the secret."""
    found = []
    for path in directory.rglob("*"):
        try:
            if path.is_file() and secret in path.read_bytes():
                found.append(path.name)
        except FileNotFoundError:
            continue  # removed while we looked
    return found


def test_secrets_leave_the_data_directory_once_the_command_has_started(make_server: Callable[..., Server]) -> None:
    server = make_server("--sweep-every", "500ms", "--log-level", "debug").start()
    secrets = [b"secret-of-the-environment", b"secret-of-the-input", b"secret-of-the-sandbox"]
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL, env={"OWN": secrets[2].decode()})
        execution = sandbox.start(
            "cat > /taken; echo ${#KEY} ${#OWN}; while [ ! -e /go ]; do sleep 0.02; done",
            env={"KEY": secrets[0].decode()}, stdin=secrets[1],
        )  # fmt: skip
        until(lambda: execution.refresh().record.output.total_bytes > 0, "it has begun")
        for secret in secrets:
            until(lambda secret=secret: holders(server.data_dir, secret) == [], f"{secret!r} is wiped")  # type: ignore[misc]
            assert secret not in server.log.read_bytes()
        sandbox.run("touch /go")
        assert execution.wait().text == f"{len(secrets[0])} {len(secrets[2])}\n"
        for secret in secrets:
            assert holders(server.data_dir, secret) == []


def test_secrets_that_are_wiped_still_tell_one_request_from_another(http: Http, sandbox: Sandbox) -> None:
    eid, path = new_id(), f"/v1/sandboxes/{sandbox.id}/executions"
    spec = {"id": eid, "command": "echo ran >> /ran", "env": {"KEY": "first"}}
    assert http("POST", path, epoch=sandbox.epoch, wait=20, json=spec).status_code == 201
    assert http("POST", path, epoch=sandbox.epoch, json=spec).status_code == 200
    other = http("POST", path, epoch=sandbox.epoch, json={**spec, "env": {"KEY": "other"}})
    assert (other.status_code, other.json()["code"]) == (422, "id_conflict")
    assert docker("exec", str(sandbox.container_id), "cat", "/ran") == "ran\n"


def test_sandbox_of_the_default_image_runs_no_process_of_ours_but_the_init(make_server: Callable[..., Server]) -> None:
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(SANDBOX, memory_bytes=SMALL)
        sandbox.run("true")
        assert processes(sandbox) == ["/.remote-env/init"]
