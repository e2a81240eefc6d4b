"""Standard input that travels as a file: never left behind, and never missing in a second run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote_env import Client, NotRunError, Sandbox, longstdin
from remote_env.protocol import Execution, Outcome
from tests.unit.client.conftest import FAST
from tests.unit.client.fakefiles import FakeFiles
from tests.unit.client.fakeserver import TOKEN, Fault, refusal

POSTED = r"/executions$"
LONG = b"x" * 100


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeFiles]:
    (tmp_path / "tmp").mkdir()
    with FakeFiles(tmp_path) as server:
        yield server


@pytest.fixture
def sandbox(fake: FakeFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setattr(longstdin, "BYTES_INLINE", 10)
    with Client(fake.url, TOKEN, timings=FAST) as client:
        yield client.create_sandbox("image")


def left_over(fake: FakeFiles) -> list[bytes]:
    return [file.read_bytes() for file in (fake.root / "tmp").iterdir()]


def ends_as(outcome: Outcome) -> Fault:
    def change(body: bytes) -> bytes:
        return Execution.model_validate_json(body).model_copy(update={"state": "ended", "outcome": outcome}).model_dump_json().encode()

    return Fault(arrives=True, change=change)


def test_command_that_could_not_start_leaves_no_file(fake: FakeFiles, sandbox: Sandbox) -> None:
    """No such directory, say: nobody came so far as to open the file."""
    fake.on("POST", POSTED, ends_as(Outcome(kind="failed_to_start", ran=False, reason="no_such_directory")))
    assert sandbox.run("true", stdin=LONG).outcome.kind == "failed_to_start"  # type: ignore[union-attr]
    assert left_over(fake) == []


def test_refused_command_leaves_no_file(fake: FakeFiles, sandbox: Sandbox) -> None:
    fake.on("POST", POSTED, refusal("invalid"))
    with pytest.raises(Exception, match="by a test's order"):
        sandbox.run("true", stdin=LONG, id="a-given-id")


def test_command_that_ran_before_this_call_leaves_no_file(fake: FakeFiles, sandbox: Sandbox) -> None:
    """A process that was started again sends what its predecessor sent: the command reads nothing any more."""
    sandbox.run("true", id="a-given-id")
    fake.on("POST", POSTED, ends_as(Outcome(kind="exited", ran=True, code=0)))
    sandbox.run("true", stdin=LONG, id="a-given-id")
    assert left_over(fake) == []


def test_read_whose_input_may_be_gone_is_not_run_again(fake: FakeFiles, sandbox: Sandbox) -> None:
    """A second run would find no input, and fail for that."""
    fake.on("POST", POSTED, ends_as(Outcome(kind="lost", ran="unknown", reason="init_unreachable")))
    assert sandbox.run("cat", stdin=LONG).outcome.kind == "lost"  # type: ignore[union-attr]
    assert len(fake.seen("POST", POSTED)) == 1


def test_file_that_is_gone_already_is_no_trouble(fake: FakeFiles, sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    def opened() -> None:
        for file in (fake.root / "tmp").iterdir():
            file.unlink()

    outcome = Outcome(kind="failed_to_start", ran=False, reason="no_such_program")
    fault = ends_as(outcome)
    fault.before = opened
    fake.on("POST", POSTED, fault)
    with caplog.at_level(logging.WARNING, "remote_env"):
        sandbox.run("true", stdin=LONG)
    assert caplog.text == ""


def test_input_that_cannot_be_laid_down_means_that_nothing_ran(fake: FakeFiles, sandbox: Sandbox) -> None:
    fake.on("PUT", r"/files$", refusal("no_space"))
    with pytest.raises(NotRunError, match="standard input"):
        sandbox.run("touch /done", stdin=LONG)
    assert fake.seen("POST", POSTED) == []
