"""What a request about a session or a terminal may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from remote_env.problems import PROBLEMS
from remote_env.protocol import COMMAND_TIMEOUT_S, Execution, ExecutionSpec, new_id

SID = "session-0001"


def spec(**fields: Any) -> ExecutionSpec:
    return ExecutionSpec.model_validate({"id": "command-0001", **fields})


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        spec(**fields)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("command", "true"),
        ("argv", ["true"]),
        ("session", SID),
        ("stdin", ""),
        ("stdin_base64", ""),
        ("stdin_path", "/in"),
        ("idle_timeout_s", 1),
    ],
)
def test_a_sessions_shell_takes_no_command_no_stdin_and_no_clock_of_silence(name: str, value: Any) -> None:
    assert f"takes no {name}" in refusal(opens="session", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shell", "bash"), ("login", True), ("workdir", "/"), ("make_workdir", True), ("env", {"A": "1"}), ("user", "app"), ("stdin", "x"),
        ("stdin_base64", "eA=="), ("stdin_path", "/in"),
    ],
)  # fmt: skip
def test_how_a_sessions_command_runs_is_the_sessions_affair(name: str, value: Any) -> None:
    assert f"takes no {name}" in refusal(session=SID, command="true", **{name: value})


def test_what_is_said_as_it_is_anyway_is_no_contradiction() -> None:
    assert spec(session=SID, command="true", login=False, env={}, user=None, argv=None).session == SID


def test_a_session_runs_commands_of_a_shell_alone() -> None:
    assert "takes no argv" in refusal(session=SID, argv=["true"])
    assert "either command" in refusal(session=SID)


def test_nothing_else_than_a_session_can_be_opened() -> None:
    assert "session" in refusal(opens="window")


def test_a_sessions_id_is_an_id() -> None:
    assert "8 to 64 characters" in refusal(session="../x", command="true")


@pytest.mark.parametrize("stdin", [{"stdin": ""}, {"stdin_base64": "eA=="}, {"stdin_path": "/in"}])
def test_a_terminal_is_typed_into_and_takes_no_stdin(stdin: dict[str, str]) -> None:
    assert "takes no stdin" in refusal(command="cat", tty={}, **stdin)


def test_a_terminal_has_one_output() -> None:
    assert "one output only" in refusal(command="true", tty={}, streams="split")
    assert spec(opens="session", tty={}, streams="split").tty is not None  # the session's own output is two pipes, beside it


def test_a_terminal_is_as_large_as_they_used_to_be_unless_told() -> None:
    tty = spec(command="true", tty={}).tty
    assert tty is not None
    assert (tty.rows, tty.cols, tty.term, tty.echo) == (24, 80, "xterm-256color", True)


@pytest.mark.parametrize("tty", [{"rows": 0}, {"cols": 65536}, {"term": ""}, {"term": "a\0b"}, {"width": 80}])
def test_a_terminal_that_cannot_be_is_refused(tty: dict[str, Any]) -> None:
    refusal(command="true", tty=tty)


def test_there_is_one_stdin() -> None:
    assert "give one of" in refusal(command="cat", stdin="x", stdin_path="/in")
    assert "goes with stdin_path" in refusal(command="cat", stdin_unlink=True)
    assert "absolute" in refusal(command="cat", stdin_path="in")


def test_no_timeout_has_to_be_said_but_for_a_sessions_shell() -> None:
    assert spec(command="true").clock_s == COMMAND_TIMEOUT_S
    assert spec(command="true", timeout_s=None).clock_s is None
    assert spec(opens="session").clock_s is None
    assert spec(opens="session", timeout_s=5).clock_s is None


def test_no_timeout_is_another_body_than_none_said() -> None:
    """The body's hash is made of what is not default."""
    assert spec(command="true", timeout_s=None).model_dump(mode="json", exclude_defaults=True)["timeout_s"] is None


def test_an_answer_of_an_older_server_is_of_no_session() -> None:
    answer = Execution(id=new_id(), sandbox_id="s", epoch="e", run_id="r", state="accepted")
    assert (answer.opens, answer.session, answer.tty) == (None, None, False)


def test_a_busy_session_is_asked_again_and_lost_count_of_input_is_not() -> None:
    assert PROBLEMS["session_busy"][0::2] == (409, False)
    assert PROBLEMS["session_busy"][3] is True
    assert PROBLEMS["input_unknown"][0::2] == (409, "unknown")
    assert PROBLEMS["input_unknown"][3] is False
