"""Output into a file: whole, or no file of that name."""

from __future__ import annotations

from pathlib import Path

import pytest

from remote_env import Client, Sandbox
from remote_env.errors import InvalidSpec, OutcomeUnknownError, OutputIncomplete
from remote_env.output import SAVED_PIECE_BYTES
from tests.unit.client.fakeserver import CUT_BEFORE, FakeServer, Fault, pattern_bytes, refusal

BOTH_FACES = True

OUTPUT = r"/output$"
BIG = 2 * SAVED_PIECE_BYTES + 123


def wrong_byte(body: bytes) -> bytes:
    return body[:-1] + b"\0"


def test_what_came_with_the_result_is_not_fetched(fake: FakeServer, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.run("echo hello").save(tmp_path / "deep" / "out")
    assert (tmp_path / "deep" / "out").read_bytes() == b"hello\n"
    assert not fake.seen("GET", OUTPUT)


def test_big_output_goes_into_the_file_a_piece_at_a_time(fake: FakeServer, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.run(f"flood {BIG}").save(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == pattern_bytes(BIG)
    ranges = [request.headers["range"] for request in fake.seen("GET", OUTPUT)]
    assert ranges == [f"bytes={start}-{min(start + SAVED_PIECE_BYTES, BIG) - 1}" for start in range(0, BIG, SAVED_PIECE_BYTES)]


def test_a_piece_that_breaks_is_fetched_again(fake: FakeServer, sandbox: Sandbox, tmp_path: Path) -> None:
    fake.on("GET", OUTPUT, Fault(change=lambda body: body), CUT_BEFORE, Fault(answer=(502, {}, b"<html>")))
    sandbox.run(f"flood {BIG}").save(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == pattern_bytes(BIG)


def test_a_wrong_checksum_makes_it_fetched_again_from_its_beginning(
    fake: FakeServer, client: Client, sandbox: Sandbox, tmp_path: Path
) -> None:
    fake.on("GET", OUTPUT, Fault(change=wrong_byte))
    sandbox.run(f"flood {BIG}").save(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == pattern_bytes(BIG)
    assert client.stats()["corrupted"] == 1


def test_a_checksum_that_stays_wrong_leaves_no_file_and_not_a_part_of_one(fake: FakeServer, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    execution = sandbox.run(f"flood {BIG}")
    fake.on("GET", OUTPUT, *[Fault(change=wrong_byte)] * 100)
    with pytest.raises(OutputIncomplete) as raised:
        execution.save(tmp_path / "out")
    assert raised.value.execution_id == execution.id
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("out", "before")]


@pytest.mark.parametrize(("code", "error"), [("gone", OutputIncomplete), ("not_found", OutcomeUnknownError)])
def test_output_that_is_not_there_any_more_is_told(
    fake: FakeServer, sandbox: Sandbox, tmp_path: Path, code: str, error: type[Exception]
) -> None:
    execution = sandbox.run(f"flood {BIG}")
    fake.on("GET", OUTPUT, refusal(code))
    with pytest.raises(error):
        execution.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_still_runs_has_no_whole_output(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="has not ended"):
        sandbox.start("hang").save(tmp_path / "out")


def test_merged_output_has_no_stderr_of_its_own(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="one merged output"):
        sandbox.run("echo hello").save(tmp_path / "out", stderr=True)
