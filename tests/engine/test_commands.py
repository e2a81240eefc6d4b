"""What a command finds when it runs: its shell, arguments, environment, input, descriptors, and others beside it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from remote_env import Client, Sandbox
from tests.engine.conftest import MakeSandbox
from tests.support.outside import docker, processes, until
from tests.support.server import NONROOT, SCRATCH

ARGV_TOTAL = 600 << 10  # bytes; far beyond one packet of the link, below the kernel's limit


def test_command_string_is_run_by_bash_where_the_image_has_it(debian: Sandbox) -> None:
    assert debian.run("echo ${BASH_VERSION:-none}").text != "none\n"


def test_command_string_is_run_by_sh_where_the_image_has_no_bash(shared: Sandbox) -> None:
    assert shared.run("echo ${BASH_VERSION:-none} $0").text == "none sh\n"


def test_shell_can_be_chosen(debian: Sandbox) -> None:
    assert debian.run("echo ${BASH_VERSION:-none}", shell="sh").text == "none\n"
    assert debian.run("print(6 * 7)", shell="python3").text == "42\n"


def test_chosen_shell_that_is_missing_is_not_replaced(shared: Sandbox) -> None:
    execution = shared.run("echo ran", shell="bash")
    assert (execution.returncode, execution.text) == (127, "")


@pytest.mark.parametrize(("login", "said"), [(False, "no"), (True, "yes")])
def test_login_shell_is_an_option(debian: Sandbox, login: bool, said: str) -> None:
    assert debian.run("shopt -q login_shell && echo yes || echo no", login=login).text == f"{said}\n"


@pytest.mark.parametrize("word", ["two words", "$HOME", "*", "", "a\nb", "ü✓", "-c", "'\"\\"])
def test_argv_reaches_the_program_as_it_is(shared: Sandbox, word: str) -> None:
    assert shared.run(["printf", "<%s>", word]).text == f"<{word}>"


def test_argv_of_many_arguments_is_larger_than_a_packet(shared: Sandbox) -> None:
    words = [f"{number:08d}" for number in range(ARGV_TOTAL // 8)]
    execution = shared.run(["sh", "-c", 'echo $# "$1" "${#}"; shift $(($# - 1)); echo "$1"', "sh", *words])
    assert execution.text == f"{len(words)} {words[0]} {len(words)}\n{words[-1]}\n"


def test_large_environment_reaches_the_command(shared: Sandbox) -> None:
    env = {f"LARGE_{number}": str(number) * 100_000 for number in range(10)}  # 1 MB together
    execution = shared.run("for i in 0 1 2 3 4 5 6 7 8 9; do eval echo \\${#LARGE_$i}; done", env=env)
    assert execution.text == "100000\n" * 10


def test_environment_of_the_command_goes_before_that_of_the_sandbox(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(env={"LEVEL": "sandbox", "KEPT": "yes"})
    assert sandbox.run("echo $LEVEL $KEPT", env={"LEVEL": "command"}).text == "command yes\n"
    assert sandbox.run("echo $LEVEL $KEPT").text == "sandbox yes\n"


@pytest.mark.parametrize("value", ["", "a=b", "two\nlines", "ü", " spaces "])
def test_environment_value_is_handed_over_unchanged(shared: Sandbox, value: str) -> None:
    assert shared.run('printf "<%s>" "$VALUE"', env={"VALUE": value}).text == f"<{value}>"


def test_standard_input_is_empty_unless_given(shared: Sandbox) -> None:
    assert shared.run("readlink /proc/self/fd/0; wc -c").text == "/dev/null\n0\n"


@pytest.mark.parametrize(
    "given",
    ["text ü\n", b"", bytes(range(256)), b"\0" * 100_000, os.urandom(5 << 20)],
    ids=["text", "empty", "every byte", "zeros", "5 MiB"],
)
def test_standard_input_reaches_the_command_byte_for_byte(shared: Sandbox, given: str | bytes) -> None:
    execution = shared.run("cat", stdin=given)
    assert execution.returncode == 0
    assert execution.output() == (given.encode() if isinstance(given, str) else given)


def test_workdir_is_the_images_own_unless_given(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(NONROOT)
    assert sandbox.run("pwd").text == "/home/app\n"
    assert sandbox.run("pwd", workdir="/tmp").text == "/tmp\n"


def test_workdir_of_the_sandbox_is_made_and_used(make_sandbox: MakeSandbox) -> None:
    assert make_sandbox(workdir="/made/by/engine").run("pwd").text == "/made/by/engine\n"


def test_workdir_is_made_on_request_as_the_commands_user(sandbox: Sandbox) -> None:
    execution = sandbox.run("pwd; stat -c %U . ..", workdir="/home/app/new/deep", make_workdir=True, user="app")
    assert execution.text == "/home/app/new/deep\napp\napp\n"


def test_command_begins_with_the_usual_umask_signals_and_session(debian: Sandbox) -> None:
    execution = debian.run("umask; grep -E '^Sig(Ign|Blk)' /proc/self/status; test $(ps -o sid= $$) = $$ && echo leader")
    assert execution.text == "0022\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nleader\n"


def test_command_has_descriptors_0_to_2_and_no_other(sandbox: Sandbox) -> None:
    execution = sandbox.start(["sleep", "300"])
    until(lambda: "sleep 300" in processes(sandbox), "the command runs")
    (pid,) = [line.split()[0] for line in docker("top", str(sandbox.container_id), "-eo", "pid,args").splitlines() if "sleep" in line]
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/fd/1") == os.readlink(f"/proc/{pid}/fd/2")
    execution.cancel().wait()


@pytest.mark.parametrize("user", ["root", "app"])
@pytest.mark.parametrize("device", ["/dev/stdout", "/dev/stderr", "/proc/self/fd/1"])
def test_command_can_open_its_own_output_again(shared: Sandbox, user: str, device: str) -> None:
    execution = shared.run(f"echo before; echo through > {device}; echo copied | tee {device}; echo after", user=user)
    assert execution.text == "before\nthrough\ncopied\ncopied\nafter\n"


def test_stdout_and_stderr_are_kept_in_the_order_written(shared: Sandbox) -> None:
    assert shared.run("for i in 1 2 3; do echo out $i; echo err $i >&2; done").text == "".join(
        f"out {number}\nerr {number}\n" for number in (1, 2, 3)
    )


def test_argv_runs_in_an_image_with_nothing_but_the_program(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(SCRATCH)
    assert sandbox.run(["/prog", "no shell", "env=GIVEN"], env={"GIVEN": "value"}).text == "no shell\nvalue\n"
    assert sandbox.run(["/prog", "exit=7"]).returncode == 7


def test_command_string_in_an_image_without_a_shell_is_not_found(make_sandbox: MakeSandbox) -> None:
    execution = make_sandbox(SCRATCH).run("echo ran")
    assert execution.outcome is not None and execution.outcome.reason == "not_found"
    assert (execution.returncode, execution.outcome.ran) == (127, False)


def test_commands_run_on_a_read_only_root(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(read_only=True)
    execution = sandbox.run("touch /file 2>/dev/null || echo refused; echo works", user="app")
    assert execution.text == "refused\nworks\n"


def test_images_entrypoint_is_not_run(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(NONROOT)  # its entrypoint is /bin/false
    assert sandbox.run("echo runs").text == "runs\n"
    assert processes(sandbox) == ["/.remote-env/init"]


def test_fifty_commands_run_at_once_in_one_sandbox(sandbox: Sandbox) -> None:
    # Each waits until all fifty have begun, so none can end unless they run at the same time.
    meet = "mkdir -p /met; touch /met/$N; while [ $(ls /met | wc -l) -lt 50 ]; do sleep 0.05; done; echo $N"
    started = [sandbox.start(meet, env={"N": str(number)}, timeout_s=60) for number in range(50)]
    assert [execution.wait().text for execution in started] == [f"{number}\n" for number in range(50)]


def test_sixty_four_threads_share_one_client(client: Client, sandbox: Sandbox) -> None:
    def work(number: int) -> list[str]:
        return [sandbox.run(f"echo {number}.{turn} | tee -a /ran").text for turn in range(4)]

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(work, range(64)))
    assert answers == [[f"{number}.{turn}\n" for turn in range(4)] for number in range(64)]
    ran = docker("exec", str(sandbox.container_id), "cat", "/ran").split()
    assert sorted(ran) == sorted(f"{number}.{turn}" for number in range(64) for turn in range(4))
