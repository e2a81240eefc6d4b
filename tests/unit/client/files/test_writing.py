"""Files over a link that breaks: what is written is written once, and nothing has its name early."""

from __future__ import annotations

from pathlib import Path

import pytest

from remote_env import (
    Client,
    LinkLost,
    Sandbox,
    SandboxFileNotFound,
    ServerBusy,
    Timings,
)
from tests.unit.client.conftest import FAST
from tests.unit.client.fakefiles import FakeFiles
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, TOKEN, Fault, refusal
from tests.unit.client.files.conftest import FILES

BOTH_FACES = True


@pytest.mark.parametrize("fault", [CUT_BEFORE, CUT_AFTER, Fault(answer=(502, {}, b"a proxy's page"), arrives=True)])
def test_a_write_whose_answer_is_lost_is_sent_again(sandbox: Sandbox, fake: FakeFiles, fault: Fault) -> None:
    fake.on("PUT", FILES, fault)
    sandbox.write("/f", b"content")
    assert (fake.root / "f").read_bytes() == b"content"
    assert len(fake.seen("PUT", FILES)) == 2


def test_a_write_that_breaks_every_time_is_given_up(fake: FakeFiles) -> None:
    with Client(fake.url, TOKEN, timings=FAST) as client:
        sandbox = client.create_sandbox("image")
        fake.on("PUT", FILES, *[CUT_BEFORE] * 100)
        with pytest.raises(LinkLost):
            sandbox.write("/f", b"x" * 1000)
    assert len(fake.seen("PUT", FILES)) == 5


def test_nothing_is_sent_for_ever_to_a_server_that_has_no_room(fake: FakeFiles) -> None:
    with Client(fake.url, TOKEN, timings=Timings(retry_first_s=0.001, retry_most_s=0.002, reconnect_budget_s=0.05)) as client:
        sandbox = client.create_sandbox("image")
        fake.on("GET", FILES, *[refusal("sandbox_full", retry_after_s=0.01)] * 1000)
        with pytest.raises(ServerBusy):
            sandbox.read_bytes("/f")


def test_a_removal_whose_answer_is_lost_is_done(sandbox: Sandbox, fake: FakeFiles) -> None:
    sandbox.write("/f", b"x")
    fake.on("DELETE", FILES, CUT_AFTER)
    sandbox.remove("/f")
    with pytest.raises(SandboxFileNotFound):
        sandbox.remove("/f")


def test_a_token_that_was_changed_is_read_again(fake: FakeFiles, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with Client(fake.url, token_file=str(token), timings=FAST) as client:
        sandbox = client.create_sandbox("image")
        fake.token = "another"
        token.write_text("another")
        sandbox.write("/f", b"x")
        assert sandbox.read_bytes("/f") == b"x"
