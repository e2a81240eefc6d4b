"""What a command gets, and what is said of how it ended. For root: other users than the caller's are needed."""

from __future__ import annotations

import errno
import grp
import hashlib
import os
import pwd
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from server.messages import Cause, EndingFlag, EndingKind, RunFlag, Stage
from tests.init.followed import Execution
from tests.init.harness import Init, Server, memory_file


def failure(execution: Execution) -> tuple[Stage, int]:
    """(stage, errno) of a command that could not be started."""
    assert execution.ended is not None
    ending = execution.ended.ending
    assert ending.kind is EndingKind.FAILED_TO_START
    return ending.stage, ending.status


# ------------------------------------------------------------------------------------------------------- statuses


def test_every_exit_code_is_told_exactly(server: Server) -> None:
    runs = [server.run(f"exit {code}") for code in range(256)]
    assert [server.finished(run).exit_code for run in runs] == list(range(256))


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1, signal.SIGPIPE])
def test_death_by_a_signal_is_told_as_that_signal(server: Server, signum: signal.Signals) -> None:
    run = server.do(f"kill -{signum.value} $$")
    assert run.exit_code == -signum
    assert run.ended is not None
    assert run.ended.ending.cause is Cause.NONE
    assert not run.ended.ending.flags & EndingFlag.KILLED_BY_US


def test_output_of_both_streams_comes_in_the_order_written(server: Server) -> None:
    assert server.do("echo one; echo two >&2; echo three").text == "one\ntwo\nthree\n"


def test_binary_output_comes_byte_for_byte(server: Server) -> None:
    run = server.do(["python3", "-c", "import os, sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"])
    assert bytes(run.output) == bytes(range(256)) * 1000


def test_cpu_time_and_peak_memory_are_reported(server: Server) -> None:
    code = "b = bytearray(64 << 20)\nimport time\nwhile time.process_time() < 0.1: pass"
    run = server.do(["python3", "-c", code])
    assert run.ended is not None
    ending = run.ended.ending
    assert ending.cpu_us >= 100_000
    assert ending.max_rss_bytes >= 64 << 20
    assert 0 < ending.started_ns < ending.ended_ns


def test_alone_is_said_of_a_command_only_if_no_other_overlapped(server: Server) -> None:
    alone = server.do("true")
    first = server.run("read line", stdin=(ends := os.pipe())[0])
    second = server.do("true")
    os.close(ends[0])
    os.close(ends[1])
    server.finished(first)
    flags = [run.ended.ending.flags & EndingFlag.ALONE for run in (alone, first, second) if run.ended]
    assert flags == [EndingFlag.ALONE, 0, 0]


# ----------------------------------------------------------------------------------------------------------- users


@pytest.mark.parametrize("spec", ["nobody", "65534", "nobody:", "65534:65534", "nobody:nogroup"])
@pytest.mark.usefixtures("as_root")
def test_user_is_found_by_name_and_number(server: Server, spec: str) -> None:
    assert server.do("id -u; id -g", user=spec).text == "65534\n65534\n"


@pytest.mark.usefixtures("as_root")
def test_group_is_taken_by_name_and_number_and_then_is_the_only_one(server: Server) -> None:
    daemon = grp.getgrnam("daemon").gr_gid
    assert server.do("id -u; id -G", user="nobody:daemon").text == f"65534\n{daemon}\n"
    assert server.do("id -u; id -G", user="0:4242").text == "0\n4242\n"


@pytest.mark.usefixtures("as_root")
def test_number_without_an_entry_has_group_0_and_home_slash(server: Server) -> None:
    assert server.do("id -u; id -g; echo $HOME", user="54321").text == "54321\n0\n/\n"


@pytest.mark.usefixtures("as_root")
def test_empty_user_is_root(server: Server) -> None:
    assert server.do("id -u; id -g; echo $HOME", user="0").text == server.do("id -u; id -g; echo $HOME").text


@pytest.mark.parametrize("spec", ["no-such-user", "root:no-such-group", "4294967296", "-1", "0:-1", "x" * 300, "0:" + "x" * 2000])
def test_unknown_user_or_group_fails_at_its_stage(server: Server, spec: str) -> None:
    stage, error = failure(server.do("true", user=spec))
    assert stage is Stage.USER
    assert error in (errno.ENOENT, errno.ENAMETOOLONG)


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_dev_stdout_and_dev_stderr_can_be_opened_by_the_command_s_user(server: Server, user: str) -> None:
    assert server.do("echo one > /dev/stdout; echo two > /dev/stderr; echo three | tee /dev/stderr > /dev/null", user=user).text == (
        "one\ntwo\nthree\n"
    )


# --------------------------------------------------------------------------------------------- working directory


def test_command_runs_in_its_working_directory(init: Init) -> None:
    assert init.server.do("pwd", workdir=str(init.directory)).text == f"{init.directory}\n"
    assert init.server.do("pwd", workdir="").text == "/\n"


def test_missing_working_directory_fails_at_its_stage(init: Init) -> None:
    server, missing = init.server, init.directory / "a" / "b"
    assert failure(server.do("pwd", workdir=str(missing))) == (Stage.WORKDIR, errno.ENOENT)
    assert failure(server.do("pwd", workdir="/etc/passwd")) == (Stage.WORKDIR, errno.ENOTDIR)
    assert failure(server.do("pwd", workdir="/" + "x" * 5000)) == (Stage.WORKDIR, errno.ENAMETOOLONG)
    assert not missing.parent.exists()


@pytest.mark.usefixtures("as_root")
def test_missing_working_directory_is_made_on_request_as_the_user(init: Init) -> None:
    wanted = init.directory / "a" / "b"
    run = init.server.do("pwd", workdir=str(wanted), user="nobody", flags=RunFlag.MAKE_WORKDIR)
    assert run.text == f"{wanted}\n"
    assert [wanted.stat().st_uid, wanted.parent.stat().st_uid] == [65534, 65534]
    assert wanted.stat().st_mode & 0o777 == 0o755
    refused = init.server.do("pwd", workdir="/root/not-for-nobody", user="nobody", flags=RunFlag.MAKE_WORKDIR)
    assert failure(refused) == (Stage.WORKDIR, errno.EACCES)


# ----------------------------------------------------------------------------------------------------- environment


def environment(run: Execution) -> dict[str, str]:
    return dict(line.split("=", 1) for line in run.text.splitlines())


def test_environment_is_the_image_s_then_the_request_s_then_home_and_path(server: Server) -> None:
    env = environment(server.do(["env"], env={"A": "1", "FROM_IMAGE": "no", "EMPTY": ""}))
    assert env["A"] == "1"
    assert env["FROM_IMAGE"] == "no"
    assert env["EMPTY"] == ""
    assert env["HOME"] == pwd.getpwuid(os.geteuid()).pw_dir
    assert set(env) == {"A", "FROM_IMAGE", "EMPTY", "HOME", "PATH"}


@pytest.mark.usefixtures("as_root")
def test_home_is_the_user_s_unless_the_request_has_one(server: Server) -> None:
    assert server.do("echo $HOME", user="daemon").text == pwd.getpwnam("daemon").pw_dir + "\n"
    assert server.do("echo $HOME", user="daemon", env={"HOME": "/elsewhere"}).text == "/elsewhere\n"


def test_keep_home_keeps_the_image_s(start_init: Callable[..., Init], sanitized_binary: Path) -> None:
    server = start_init(sanitized_binary, "--keep-home").server
    server.connect()
    assert server.do("echo $HOME").text == "/from/image\n"


def test_program_is_looked_for_in_the_command_s_own_path(init: Init) -> None:
    tool = init.directory / "only-here"
    tool.write_text("#!/bin/sh\necho found in $PATH\n")
    tool.chmod(0o755)
    run = init.server.do(["only-here"], env={"PATH": f"/no/such/place:{init.directory}"})
    assert run.text == f"found in /no/such/place:{init.directory}\n"


# ----------------------------------------------------------------------------------------- descriptors and limits


@pytest.mark.parametrize("with_stdin", [False, True])
def test_command_sees_three_descriptors_and_nothing_else(server: Server, with_stdin: bool) -> None:
    others = [server.run("sleep 100") for _ in range(3)]
    stdin = memory_file(b"") if with_stdin else None
    run = server.do(["python3", "-c", "import os; print(sorted(os.listdir('/proc/self/fd'), key=int))"], stdin=stdin)
    assert run.text == "['0', '1', '2', '3']\n"  # 3 is listdir's own
    if stdin is not None:
        os.close(stdin)
    for other in others:
        server.kill(other)
        server.finished(other)


def test_stdin_is_dev_null_unless_given(server: Server) -> None:
    assert server.do("readlink /proc/self/fd/0; cat | wc -c").text.split() == ["/dev/null", "0"]


def test_stdin_is_given_byte_for_byte(server: Server) -> None:
    content = os.urandom(300_000).replace(b"\0", b"\1") + b"\0end"
    fd = memory_file(content)
    run = server.do(["cat"], stdin=fd)
    os.close(fd)
    assert bytes(run.output) == content


def test_signals_are_as_a_program_expects_them(server: Server) -> None:
    code = (
        "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []), "
        "[s for s in range(1, 65) if s not in (9, 19, 32, 33) and s in signal.valid_signals() and signal.getsignal(s) is signal.SIG_IGN])"
    )
    # python itself ignores SIGPIPE and SIGXFSZ
    assert server.do(["python3", "-c", code]).text == f"set() [{signal.SIGPIPE.value}, {signal.SIGXFSZ.value}]\n"


def test_command_has_a_session_of_its_own_and_the_limits_of_the_engine(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert server.do("ulimit -Sn; ulimit -Hn; umask").text.split() == [str(soft), str(hard), "0022"]
    code = "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid())"
    assert server.do(["python3", "-c", code]).text == "True\n"


@pytest.mark.usefixtures("as_root")
def test_command_is_more_likely_to_be_taken_by_the_oom_killer_than_the_init(init: Init) -> None:
    own = int(Path(f"/proc/{init.pid}/oom_score_adj").read_text())
    assert int(init.server.do(["cat", "/proc/self/oom_score_adj"]).text) == min(own + 500, 1000)


# --------------------------------------------------------------------------------------------------------- programs


def test_argv_runs_without_a_shell(server: Server) -> None:
    odd = ["", " ", "$HOME", "'\"", "a\nb", "*"]
    code = "import sys; print(sys.argv[1:])"
    assert server.do(["python3", "-c", code, *odd]).text == f"{odd}\n"


def test_missing_program_is_told_by_errno(server: Server) -> None:
    for name in ("no-such-program", "/no/such/program", ""):
        assert failure(server.do([name])) == (Stage.EXEC, errno.ENOENT)


def test_what_cannot_be_executed_is_told_by_errno(init: Init) -> None:
    file = init.directory / "file"
    file.write_text("no header\n")
    assert failure(init.server.do([str(file)])) == (Stage.EXEC, errno.EACCES)
    assert failure(init.server.do(["file"], env={"PATH": str(init.directory)})) == (Stage.EXEC, errno.EACCES)
    file.chmod(0o755)
    assert failure(init.server.do([str(file)])) == (Stage.EXEC, errno.ENOEXEC)
    assert failure(init.server.do([str(init.directory)])) == (Stage.EXEC, errno.EACCES)


def test_too_long_an_argument_is_told_by_errno(server: Server) -> None:
    assert failure(server.do(["true", "x" * (1 << 20)])) == (Stage.EXEC, errno.E2BIG)


def test_shell_falls_back_on_sh_where_the_image_has_none_of_that_name(server: Server) -> None:
    run = server.do(["no-such-shell", "-c", "echo $0 $1", "zero", "one"], flags=RunFlag.SHELL)
    assert (run.text, run.exit_code) == ("zero one\n", 0)
    assert server.do(["no-such-shell", "-c", "echo here"], flags=RunFlag.SHELL, env={"PATH": "/nowhere"}).text == "here\n"
    assert failure(server.do(["no-such-shell", "-c", "true"])) == (Stage.EXEC, errno.ENOENT)


def test_request_without_an_argument_is_an_ending(server: Server) -> None:
    assert failure(server.do([])) == (Stage.REQUEST, errno.EINVAL)


def test_promised_stdin_that_did_not_come_is_an_ending(server: Server) -> None:
    assert failure(server.do("true", flags=RunFlag.STDIN)) == (Stage.STDIN, errno.EBADF)


def test_large_request_comes_whole(server: Server) -> None:
    arguments = [str(i) * 20 for i in range(20_000)]
    code = "import sys, hashlib; print(hashlib.sha256('\\n'.join(sys.argv[1:]).encode()).hexdigest())"
    run = server.do(["python3", "-c", code, *arguments])
    assert run.text.strip() == hashlib.sha256("\n".join(arguments).encode()).hexdigest()


def test_small_request_may_come_as_a_large_one_with_stdin_behind_it(server: Server) -> None:
    fd = memory_file(b"given")
    assert server.do(["cat"], large=True, stdin=fd).text == "given"
    os.close(fd)
