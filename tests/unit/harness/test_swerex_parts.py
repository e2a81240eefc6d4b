"""What the SWE-ReX adapter decides by itself: no server, no sandbox."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest
from swerex.exceptions import SessionDoesNotExistError

from remote_env.errors import InvalidSpec, NoSpace, OutcomeUnknownError, SandboxFileNotFound, SandboxGone, SessionEnded
from remote_env.harness.swerex import SandboxFailure
from remote_env.harness.swerex_failures import as_swerex_exceptions, without_result
from remote_env.harness.swerex_syntax import is_plain
from remote_env.harness.swerex_text import read_as_text, shown, terminal_text
from remote_env.harness.swerex_threads import in_thread
from remote_env.protocol import Execution, Outcome, Output

PLAIN = [
    "", "\n", "echo hi", "cd /repo && make -j4 2>&1 | tail -5", "echo '$x (a'", 'git commit -m "fix $FOO bar"', "a;", "iffy", "echo if",
    "x=1 y=2", "python -c 'print(1)'", "echo $?", "ls ~/*.py",
]  # fmt: skip
NOT_PLAIN = [
    "if", "(a", "echo 'open", 'echo "open', "a |", "| a", "&& a", "a &&", "a ; ; b", "echo hi\necho", "a &", "time", "x=(", "while|x",
    "a;if",
    "echo `date`", "echo $(date)", "cat <<E", "echo \\", 'echo "\\"', "{ a", "a # b", "case x",
]  # fmt: skip


@pytest.mark.parametrize("command", PLAIN)
def test_a_plain_command_is_fine_and_bash_agrees(command: str) -> None:
    assert is_plain(command)
    assert subprocess.run(["bash", "-n"], input=f"{command}\n", text=True, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("command", NOT_PLAIN)
def test_what_may_be_a_mistake_is_left_for_bash_to_judge(command: str) -> None:
    assert not is_plain(command)


def test_a_long_command_that_is_not_plain_is_found_out_at_once() -> None:
    assert not is_plain('"$a$b' * 500 + "(")
    assert not is_plain("word " * 100_000)


# ------------------------------------------------------------------------------------------------------------ text


def test_bytes_that_are_no_text_are_shown_in_backslashes() -> None:
    assert shown(b"caf\xc3\xa9 \xff\n", Output()) == "café \\xff\n"


def test_an_output_that_was_cut_says_so_where_it_was_cut() -> None:
    text = shown(b"headtail", Output(truncated="limit", gap=(4, 1004), kept_bytes=8, total_bytes=1008))
    assert text == "head\n[1000 bytes of output left out here: the limit was reached]\ntail"


@pytest.mark.parametrize("written", ["a\n", "a\r\n", "\r\n\n", "a\rb\n", "  x", "\n\n"])
def test_the_terminals_line_ends_are_undone_and_the_programs_own_are_kept(written: str) -> None:
    assert terminal_text(written.replace("\n", "\r\n")) == written


def test_files_are_read_as_path_read_text_reads_them() -> None:
    assert read_as_text(b"a\r\nb\rc\n", None, None) == "a\nb\nc\n"
    assert read_as_text(b"calf\xe9", "latin-1", None) == "calfé"
    assert read_as_text(b"before \xde after", None, "backslashreplace") == "before \\xde after"
    with pytest.raises(UnicodeDecodeError, match="0xde in position 7"):
        read_as_text(b"before \xde after", None, None)


# -------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (SandboxGone("it is gone"), SandboxFailure),
        (OutcomeUnknownError("nobody knows"), SandboxFailure),
        (SessionEnded("the shell is over"), SessionDoesNotExistError),
        (InvalidSpec("a NUL byte"), ValueError),
        (SandboxFileNotFound("no such file"), FileNotFoundError),
        (NoSpace("full"), OSError),
    ],
)
def test_swe_rex_sees_exceptions_that_it_knows(raised: Exception, seen: type[Exception]) -> None:
    with pytest.raises(seen, match=str(raised)), as_swerex_exceptions():
        raise raised


def ended(**outcome: Any) -> Execution:
    return Execution(
        id="e" * 32, sandbox_id="s" * 32, epoch="1", run_id="r" * 32, state="ended", outcome=Outcome(**outcome), output=Output()
    )


def test_what_could_not_be_started_is_told_as_subprocess_tells_it() -> None:
    missing = without_result(ended(kind="failed_to_start", ran=False, reason="not_found", errno=2), "prog", None)
    assert isinstance(missing, FileNotFoundError) and missing.filename == "prog"
    forbidden = without_result(ended(kind="failed_to_start", ran=False, reason="not_executable", errno=13), "/etc/passwd", None)
    assert isinstance(forbidden, PermissionError) and forbidden.filename == "/etc/passwd"
    nowhere = without_result(ended(kind="failed_to_start", ran=False, reason="no_workdir", errno=2), "prog", "/nowhere")
    assert isinstance(nowhere, FileNotFoundError) and nowhere.filename == "/nowhere"
    lost = without_result(ended(kind="lost", ran=True, reason="sandbox_died"), "prog", None)
    assert isinstance(lost, SandboxFailure) and "sandbox died" in str(lost)


# --------------------------------------------------------------------------------------------------------- threads


def test_calls_of_one_event_loop_run_at_the_same_time() -> None:
    meeting = threading.Barrier(8, timeout=30)

    async def main() -> None:
        await asyncio.gather(*(in_thread(meeting.wait) for _ in range(8)))

    asyncio.run(main())


def test_what_a_call_raises_is_raised_where_it_is_awaited() -> None:
    def call() -> None:
        raise FileNotFoundError("x")

    with pytest.raises(FileNotFoundError, match="x"):
        asyncio.run(in_thread(call))


def test_an_event_loop_ends_without_a_call_that_nobody_waits_for() -> None:
    release = threading.Event()
    over = threading.Event()

    def call() -> None:
        release.wait(60)
        over.set()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(in_thread(call), 0.01)

    asyncio.run(main())
    assert not over.is_set()
    release.set()
    assert over.wait(30)


# ---------------------------------------------------------------------------------------------------------- import


def test_without_swe_rex_the_import_says_what_to_install() -> None:
    program = "import sys; sys.modules['swerex'] = None\nimport remote_env.harness.swerex"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: remote_env.harness.swerex needs SWE-ReX" in done.stderr
    assert "remote-env[swerex]" in done.stderr
