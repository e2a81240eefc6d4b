"""`create`, `ps`, `rm`, `gc`, `logs`, `kill`: what they print, and what they ask of the server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from remote_env import Client
from remote_env.protocol import Outcome, Sandbox, SandboxList
from tests.unit.cli.conftest import Cli
from tests.unit.client.fakeserver import TOKEN, FakeServer, Fault

FIRST = "0199aaaaaaaa7000aaaaaaaaaaaaaaaa"
SECOND = "0199aaaabbbb7000bbbbbbbbbbbbbbbb"


@pytest.fixture
def two(fake: FakeServer) -> FakeServer:
    """A server with two sandboxes, of two runs."""
    for id, run_id in ((FIRST, "run-number-1"), (SECOND, "run-number-2")):
        fake.sandboxes[id] = Sandbox(id=id, run_id=run_id, image="image", state="running", epoch=f"epoch-of-{id}")
    return fake


def states(fake: FakeServer) -> dict[str, str]:
    return {sandbox.id: sandbox.state for sandbox in fake.sandboxes.values()}


def start(fake: FakeServer, command: str) -> str:
    with Client(fake.url, TOKEN) as client:
        return client.sandbox(FIRST).start(command).id


# -------------------------------------------------------------------------------------------------------- sandboxes


def test_create_prints_the_id_alone_and_asks_for_a_long_lease(fake: FakeServer, cli: Cli) -> None:
    done = cli("create", "image", "--id", "my-sandbox")
    assert (done.code, done.out) == (0, b"my-sandbox\n")
    assert "lease" in done.err
    assert fake.seen("POST", "^/v1/sandboxes$")[0].json()["lease_s"] == 24 * 3600


def test_pull_that_takes_long_is_told_while_it_lasts(fake: FakeServer, cli: Cli) -> None:
    making = Sandbox(id=FIRST, run_id="run-number-1", image="image", state="creating", progress="pulling image: Downloading")
    headers = {"Content-Type": "application/json", "X-Remote-Env-Protocol": "1"}
    listing = SandboxList(sandboxes=[making]).model_dump_json().encode()
    fake.on("GET", "^/v1/sandboxes$", Fault(answer=(200, headers, listing)))
    told = Fault(arrives=True, change=lambda body: body, before=lambda: fake.wait_until(lambda: fake.seen("GET", "^/v1/sandboxes$")))
    fake.on("POST", "^/v1/sandboxes$", told)
    done = cli("create", "image", "--run-id", "run-number-1")
    assert done.code == 0
    assert "pulling image" in done.err.splitlines()
    assert [request.query for request in fake.requests if request.path == "/v1/sandboxes" and request.method == "GET"] == [
        {"run_id": "run-number-1", "state": "creating"}
    ]


def test_create_with_json_prints_the_sandbox(fake: FakeServer, cli: Cli) -> None:
    document = json.loads(cli("create", "image", "--json").out)
    assert (document["state"], document["id"]) == ("running", next(iter(fake.sandboxes)))


def test_ps_lists_whole_ids_even_where_no_terminal_has_room_for_them(two: FakeServer, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    lines = cli("ps").out.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["SANDBOX", FIRST, SECOND]
    assert all(line == line.rstrip() and "image" in line.lower() for line in lines)


def test_ps_json_is_the_wires_own_list(two: FakeServer, cli: Cli) -> None:
    document = json.loads(cli("ps", "--json").out)
    assert {each["id"]: each["run_id"] for each in document["sandboxes"]} == {FIRST: "run-number-1", SECOND: "run-number-2"}


def test_lists_without_rows_print_nothing_on_stdout(fake: FakeServer, cli: Cli) -> None:
    for words in (["ps"], ["ps", "-x"], ["gc"]):
        done = cli(*words)
        assert (done.code, done.out) == (0, b"")
        assert done.err


def test_rm_removes_what_it_names_and_prints_it(two: FakeServer, cli: Cli) -> None:
    done = cli("rm", FIRST)
    assert (done.code, done.out.decode()) == (0, f"{FIRST}\n")
    assert states(two) == {FIRST: "removed", SECOND: "running"}
    assert cli("rm", FIRST).code == 0  # once more is harmless


def test_rm_does_not_take_a_beginning_of_an_id(two: FakeServer, cli: Cli) -> None:
    done = cli("rm", FIRST[:12])
    assert (done.code, set(states(two).values())) == (2, {"running"})
    assert FIRST in done.err


def test_rm_all_needs_a_yes(two: FakeServer, cli: Cli) -> None:
    assert cli("rm", "--all").code == 2
    assert set(states(two).values()) == {"running"}
    assert json.loads(cli("rm", "--all", "--yes", "--json").out) == {
        "removed": [{"id": FIRST, "state": "removed"}, {"id": SECOND, "state": "removed"}]
    }
    assert set(states(two).values()) == {"removed"}


def test_rm_with_neither_ids_nor_all_is_wrong_usage(two: FakeServer, cli: Cli) -> None:
    assert cli("rm").code == 2
    assert cli("rm", FIRST, "--all", "--yes").code == 2
    assert set(states(two).values()) == {"running"}


def test_purge_is_passed_on(two: FakeServer, cli: Cli) -> None:
    cli("rm", FIRST, "--purge")
    assert two.seen("DELETE", FIRST)[0].query == {"purge": "true"}


def test_gc_removes_the_sandboxes_of_one_run_alone(two: FakeServer, cli: Cli) -> None:
    assert cli("gc", "--run", "run-number-2").out.decode() == f"{SECOND}\n"
    assert states(two) == {FIRST: "running", SECOND: "removed"}


def test_gc_alone_lists_runs_and_removes_nothing(two: FakeServer, cli: Cli) -> None:
    done = cli("gc")
    assert [line.split()[:2] for line in done.out.decode().splitlines()[1:]] == [["run-number-1", "1"], ["run-number-2", "1"]]
    assert "gc --run" in done.err
    assert set(states(two).values()) == {"running"}
    rows: list[dict[str, Any]] = json.loads(cli("gc", "--json").out)["runs"]
    assert {row["run_id"]: row["sandboxes"] for row in rows} == {"run-number-1": [FIRST], "run-number-2": [SECOND]}


# ------------------------------------------------------------------------------------------------------- executions


def test_beginning_of_an_id_is_enough_where_it_fits_one_alone(two: FakeServer, cli: Cli) -> None:
    assert cli("exec", FIRST[:9], "echo hi").out == b"hi\n"
    ambiguous = cli("exec", FIRST[:8], "echo hi")
    assert ambiguous.code == 2
    assert FIRST in ambiguous.err and SECOND in ambiguous.err
    assert cli("exec", "0199ffff", "echo hi").code == 2
    assert two.started["echo hi"] == 1


def test_logs_shows_the_output_of_a_command_that_is_over(two: FakeServer, cli: Cli) -> None:
    execution_id = start(two, "echo hi")
    done = cli("logs", execution_id)
    assert (done.code, done.out, done.err) == (0, b"hi\n", "")


def test_logs_of_a_running_command_ends_with_what_there_is(two: FakeServer, cli: Cli) -> None:
    execution_id = start(two, "hang")
    two.write(execution_id, b"so far")
    done = cli("logs", execution_id)
    assert (done.code, done.out) == (0, b"so far")
    assert "running" in done.err
    two.finish(execution_id, Outcome(kind="exited", ran=True, code=0))


def test_logs_follow_with_json_prints_lines_that_make_up_the_output(two: FakeServer, cli: Cli) -> None:
    execution_id = start(two, "flood 100000")
    accepted, *pieces, end = [json.loads(line) for line in cli("logs", "-f", "--json", execution_id).out.splitlines()]
    assert (accepted["event"], accepted["execution_id"]) == ("accepted", execution_id)
    assert "".join(piece["text"] for piece in pieces).encode() == two.executions[execution_id].output
    assert (end["event"], end["execution"]["outcome"]["kind"]) == ("end", "exited")


def test_logs_of_an_unknown_execution_fails(two: FakeServer, cli: Cli) -> None:
    assert cli("logs", "f" * 32).code == 1
    assert cli("logs", "f" * 8).code == 2


def test_ps_executions_lists_what_runs(two: FakeServer, cli: Cli) -> None:
    execution_id = start(two, "hang")
    found = json.loads(cli("ps", "-x", "--json").out)["executions"]
    assert {each["id"] for each in found} == {execution_id}
    two.finish(execution_id, Outcome(kind="exited", ran=True, code=3))
    assert "exit 3" in cli("ps", "-x", "--all").out.decode()


def test_kill_cancels_and_says_how_it_ended(two: FakeServer, cli: Cli) -> None:
    execution_id = start(two, "hang")
    assert cli("kill", execution_id).out.decode() == f"{execution_id} cancelled\n"


@pytest.mark.parametrize("name", ["9", "KILL", "SIGKILL", "kill"])
def test_kill_with_a_signal_sends_that_one(two: FakeServer, cli: Cli, name: str) -> None:
    execution_id = start(two, "hang")
    assert cli("kill", "--signal", name, execution_id).code == 0
    assert [request.json() for request in two.seen("POST", "/signal$")] == [{"signal": 9}]
    assert two.seen("POST", "/cancel$") == []


def test_kill_with_an_unknown_signal_is_wrong_usage(two: FakeServer, cli: Cli) -> None:
    assert cli("kill", "--signal", "NOPE", "f" * 32).code == 2
    assert two.requests == []
