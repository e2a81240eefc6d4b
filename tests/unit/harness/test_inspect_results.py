"""What becomes of a command, as Inspect gets to see it."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from inspect_ai.util import ExecResult, OutputLimitExceededError, SandboxUnavailableError

from remote_env import errors
from remote_env.harness.inspect_commands import ARGUMENT_LIMIT, Command
from remote_env.harness.inspect_results import OutcomeUnknown, exec_result, translated
from remote_env.protocol import Execution, Outcome, Output

ID = "0" * 32


def result(
    outcome: dict[str, Any], stdout: bytes = b"", stderr: bytes = b"", *, cut: Any = None, cmd: str = "prog", **asked: Any
) -> ExecResult[str]:
    ended = Outcome(**{"ran": True, **outcome})
    record = Execution(
        id=ID, sandbox_id="s" * 8, epoch="e" * 8, run_id="r" * 8, state="ended", streams="split", outcome=ended,
        output=Output(truncated=cut), stderr=Output(),
    )  # fmt: skip
    return exec_result(record, stdout, stderr, cmd=[cmd], user=asked.get("user"), timeout=asked.get("timeout"), limit="10 MiB")


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ({"kind": "exited", "code": 0}, 0),
        ({"kind": "exited", "code": 70}, 70),
        ({"kind": "signalled", "signal": 15}, 143),
    ],
)
def test_an_end_of_its_own_is_a_result(outcome: dict[str, Any], code: int) -> None:
    assert result(outcome, b"o\xff\r\n", b"e") == ExecResult(code == 0, code, "o�\r\n", "e")


@pytest.mark.parametrize("kind", ["oom", "oom_suspected"])
def test_a_command_at_the_memory_limit_is_told_so(kind: str) -> None:
    assert result({"kind": kind, "signal": 9}, b"", b"e") == ExecResult(False, 137, "", "eKilled: the sandbox reached its memory limit.\n")


def test_a_timeout_carries_what_was_written_until_then() -> None:
    with pytest.raises(TimeoutError, match="Command timed out after 2 seconds") as raised:
        result({"kind": "timed_out", "clock": "total"}, b"out", b"err", timeout=2.0)
    assert raised.value.truncated_output == "outerr"  # type: ignore[attr-defined]


def test_too_much_output_is_inspects_own_exception_with_what_is_kept() -> None:
    with pytest.raises(OutputLimitExceededError, match="limit of 10 MiB was exceeded") as raised:
        result({"kind": "exited", "code": 0}, b"head tail", b"", cut="limit")
    assert raised.value.truncated_output == "head tail"


def test_a_timeout_goes_before_too_much_output() -> None:
    with pytest.raises(TimeoutError):
        result({"kind": "timed_out", "clock": "total"}, b"x", cut="limit", timeout=1.0)


def test_output_that_is_not_whole_is_never_passed_off_as_whole() -> None:
    with pytest.raises(OutcomeUnknown, match=f"its output is not whole.*{ID}"):
        result({"kind": "exited", "code": 0}, b"x", cut="disk_full")


@pytest.mark.parametrize(
    ("reason", "code", "number", "words"),
    [
        ("not_found", 127, errno.ENOENT, "prog: "),
        ("not_executable", 126, errno.ENOEXEC, "prog: "),
        ("no_such_user", 126, None, "user somebody: "),
        ("no_workdir", 126, errno.ENOENT, "working directory"),
        ("too_long", 126, errno.E2BIG, "longer than the kernel allows"),
    ],
)
def test_what_is_wrong_with_the_command_is_a_result(reason: str, code: int, number: int | None, words: str) -> None:
    got = result({"kind": "failed_to_start", "reason": reason, "errno": number, "ran": False}, user="somebody")
    assert (got.success, got.returncode, got.stdout) == (False, code, "")
    assert words in got.stderr and "did not run" in got.stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EISDIR])
def test_what_may_not_be_executed_is_a_permission_error(number: int) -> None:
    with pytest.raises(PermissionError, match="prog"):
        result({"kind": "failed_to_start", "reason": "not_executable", "errno": number, "ran": False})


@pytest.mark.parametrize("reason", ["no_process", "no_pipe", "sandbox_full", "internal"])
def test_a_sandbox_that_cannot_start_anything_is_not_the_commands_result(reason: str) -> None:
    with pytest.raises(SandboxUnavailableError, match="did not run"):
        result({"kind": "failed_to_start", "reason": reason, "ran": False})


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ({"kind": "lost", "reason": "sandbox_died"}, "it ran in part"),
        ({"kind": "lost", "reason": "host_restarted", "ran": "unknown"}, "whether it ran cannot be known"),
        ({"kind": "cancelled", "reason": "sandbox_removed", "ran": False}, "it did not run and never will"),
        ({"kind": "not_run", "ran": False}, "it did not run and never will"),
    ],
)
def test_a_sandbox_that_is_gone_is_unavailable_and_whether_the_command_ran_is_told(outcome: dict[str, Any], words: str) -> None:
    with pytest.raises(SandboxUnavailableError, match=words):
        result(outcome)


def test_a_command_that_somebody_else_cancelled_has_no_result() -> None:
    with pytest.raises(OutcomeUnknown, match="it ran in part") as raised:
        result({"kind": "cancelled"}, b"some")
    assert raised.value.execution_id == ID


def _kinds(kind: type[errors.RemoteEnvError]) -> list[type[errors.RemoteEnvError]]:
    return [kind, *(each for sub in kind.__subclasses__() for each in _kinds(sub))]


@pytest.mark.parametrize("kind", _kinds(errors.RemoteEnvError))
def test_every_error_of_ours_becomes_one_that_tells_its_fate(kind: type[errors.RemoteEnvError]) -> None:
    """What may have run is never told as not run, nor the other way round; all of them are errors that Inspect knows to handle."""
    got = translated(kind("words", execution_id=ID))  # of files: an input that could not be handed over
    assert f"words (execution {ID})" in str(got)
    if issubclass(kind, errors.MisuseError):
        assert isinstance(got, ValueError)
    elif issubclass(kind, (errors.NotRunError, errors.SandboxGone, errors.CommandLost, errors.FileError)):
        assert isinstance(got, SandboxUnavailableError)
    else:
        assert isinstance(got, OutcomeUnknown) and got.execution_id == ID


# ---------------------------------------------------------------------------------------------------- what is sent


def sent(*cmd: str, **options: Any) -> Command:
    return Command.of(list(cmd), **{"input": None, "cwd": None, "env": {}, "user": None, **options})


def test_an_argument_list_is_sent_as_it_is() -> None:
    assert sent("sh", "-c", "ls", "sh", "x").words == ("sh", "-c", "ls", "sh", "x")
    assert sent("bash", "-c", "ls").words == ("bash", "-c", "ls")


@pytest.mark.parametrize(("flags", "login"), [(["-c"], False), (["-lc"], True), (["--login", "-c"], True)])
def test_a_script_that_is_too_long_for_an_argument_is_sent_for_its_shell(flags: list[str], login: bool) -> None:
    script = ": " + "ä" * (ARGUMENT_LIMIT // 2 - 1)  # with the NUL one byte too many
    command = sent("bash", *flags, script)
    assert command.words == script
    assert (command.options["shell"], command.options["login"]) == ("bash", login)
    assert isinstance(sent("bash", *flags, script[:-1]).words, tuple)


def test_what_only_reads_is_recognised_within_a_shell_too() -> None:
    assert sent("cat", "x").only_reads and sent("bash", "-lc", "cat x | wc -l").only_reads
    assert not sent("rm", "x").only_reads and not sent("sh", "-c", "cat x > y").only_reads
    assert not sent("sh", "-c", 'exec "$@"', "sh", "cat").only_reads


def test_options_are_those_that_were_given() -> None:
    assert dict(sent("a", input="é", cwd="/x", env={"A": "1"}, user="u").options) == {
        "stdin": "é".encode(), "workdir": "/x", "env": {"A": "1"}, "user": "u",
    }  # fmt: skip
    assert dict(sent("a", input=b"").options) == {"stdin": b"", "env": {}}


@pytest.mark.parametrize("wrong", [{"cwd": "/\0"}, {"env": {"A": "\0"}}, {"env": {"\0": "A"}}, {"user": "\0"}])
def test_a_nul_is_refused_as_the_subprocess_module_refuses_it(wrong: dict[str, Any]) -> None:
    """Inspect shows a model this one as a mistake of its own."""
    with pytest.raises(ValueError, match="embedded null byte"):
        sent("a", **wrong)
    with pytest.raises(ValueError, match="embedded null byte"):
        sent("a\0")
    with pytest.raises(ValueError, match="cmd must not be empty"):
        sent()
