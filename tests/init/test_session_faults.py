"""Sessions in which something goes wrong; commands and standard input of any length."""

from __future__ import annotations

import errno
import signal

import pytest

from server.messages import RunFlag, Stage
from tests.init.harness import Init, Server
from tests.init.sessions import Session, failure

# ------------------------------------------------------------------------------------------------ hostile, and crashes


HOSTILE = """
import os, sys
shell, word = os.getppid(), sys.argv[1]
own = {os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)}
for fd in os.listdir(f"/proc/{shell}/fd"):
    path = f"/proc/{shell}/fd/{fd}"
    if os.readlink(path).startswith("pipe:") and os.readlink(path) not in own:
        if os.lstat(path).st_mode & 0o200:
            os.write(os.open(path, os.O_WRONLY), word.encode() + b"\\n")
"""


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("word", ["nonsense", "99 0x", "-1 0", "3", "2 256", "x" * 200])
def test_word_out_of_place_costs_its_session_alone(server: Server, word: str) -> None:
    victim, other = Session(server), Session(server)
    run = victim.do(f"python3 -c '{HOSTILE}' '{word}'; sleep 1000")
    assert run.exit_code == -signal.SIGKILL
    server.finished(victim.shell)
    assert other.told("echo unharmed") == ("unharmed\n", 0)


def test_new_server_finds_session_and_command_with_their_read_ends(init: Init) -> None:
    server = init.server
    session = Session(server)
    session.do("x=kept")
    run = session.run("echo before; sleep 0.3; echo after; (exit 6)")
    server.output_of(run, "before")
    server.die()
    hello = server.connect()
    assert {entry.id for entry in hello.entries} == {session.shell.id, run.id}
    assert hello.pipes == 2
    server.finished(run)
    assert run.text.endswith("after\n")
    assert run.exit_code == 6
    assert session.told("echo $x $?") == ("kept 6\n", 0)


def test_session_keeps_its_read_end_whatever_its_commands_acks(init: Init) -> None:
    server = init.server
    session = Session(server)
    for _ in range(3):
        session.do("true")
    server.hang_up()
    assert server.connect().pipes == 1
    assert session.told("echo on") == ("on\n", 0)


def test_runner_killed_from_inside_costs_its_session_alone(bash: Session, init: Init) -> None:
    other = Session(bash.server)
    done = bash.do("kill -9 $PPID; sleep 1000")
    assert done.exit_code == -signal.SIGKILL
    bash.server.finished(bash.shell)
    assert other.told("echo unharmed") == ("unharmed\n", 0)


# ------------------------------------------------------------------------------- long commands, standard input by path


def test_script_longer_than_an_argument_runs_with_its_own_line_numbers(server: Server) -> None:
    command = "#" * 200_000 + '\necho "$0" "$#"; ls /proc/self/fd; nosuchprogram-$((1 + 1))\nexit 7'
    done = server.do(["bash", "-c", command], flags=RunFlag.SCRIPT | RunFlag.SHELL)
    assert done.exit_code == 7
    assert done.text.startswith("bash 0\n0\n1\n2\n3\n")
    assert "line 2: nosuchprogram-2" in done.text


def test_standard_input_is_a_file_of_the_sandbox_opened_and_removed(init: Init) -> None:
    file = init.directory / "input"
    file.write_bytes(b"\0content")
    done = init.server.do(["cat"], stdin_path=str(file))
    assert bytes(done.output) == b"\0content"
    assert file.exists()
    assert bytes(init.server.do(["cat"], stdin_path=str(file), flags=RunFlag.UNLINK_STDIN).output) == b"\0content"
    assert not file.exists()
    assert failure(init.server.do(["cat"], stdin_path=str(file))) == (Stage.STDIN, errno.ENOENT)


@pytest.mark.usefixtures("as_root")
def test_standard_input_is_opened_with_the_user_s_permissions(init: Init) -> None:
    file = init.directory / "secret"
    file.write_text("for root")
    file.chmod(0o600)
    assert failure(init.server.do(["cat"], stdin_path=str(file), user="nobody")) == (Stage.STDIN, errno.EACCES)
