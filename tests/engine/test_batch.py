"""Batches on a real server: outcomes, files, room, servers that die, Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remote_env.batch.entries import Begun, Ready, Sent
from remote_env.batch.jobfile import read_jobs
from remote_env.batch.opening import open_batch
from remote_env.driving import drive
from remote_env.exchange import JSON_BODY, dump
from remote_env.protocol import EPOCH_HEADER, AbandonRequest, Execution, new_id
from tests.support.batch import CLI, Witness, results_of, run_cli, small_job, start_cli, wait_for_line, write_jobs
from tests.support.outside import docker as engine
from tests.support.outside import peak_memory, until
from tests.support.server import BUSYBOX, Server

MakeServer = Callable[..., Server]


def left(server: Server, out: Path) -> list[str]:
    """The containers of a batch that are still there."""
    run_id = json.loads((out / "batch.json").read_text())["run_id"]
    with server.client() as client:
        return [sandbox.id for sandbox in client.sandboxes(run_id=run_id)]


def test_a_batch_runs_each_job_in_a_sandbox_of_its_own_and_keeps_what_it_leaves(server: Server, busybox_image: str, tmp_path: Path) -> None:
    (tmp_path / "input" / "sub").mkdir(parents=True)
    (tmp_path / "input" / "sub" / "data").write_text("from here")
    (tmp_path / "tool").write_text("#!/bin/sh\necho tool\n")
    jobs = write_jobs(
        tmp_path / "jobs.jsonl",
        [
            small_job(
                "passes", "cat in/sub/data a.txt; ./tool", {"command": "echo out; echo err >&2", "split": True, "name": "apart"},
                {"argv": ["cat"], "stdin": "given"},
                workdir="/work", env={"A": "1"}, metadata={"any": [1]}, setup=["mkdir left; echo $A > left/a"],
                files=[
                    {"path": "in", "source": "input"}, {"path": "a.txt", "content": "é"},
                    {"path": "tool", "source": "tool", "mode": "0755"},
                ],
                artifacts=["left", {"path": "/work/a.txt", "name": "b.txt", "required": True}, "/none"],
            ),
            small_job("fails", "exit 3", "echo never"),
            small_job("goes-on", {"command": "exit 3", "continue_on_failure": True}, "true"),
            small_job("slow", {"command": "sleep 60", "timeout_s": 0.5}, artifacts=[{"path": "/none", "required": True}]),
            small_job("over", "sleep 60", timeout_s=0.5),
            small_job("setup", setup=["exit 4"]),
            small_job("image") | {"image": "remote-env/there-is-none:latest"},
            small_job("without", artifacts=[{"path": "/none", "required": True}]),
            small_job("long", {"command": "yes 0123456789abcdef | head -c 3000000", "output_limit_bytes": 1000}),
        ],
    )  # fmt: skip
    out = tmp_path / "out"
    done = run_cli(server, "run", jobs, "--out", out, "--workers", "4")
    assert done.returncode == 3, done.stderr
    results = results_of(out)
    assert {id: (each.outcome, each.reason) for id, each in results.items() if id != "image"} == {
        "passes": ("passed", None),
        "fails": ("failed", "command 1 exited with 3"),
        "goes-on": ("failed", "command 1 exited with 3"),
        "slow": ("timed_out", "command 1 was ended after 0.5 s"),
        "over": ("timed_out", "command 1 was ended after 0.5 s"),
        "setup": ("error", "setup command 1 exited with 4"),
        "without": ("error", "required artifact missing: /none"),
        "long": ("passed", None),
    }
    assert results["image"].outcome == "error"
    assert "9 of 9 jobs have a result: 2 passed, 2 failed, 2 timed out, 3 error" in done.stderr

    passes = results["passes"]
    assert [(out / str(each.output_file)).read_bytes() for each in passes.commands] == [
        b"",
        "from hereétool\n".encode(),
        b"out\n",
        b"given",
    ]
    assert passes.commands[2].stderr is not None
    assert (out / str(passes.commands[2].stderr.file)).read_bytes() == b"err\n"
    assert [each.tail for each in passes.commands] == ["", "from hereétool\n", "out\n", "given"]
    assert passes.metadata == {"any": [1]}
    tree, file, none = passes.artifacts
    assert (out / str(tree.file) / "a").read_text() == "1\n"
    assert (file.file, file.sha256) == ("jobs/passes/1/artifacts/b.txt", hashlib.sha256("é".encode()).hexdigest())
    assert (none.file, none.error) == (None, none.error)
    assert none.error

    long = results["long"].commands[0]
    kept = (out / str(long.output_file)).read_bytes()
    assert (long.truncated, long.total_bytes, long.kept_bytes, len(kept)) == ("limit", 3_000_000, 1000, 1000)
    assert long.sha256 == hashlib.sha256(kept).hexdigest()
    assert len(results["goes-on"].commands) == 2
    assert not [path for path in out.rglob("*") if path.suffix == ".part"]
    assert left(server, out) == []

    again = run_cli(server, "run", jobs, "--out", out)
    assert again.returncode == 3
    assert "9 jobs, 9 of them are finished" in again.stderr
    assert len((out / "results.jsonl").read_text().splitlines()) == 9


def test_what_was_lost_is_run_again_only_where_that_is_asked_for(server: Server, busybox_image: str, tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.jsonl", [small_job("a", "touch /tmp/here; [ -e /tmp/second ] || sleep 60"), small_job("b")])
    out = tmp_path / "out"
    process = start_cli(server, "run", jobs, "--out", out, "--json")
    wait_for_line(process, lambda event: event["event"] == "job_step" and event["phase"] == "command" and event["id"] == "a")
    with server.client() as client:
        run_id = json.loads((out / "batch.json").read_text())["run_id"]
        (ours,) = (each for each in client.sandboxes(run_id=run_id) if each.record.labels["job"] == "a")
        until(lambda: ours.refresh().record.running, "its command runs")
        engine("rm", "-f", str(ours.container_id))
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert (results_of(out)["a"].outcome, results_of(out)["b"].outcome) == ("lost", "passed")

    assert run_cli(server, "run", jobs, "--out", out).returncode == 3
    assert results_of(out)["a"].attempt == 1
    changed = write_jobs(tmp_path / "changed.jsonl", [small_job("a"), small_job("b")])
    refused = run_cli(server, "run", changed, "--out", out)
    assert (refused.returncode, "1 jobs have changed since they were begun: a" in refused.stderr) == (2, True)
    assert run_cli(server, "run", changed, "--out", out, "--retry", "lost").returncode == 0
    a, b = results_of(out)["a"], results_of(out)["b"]
    assert (a.outcome, a.attempt, b.attempt) == ("passed", 2, 1)
    begun = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines() if '"begun"' in line and '"job":"a"' in line]
    assert [(each["attempt"], each.get("retry_of")) for each in begun] == [(1, None), (2, "lost")]


def test_a_server_without_room_slows_the_batch_down_and_fails_nothing(make_server: MakeServer, busybox_image: str, tmp_path: Path) -> None:
    small = make_server("--capacity-memory", "64MiB").start()
    never = small_job("never") | {"resources": {"memory": "128m"}}
    jobs = write_jobs(tmp_path / "jobs.jsonl", [never, *(small_job(f"j{number}") for number in range(6))])
    done = run_cli(small, "run", jobs, "--out", tmp_path / "out", "--workers", "6", "--json")
    assert done.returncode == 3, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert any(event["event"] == "job_waiting" for event in events)
    assert events[-1]["event"] == "batch_ended"
    assert events[-1]["summary"]["counts"] == {"passed": 6, "failed": 0, "timed_out": 0, "lost": 0, "error": 1}
    assert "memory_bytes: at most 67108864 on this server" in str(results_of(tmp_path / "out")["never"].reason)


def test_a_dead_servers_jobs_are_lost_or_moved_and_the_others_go_on(make_server: MakeServer, busybox_image: str, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness")
    options = ("--capacity-memory", "32MiB", "--bind-allow", str(witness.directory))
    first, second = make_server(*options).start(), make_server(*options).start()
    wait = "until [ -e /witness/go ]; do sleep 0.05; done"
    jobs = write_jobs(
        tmp_path / "jobs.jsonl", [small_job(f"j{n}", f"{witness.line(f'j{n}')}; {wait}", binds=[witness.bind]) for n in range(5)]
    )
    out = tmp_path / "out"
    addresses = [part for each in (first, second) for part in ("--server", f"{each.url},{each.data_dir / 'token'}")]
    process = start_cli(first, "run", jobs, "--out", out, *addresses, "--server-timeout", "1", "--workers", "2", "--json")
    until(lambda: len(witness.ran()) == 2, "two jobs run, one on each server")
    journal = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    lost = next(each["job"] for each in journal if each["kind"] == "sent" and each["job"] in on(journal, first))
    first.kill()
    wait_for_line(process, lambda event: event["event"] == "server_state" and event["state"] == "dead" and event["url"] == first.url)
    (witness.directory / "go").touch()
    process.communicate(timeout=120)
    results = results_of(out)
    assert process.returncode == 3
    assert results.pop(lost).outcome == "lost"
    assert {(id, each.outcome, each.server) for id, each in results.items()} == {
        (f"j{n}", "passed", second.url) for n in range(5) if f"j{n}" != lost
    }  # fmt: skip
    assert witness.ran() == {f"j{n}": 1 for n in range(5)}


def on(journal: list[dict[str, Any]], server: Server) -> set[str]:
    """The jobs whose latest beginning was on that server."""
    latest = {each["job"]: each["server"] for each in journal if each["kind"] == "begun"}
    return {job for job, url in latest.items() if url == server.url}


def test_with_no_server_left_the_rest_stays_queued_for_another_run(make_server: MakeServer, busybox_image: str, tmp_path: Path) -> None:
    alone = make_server().start()
    jobs = write_jobs(tmp_path / "jobs.jsonl", [small_job("a"), small_job("b")])
    alone.kill()
    away = run_cli(alone, "run", jobs, "--out", tmp_path / "out", "--server-timeout", "0.5")
    assert away.returncode == 3
    assert "2 are not finished: the same command line goes on with them" in away.stderr
    alone.start()
    assert run_cli(alone, "run", jobs, "--out", tmp_path / "out").returncode == 0


def test_the_sandboxes_of_jobs_that_did_not_pass_are_kept_where_that_is_asked_for(
    server: Server, busybox_image: str, tmp_path: Path
) -> None:
    failing = [small_job("fails", "echo left > /tmp/trace; exit 1"), small_job("setup", setup=["exit 1"]), small_job("more", "exit 1")]
    jobs, out = write_jobs(tmp_path / "jobs.jsonl", [small_job("passes"), *failing]), tmp_path / "out"
    done = run_cli(server, "run", jobs, "--out", out, "--workers", "1", "--keep-failed", "2")
    results = results_of(out)
    kept = {str(each.sandbox_id): id for id, each in results.items() if each.kept}
    assert sorted(kept.values()) == ["fails", "setup"]
    assert all(f"  {id}: remote-env shell --url {server.url} {sandbox}\n" in done.stderr for sandbox, id in kept.items())
    again = run_cli(server, "run", jobs, "--out", out, "--retry", "error")
    assert again.returncode == 3 and results_of(out)["setup"].attempt == 2
    with server.client() as client:
        sandboxes = [client.sandbox(id) for id in left(server, out)]
        assert {each.id for each in sandboxes} == set(kept), "another run leaves them alone, and keeps none itself"
        assert {each.record.lease_s for each in sandboxes} == {86400.0}
        assert client.sandbox(str(results["fails"].sandbox_id)).run("cat /tmp/trace").text == "left\n"
        for each in sandboxes:
            each.remove()


def test_a_refused_token_is_told_and_starts_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("not-the-token\n")
    jobs = write_jobs(tmp_path / "jobs.jsonl", [small_job("a")])
    done = run_cli(server, "run", jobs, "--out", tmp_path / "out", "--token-file", tmp_path / "token")
    assert (done.returncode, "token" in done.stderr) == (3, True)
    assert (tmp_path / "out" / "journal.jsonl").read_text() == ""


def test_a_command_that_an_earlier_process_had_fenced_is_sent_under_another_id(server: Server, busybox_image: str, tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.jsonl", [small_job("a", "echo ran >> /tmp/ran; cat /tmp/ran")])
    found = read_jobs(jobs.read_bytes(), name=jobs.name, base=tmp_path)
    directory, info = open_batch(tmp_path / "out", found, servers=[server.url], options={})
    with directory, server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, run_id=info.run_id, memory_bytes=32 << 20, network="none")
        fenced = new_id()
        drive(client.exchange.ask(
            Execution, "POST", f"/v1/executions/{fenced}/abandon", dump(AbandonRequest(sandbox_id=sandbox.id)),
            {EPOCH_HEADER: sandbox.epoch, **JSON_BODY}, budget_s=10.0,
        ))  # fmt: skip
        until(lambda: client.execution(fenced).over, "the fence is confirmed")
        named = {"job": "a", "attempt": 1, "at": 0.0}
        directory.note(
            Begun(digest=found.jobs[0].digest, server=server.url, sandbox_id=sandbox.id, lease_s=300, worker=0, queued_at=0, **named)
        )
        directory.note(Ready(epoch=sandbox.epoch, create_s=0, **named))
        directory.note(Sent(step=0, execution_id=fenced, timeout_s=1800, **named))
    assert run_cli(server, "run", jobs, "--out", tmp_path / "out").returncode == 0
    (command,) = results_of(tmp_path / "out")["a"].commands
    assert (command.tail, command.execution_id != fenced) == ("ran\n", True)


# ------------------------------------------------------------------------------------------------------------- Ctrl-C


def running(process: subprocess.Popen[str], count: int) -> set[str]:
    """Waits until so many jobs have their command running."""
    found: set[str] = set()
    while len(found) < count:
        found.add(wait_for_line(process, lambda event: event["event"] == "job_step" and event["phase"] == "command")["id"])
    return found


def test_the_first_ctrl_c_lets_what_runs_end_and_begins_nothing_new(make_server: MakeServer, busybox_image: str, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness")
    server = make_server("--bind-allow", str(witness.directory)).start()
    wait = "until [ -e /witness/go ]; do sleep 0.05; done"
    jobs = write_jobs(
        tmp_path / "jobs.jsonl", [small_job(f"j{n}", f"{witness.line(f'j{n}')}; {wait}", "true", binds=[witness.bind]) for n in range(4)]
    )
    out = tmp_path / "out"
    process = start_cli(server, "run", jobs, "--out", out, "--workers", "2", "--json")
    assert running(process, 2) == {"j0", "j1"}
    process.send_signal(signal.SIGINT)
    wait_for_line(process, lambda event: event["event"] == "batch_state" and event["state"] == "draining")
    (witness.directory / "go").touch()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert {id: each.outcome for id, each in results_of(out).items()} == {"j0": "passed", "j1": "passed"}
    assert run_cli(server, "run", jobs, "--out", out).returncode == 0
    assert witness.ran() == {f"j{n}": 1 for n in range(4)}


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)], ids=["second Ctrl-C", "SIGTERM"])
def test_what_runs_is_cancelled_and_removed_and_run_again_only_by_retry(
    server: Server, busybox_image: str, tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    jobs = write_jobs(tmp_path / "jobs.jsonl", [small_job(f"j{n}", "sleep 60") for n in range(3)])
    out = tmp_path / "out"
    process = start_cli(server, "run", jobs, "--out", out, "--workers", "2", "--json")
    assert running(process, 2) == {"j0", "j1"}
    for number in signals:
        process.send_signal(number)
        wait_for_line(process, lambda event: event["event"] == "batch_state")
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert {id: (each.outcome, each.reason) for id, each in results_of(out).items()} == {
        "j0": ("error", "cancelled by Ctrl-C"), "j1": ("error", "cancelled by Ctrl-C"),
    }  # fmt: skip
    assert left(server, out) == []
    write_jobs(jobs, [small_job(f"j{n}", "true") for n in range(3)])
    assert run_cli(server, "run", jobs, "--out", out, "--retry", "error").returncode == 0
    assert {id: each.attempt for id, each in results_of(out).items()} == {"j0": 2, "j1": 2, "j2": 1}


def test_the_third_ctrl_c_leaves_at_once_and_another_run_takes_up_what_runs(
    make_server: MakeServer, busybox_image: str, tmp_path: Path
) -> None:
    witness = Witness(tmp_path / "witness")
    server = make_server("--bind-allow", str(witness.directory)).start()
    command = f"{witness.line('once')}; until [ -e /witness/go ]; do sleep 0.05; done"
    jobs = write_jobs(tmp_path / "jobs.jsonl", [small_job("a", command, binds=[witness.bind])])
    out = tmp_path / "out"
    process = start_cli(server, "run", jobs, "--out", out, "--json")
    until(witness.ran, "the command runs")
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)  # so that no cancel gets through
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        wait_for_line(process, lambda event: event["event"] == "batch_state")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert results_of(out) == {}
    server.kill()  # the requests that wait in its sockets go with it
    server.start()
    (tmp_path / "token").write_text("not-the-token\n")
    refused = run_cli(server, "run", jobs, "--out", out, "--token-file", tmp_path / "token")
    assert (refused.returncode, results_of(out)) == (3, {}), "what cannot be asked for is not lost"
    (witness.directory / "go").touch()
    assert run_cli(server, "run", jobs, "--out", out).returncode == 0
    assert (witness.ran(), results_of(out)["a"].reattached) == ({"once": 1}, 2)


# ---------------------------------------------------------------------------------------------------- the command line


def test_a_bad_job_file_starts_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text('{"id": "a"}\nno\n')
    for words in (("check",), ("run", "--out", str(tmp_path / "out"))):
        done = run_cli(server, *words, tmp_path / "jobs.jsonl")
        assert done.returncode == 2
        assert "3 things are wrong, and nothing was started" in done.stderr
        assert "line 2: not JSON" in done.stderr
    assert not (tmp_path / "out").exists()


def test_jobs_come_from_standard_input_too_and_can_be_chosen(server: Server, busybox_image: str, tmp_path: Path) -> None:
    text = "".join(json.dumps(small_job(f"j{n}")) + "\n" for n in range(3))
    done = subprocess.run(
        [*CLI, "run", "-", "--out", str(tmp_path / "out"), "--only", "j1", "--only", "j2", "--limit", "1", "--quiet"],
        input=text, capture_output=True, text=True, env={**os.environ, **server.env}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(results_of(tmp_path / "out")) == {"j1"}
    assert done.stderr == "1 of 1 jobs have a result: 1 passed\npassed: 100.0% of the 1 that were judged\n"


def test_two_batches_do_not_share_a_directory(server: Server, busybox_image: str, tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.jsonl", [small_job("a", "sleep 60")])
    first = start_cli(server, "run", jobs, "--out", tmp_path / "out", "--json")
    running(first, 1)
    second = run_cli(server, "run", jobs, "--out", tmp_path / "out")
    assert (second.returncode, f"another batch (pid {first.pid}) is at work" in second.stderr) == (2, True)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)


def test_outputs_go_to_their_files_without_being_held_in_memory(server: Server, sandbox_image: str, tmp_path: Path) -> None:
    size = 32 << 20
    command = f"head -c {size} /dev/zero | tr '\\0' x"
    jobs = [small_job(f"j{n}", command, resources={"memory": "64m"}) for n in range(4)]
    process = start_cli(server, "run", write_jobs(tmp_path / "jobs.jsonl", jobs), "--out", tmp_path / "out", "--workers", "4", "--quiet")
    assert process.stderr is not None and process.stdout is not None
    peak = 0  # of its own: what wait4 tells begins with that of the process it was forked from
    while process.poll() is None:
        peak = max(peak, peak_memory(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0, process.stderr.read()
    assert [each.commands[0].kept_bytes for each in results_of(tmp_path / "out").values()] == [size] * 4
    assert 0 < peak < 4 * size
