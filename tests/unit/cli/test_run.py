"""`run` and `exec` against a server that keeps the protocol in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from remote_env.cli.failures import exit_code, remarks
from remote_env.protocol import Execution, Outcome, Output
from tests.unit.cli.conftest import Cli
from tests.unit.client.fakeserver import CUT_AFTER, FakeServer, Fault, pattern_bytes, refusal

POSTED = r"/executions$"


def posted(fake: FakeServer) -> dict[str, Any]:
    [request] = fake.seen("POST", POSTED)
    return request.json()


def removed(fake: FakeServer) -> list[str]:
    return [sandbox.id for sandbox in fake.sandboxes.values() if sandbox.state == "removed"]


def ended(outcome: Outcome, **fields: Any) -> Execution:
    return Execution(id="e" * 32, sandbox_id="s" * 32, epoch="1", run_id="r" * 32, state="ended", outcome=outcome, **fields)


# -------------------------------------------------------------------------------------------------- what is run


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--", "ls"], {"argv": ["ls"]}),
        (["ls"], {"argv": ["ls"]}),
        (["--", "ls", "-la", "--json"], {"argv": ["ls", "-la", "--json"]}),
        (["ls", "-la", "--json"], {"argv": ["ls", "-la", "--json"]}),
        (["grep", "-c", "x", "file"], {"argv": ["grep", "-c", "x", "file"]}),
        (["bash", "-c", "echo $1", "--", "x"], {"argv": ["bash", "-c", "echo $1", "--", "x"]}),
        (["--timeout", "2m", "ls", "--timeout", "3m"], {"argv": ["ls", "--timeout", "3m"], "timeout_s": 120.0}),
        (["--timeout", "2m", "a|b"], {"command": "a|b", "timeout_s": 120.0}),
        (["--", "--", "x"], {"argv": ["--", "x"]}),
        (["ls", "--help"], {"argv": ["ls", "--help"]}),
        (["--", "echo", "a b"], {"argv": ["echo", "a b"]}),
        (["echo a b"], {"command": "echo a b"}),
        (["ls|wc"], {"command": "ls|wc"}),
        (["--argv", "--", "a b"], {"argv": ["a b"]}),
        (["-c", "ls"], {"command": "ls"}),
        (["--timeout", "2m", "--", "ls"], {"argv": ["ls"], "timeout_s": 120.0}),
    ],
)
def test_words_become_the_command_they_look_like(fake: FakeServer, cli: Cli, words: list[str], asked: dict[str, Any]) -> None:
    assert cli("run", "image", *words).code == 0
    sent = posted(fake)
    assert {key: sent.get(key) for key in ("command", "argv", *asked)} == {"command": None, "argv": None, **asked}


@pytest.mark.parametrize(
    "words",
    [
        ["image", "--memry", "1g", "--", "ls"],
        ["image", "--memry"],
        ["image", "--memory", "1x", "--", "ls"],
        ["image", "--timeout", "0", "--", "ls"],
        ["image", "--network", "host", "--", "ls"],
        ["image", "--bind", "relative:/x", "--", "ls"],
        ["image", "--env", "=x", "--", "ls"],
        ["image", "-c", "ls", "--", "ls"],
        ["image", "-c", " "],
        ["image"],
        [],
    ],
)
def test_wrong_usage_exits_with_2_and_asks_the_server_nothing(fake: FakeServer, cli: Cli, words: list[str]) -> None:
    done = cli("run", *words)
    assert (done.code, done.out, fake.requests) == (2, b"", [])
    assert "Usage: remote-env run [OPTIONS] IMAGE [--] COMMAND..." in done.err
    assert "Traceback" not in done.err


def test_misspelt_option_is_named_in_the_message(fake: FakeServer, cli: Cli) -> None:
    assert "--memry" in cli("run", "image", "--memry", "1g", "--", "ls").err


def test_field_that_the_spec_refuses_is_wrong_usage(fake: FakeServer, cli: Cli) -> None:
    done = cli("run", "image", "--workdir", "relative", "--", "ls")
    assert (done.code, fake.started) == (2, {})
    assert "workdir" in done.err


def test_options_become_the_sandboxes_spec(fake: FakeServer, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSED_ON", "here")
    options = ["-e", "A=b=c", "-e", "PASSED_ON", "-e", "NOT_SET", "-w", "/srv", "-u", "app", "-m", "512m", "--cpus", "0.5", "--pids", "99"]
    options += ["--network", "none", "--pull", "never", "--bind", "/data:/data:rw", "--lease", "10m", "--run-id", "run-of-mine"]
    assert cli("run", *options, "image", "true").code == 0
    [request] = fake.seen("POST", "^/v1/sandboxes$")
    sent = request.json()
    expected = {
        "env": {"A": "b=c", "PASSED_ON": "here"}, "workdir": "/srv", "user": "app", "memory_bytes": 512 << 20, "cpus": 0.5, "pids": 99,
        "network": "none", "pull": "never", "binds": [{"source": "/data", "target": "/data", "read_only": False}], "lease_s": 600.0,
        "run_id": "run-of-mine", "image": "image",
    }  # fmt: skip
    assert {key: sent[key] for key in expected} == expected


# ----------------------------------------------------------------------------------------------- what comes of it


def test_output_is_untouched_and_the_sandbox_is_removed(fake: FakeServer, cli: Cli) -> None:
    done = cli("run", "image", "flood 3000000")
    assert (done.code, done.err) == (0, "")
    assert done.out == pattern_bytes(3_000_000)
    assert removed(fake) == list(fake.sandboxes)


def test_invalid_utf8_goes_to_stdout_byte_for_byte(
    fake: FakeServer, cli: Cli, ends_as: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.client.fakeserver.INLINE_LIMIT", 0)
    ends_as(Outcome(kind="exited", ran=True, code=0), bytes(range(256)))
    assert cli("run", "image", "hang").out == bytes(range(256))


def test_exit_code_is_the_commands_own(fake: FakeServer, cli: Cli) -> None:
    assert cli("run", "image", "false").code == 1


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(kind="exited", ran=True, code=255), 255),
        (Outcome(kind="signalled", ran=True, signal=11), 139),
        (Outcome(kind="oom", ran=True), 137),
        (Outcome(kind="oom_suspected", ran=True), 137),
        (Outcome(kind="timed_out", ran=True, clock="total"), 124),
        (Outcome(kind="timed_out", ran=True, clock="idle"), 124),
        (Outcome(kind="cancelled", ran=True), 130),
        (Outcome(kind="cancelled", ran=False), 125),
        (Outcome(kind="failed_to_start", ran=False, reason="not_found"), 127),
        (Outcome(kind="failed_to_start", ran=False, reason="not_executable"), 126),
        (Outcome(kind="failed_to_start", ran=False, reason="no_such_user"), 125),
        (Outcome(kind="lost", ran="unknown", reason="sandbox_died"), 123),
        (Outcome(kind="lost", ran=True, reason="engine_restarted"), 123),
        (Outcome(kind="not_run", ran=False), 125),
    ],
    ids=str,
)
def test_each_outcome_has_its_exit_code_and_all_but_exits_a_line(outcome: Outcome, code: int) -> None:
    assert exit_code(ended(outcome)) == code
    lines = remarks(ended(outcome), ["prog"])
    assert len(lines) == (0 if outcome.kind == "exited" else 1)
    assert all("\n" not in line and line.endswith(".") for line in lines)


def test_timed_out_is_told_on_stderr_and_its_output_is_shown(fake: FakeServer, cli: Cli, ends_as: Callable[..., None]) -> None:
    ends_as(Outcome(kind="timed_out", ran=True, clock="total"), b"so far")
    done = cli("run", "image", "hang")
    assert (done.code, done.out) == (124, b"so far")
    assert len(done.err.splitlines()) == 1
    assert "timeout" in done.err


@pytest.mark.parametrize("cause", ["limit", "disk_full"])
def test_cut_output_is_told_with_what_is_kept(cause: Any) -> None:
    output = Output(total_bytes=3000, kept_bytes=1024, truncated=cause, gap=(512, 2488))
    [line] = remarks(ended(Outcome(kind="exited", ran=True, code=0), output=output))
    assert "cut" in line
    assert "1.0 KiB of 2.9 KiB" in line


def test_program_that_is_missing_is_named(fake: FakeServer, cli: Cli, ends_as: Callable[..., None]) -> None:
    ends_as(Outcome(kind="failed_to_start", ran=False, reason="not_found"))
    done = cli("run", "image", "hang")
    assert done.code == 127
    assert "'hang'" in done.err


def test_json_is_one_document_with_output_and_exit_code(fake: FakeServer, cli: Cli) -> None:
    done = cli("--json", "run", "image", "flood 600000")
    document = json.loads(done.out)
    assert document["output"]["text"] == pattern_bytes(600_000).decode()
    assert (document["outcome"]["kind"], document["exit_code"], done.code, done.err) == ("exited", 0, 0, "")


def test_json_holds_binary_output_as_base64(
    fake: FakeServer, cli: Cli, ends_as: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.client.fakeserver.INLINE_LIMIT", 0)
    ends_as(Outcome(kind="exited", ran=True, code=0), b"\xff\x00")
    output = json.loads(cli("run", "--json", "image", "hang").out)["output"]
    assert (output["text"], output["base64"], output["encoding"]) == (None, "/wA=", "base64")


def test_keep_leaves_the_sandbox_and_says_how_to_remove_it(fake: FakeServer, cli: Cli) -> None:
    done = cli("run", "--keep", "image", "echo hi")
    [sandbox] = fake.sandboxes.values()
    assert (sandbox.state, done.out) == ("running", b"hi\n")
    assert f"remote-env rm {sandbox.id}" in done.err
    [request] = fake.seen("POST", "^/v1/sandboxes$")
    assert request.json()["lease_s"] == 24 * 3600  # nobody renews it


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_server_that_is_not_there_means_did_not_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTE_ENV_URL", "http://127.0.0.1:9")
    done = cli("run", "image", "true")
    assert (done.code, done.out) == (125, b"")
    assert "remote-env serve" in done.err


def test_error_with_json_is_a_document_on_stdout_and_a_line_on_stderr(fake: FakeServer, cli: Cli) -> None:
    done = cli("run", "--json", "missing-image", "true")
    error = json.loads(done.out)["error"]
    assert (error["kind"], error["exit_code"], done.code) == ("ImageNotFound", 125, 125)
    assert len(done.err.splitlines()) == 1
    assert fake.started == {}


def test_wrong_usage_with_json_is_a_document_on_stdout(fake: FakeServer, cli: Cli) -> None:
    done = cli("run", "--json", "image", "--network", "host", "--", "ls")
    error = json.loads(done.out)["error"]
    assert (error["kind"], error["exit_code"], done.code) == ("Usage", 2, 2)


def test_refused_token_means_did_not_run(fake: FakeServer, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTE_ENV_TOKEN", "another")
    assert cli("run", "image", "true").code == 125


def test_reply_that_is_lost_costs_neither_result_nor_a_second_run(fake: FakeServer, cli: Cli) -> None:
    fake.on("POST", POSTED, CUT_AFTER)
    done = cli("run", "image", "echo once")
    assert (done.code, done.out) == (0, b"once\n")
    assert fake.started["echo once"] == 1


def test_fate_that_cannot_be_known_exits_with_123_and_leaves_the_sandbox(fake: FakeServer, cli: Cli) -> None:
    fake.on("POST", POSTED, CUT_AFTER)
    fake.on("GET", r"/v1/executions/", refusal("epoch_mismatch"))
    done = cli("run", "image", "true")
    [sandbox] = fake.sandboxes.values()
    assert (done.code, sandbox.state) == (123, "running")
    assert sandbox.id in done.err


def test_output_that_is_not_what_the_server_kept_exits_with_123(fake: FakeServer, cli: Cli) -> None:
    fake.on("GET", r"/output$", Fault(arrives=True, change=lambda body: body.replace(b"7", b"8")))
    done = cli("run", "image", "flood 3000000")
    assert done.code == 123
    assert removed(fake) == list(fake.sandboxes)


# ---------------------------------------------------------------------------------------------------------- exec


def test_exec_leaves_the_sandbox_as_it_is(fake: FakeServer, cli: Cli) -> None:
    sandbox = cli("create", "image").out.decode().strip()
    done = cli("exec", sandbox, "-w", "/srv", "-e", "A=1", "--make-workdir", "--", "echo", "hi")
    assert (done.code, done.out, removed(fake)) == (0, b"hi\n", [])
    sent = posted(fake)
    assert (sent["workdir"], sent["env"], sent["make_workdir"]) == ("/srv", {"A": "1"}, True)


def test_exec_in_a_sandbox_that_is_gone_did_not_run(fake: FakeServer, cli: Cli) -> None:
    sandbox = cli("create", "image").out.decode().strip()
    cli("rm", sandbox)
    assert cli("exec", sandbox, "true").code == 125
    assert fake.started == {}
