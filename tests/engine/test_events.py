"""Live output and state over GET …/events, by a reader that is not our client: every byte once, whatever breaks on the way."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
from collections.abc import Callable, Iterator

import pytest

from remote_env import Client, Execution, Sandbox
from remote_env.protocol import EPOCH_HEADER, INLINE_LIMIT, new_id
from tests.engine.conftest import Http
from tests.engine.following import CROWD, LINE, STALLED, follow, go, lines, metric, wait_for
from tests.support.follower import Follower, Said, output
from tests.support.outside import docker, until
from tests.support.server import BUSYBOX, SMALL, Server


@pytest.fixture
def own_server(make_server: Callable[..., Server]) -> Server:
    return make_server().start()


@pytest.fixture
def own_sandbox(own_server: Server) -> Iterator[Sandbox]:
    with own_server.client() as client:
        yield client.create_sandbox(BUSYBOX, memory_bytes=SMALL)


# ----------------------------------------------------------------------------------------- what is told, and when


def test_output_is_told_while_the_command_waits_for_its_reader(server: Server, sandbox: Sandbox) -> None:
    """Each step of the command waits until the test has heard of the one before."""
    execution = sandbox.start("for step in 1 2 3; do echo step $step; while [ ! -e /step$step ]; do sleep 0.02; done; done; exit 7")
    with follow(server, execution) as follower:
        heard = follower.until("started")
        for step in (1, 2, 3):
            heard += follower.until("output")
            go(sandbox, f"step{step}")
        heard += follower.until("end")
        assert list(follower) == []
    assert output(heard) == b"step 1\nstep 2\nstep 3\n"
    assert heard[-1].data["outcome"]["code"] == 7
    assert execution.wait().returncode == 7


def test_started_is_told_of_a_command_that_says_nothing(server: Server, sandbox: Sandbox) -> None:
    execution = sandbox.start(wait_for("go"))
    with follow(server, execution) as follower:
        follower.until("started")
        go(sandbox, "go")
        assert [each.name for each in follower] == ["end"]


def test_the_end_is_what_a_get_answers(server: Server, http: Http, sandbox: Sandbox) -> None:
    for command, inline in ((f"yes | head -c {INLINE_LIMIT}", True), (f"yes | head -c {INLINE_LIMIT + 1}", False)):
        execution = sandbox.run(command)
        with follow(server, execution) as follower:
            told = follower.until("end")[-1].data
        assert told == http("GET", f"/v1/executions/{execution.id}", epoch=execution.epoch).json()
        assert (told["output"]["text"] is not None) is inline


def test_a_character_that_is_torn_in_time_is_told_whole(server: Server, sandbox: Sandbox) -> None:
    execution = sandbox.start(f"printf 'a\\342\\202'; {wait_for('go')}; printf '\\254b'")
    with follow(server, execution) as follower:
        heard = follower.until("output")
        go(sandbox, "go")
        heard += list(follower)
    assert [each.data["text"] for each in heard if each.name == "output"] == ["a", "€b"]


def test_output_that_is_no_text_arrives_as_it_is(server: Server, sandbox: Sandbox) -> None:
    execution = sandbox.run("head -c 300000 /dev/urandom")
    with follow(server, execution) as follower:
        assert output(list(follower)) == execution.output()


def test_stdout_and_stderr_are_told_apart_and_resumed_apart(server: Server, sandbox: Sandbox) -> None:
    execution = sandbox.run("for n in $(seq 1 20000); do echo $n; echo e$n >&2; done", streams="split")
    with follow(server, execution) as follower:
        heard = list(follower)
    out, err = lines(20000), b"".join(b"e%d\n" % number for number in range(1, 20001))
    assert (output(heard, 0, "stdout"), output(heard, 0, "stderr")) == (out, err)
    with follow(server, execution, last="1000,70000") as follower:
        heard = list(follower)
    assert heard[0].id == "1000,70000"
    assert (output(heard, 1000, "stdout"), output(heard, 70000, "stderr")) == (out[1000:], err[70000:])
    with follow(server, execution, last="1000") as follower:
        assert follower.status == 422


def test_commands_that_never_ran_have_an_end_all_the_same(server: Server, http: Http, sandbox: Sandbox) -> None:
    missing = sandbox.run(["/no/such/program"])
    with follow(server, missing) as follower:
        events = list(follower)
    assert [each.name for each in events if each.name != "started"] == ["accepted", "end"]
    assert events[-1].data["outcome"]["kind"] == "failed_to_start"
    eid = new_id()
    http("POST", f"/v1/executions/{eid}/abandon", epoch=sandbox.epoch, wait=30, json={"sandbox_id": sandbox.id})
    with Follower(server.port, server.token, eid, sandbox.epoch) as follower:
        events = list(follower)
    assert [each.name for each in events] == ["accepted", "end"]
    assert events[-1].data["state"] == "abandoned"


# --------------------------------------------------------------------------------------------------- resuming


def test_a_stream_that_breaks_again_and_again_gives_every_byte_once(server: Server, sandbox: Sandbox) -> None:
    """The reader drops its connection after a few events, while the command runs and after, and goes on behind the last."""
    execution = sandbox.start("for n in $(seq 1 400); do seq $n 1000; done; echo over")
    dice, heard, last, connections = random.Random(3), list[Said](), "0", 0
    while not heard or heard[-1].name != "end":
        with follow(server, execution, last=last) as follower:
            connections += 1
            for _ in range(dice.randint(3, 4)):
                heard.append(next(follower))
                if heard[-1].name == "end":
                    break
            last = follower.last or last
    assert connections > 5
    assert output(heard) == b"".join(lines(1001 - n, n) for n in range(1, 401)) + b"over\n"


@pytest.mark.parametrize("position", [0, 1, 65535, 65536, 65537, 199_999, 200_000])
def test_a_finished_execution_is_resumed_at_any_byte(server: Server, shared: Sandbox, position: int) -> None:
    execution = shared.run("yes 0123456789abcde | head -c 200000")
    with follow(server, execution, last=str(position)) as follower:
        assert output(list(follower), position) == (LINE * 12500)[position:]


def test_from_now_begins_with_what_comes_next_and_says_where_that_is(server: Server, sandbox: Sandbox) -> None:
    execution = sandbox.start(f"echo before; {wait_for('go')}; echo after")
    until(lambda: execution.refresh().record.output.total_bytes == 7, "it has said the first line")
    with follow(server, execution, begin="now") as follower:
        first = next(follower)
        go(sandbox, "go")
        assert (first.name, first.id) == ("accepted", "7")
        assert output(list(follower), 7) == b"after\n"
    with follow(server, execution, last=first.id) as follower:
        assert output(list(follower), 7) == b"after\n"


def test_server_killed_in_the_middle_of_a_stream_continues_it_at_the_very_byte(own_server: Server, own_sandbox: Sandbox) -> None:
    """The offsets are those of the spool file, which outlives the process: no byte is told twice, none is missing, while the
    command runs and after it has ended."""
    execution = own_sandbox.start("for n in 1 2 3; do seq 1 50000; while [ ! -e /go$n ]; do sleep 0.02; done; done; seq 1 50000")
    heard, last, size = list[Said](), "0", len(lines(50000))
    for step in (1, 2, 3):
        with follow(own_server, execution, last=last) as follower:
            told = 0
            while told < size * 2 // 3:  # and the rest of this step's output is lost on the way
                heard.append(next(follower))
                told += len(heard[-1].bytes) if heard[-1].name == "output" else 0
            last = follower.last or last
            own_server.kill()
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                follower.until("end")
        own_server.start()
        go(own_sandbox, f"go{step}")
    with follow(own_server, execution, last=last) as follower:
        heard += list(follower)
    assert output(heard) == lines(50000) * 4
    own_server.kill()
    own_server.start()
    assert heard[0].name == "accepted" and heard[-1].name == "end"
    with follow(own_server, execution, last="100001") as follower:
        again = list(follower)
    assert output(again, 100001) == (lines(50000) * 4)[100001:]
    assert again[-1].data == heard[-1].data


def test_server_killed_and_back_before_the_sandbox_is_still_has_the_position(own_server: Server, own_sandbox: Sandbox) -> None:
    """The position is known from the file alone: the init need not have connected again."""
    execution = own_sandbox.start(f"seq 1 1000; {wait_for('go')}")
    with follow(own_server, execution) as follower:
        follower.until("output")
        last = follower.last
    docker("pause", str(own_sandbox.container_id))
    try:
        own_server.kill()
        own_server.start()
        with follow(own_server, execution, last=str(last)) as follower:
            assert follower.status == 200
            assert next(follower).id == last
        with follow(own_server, execution, last="999999") as follower:
            assert follower.status == 422
    finally:
        docker("unpause", str(own_sandbox.container_id))
        go(own_sandbox, "go")


def test_purged_output_is_a_gap_and_the_end_says_so(own_server: Server) -> None:
    with own_server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        execution = sandbox.run("seq 1 1000")
        sandbox.remove(purge=True)
        with follow(own_server, execution) as follower:
            events = list(follower)
    assert [each.name for each in events] == ["accepted", "started", "gap", "end"]
    assert events[2].data["to"] == len(lines(1000))
    assert events[3].data["output"]["purged"] is True


# --------------------------------------------------------------------------------------------------- stopping


class Waiting:
    """A long-poll in a thread of its own."""

    def __init__(self, server: Server, execution: Execution) -> None:
        self.answer: tuple[int, bytes] | None = None
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=90)
        headers = {"Authorization": f"Bearer {server.token}", EPOCH_HEADER: execution.epoch}
        self._connection.request("GET", f"/v1/executions/{execution.id}?wait=60", headers=headers)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        response = self._connection.getresponse()
        self.answer = response.status, response.read()

    def join(self) -> tuple[int, bytes]:
        self._thread.join(90)
        self._connection.close()
        assert self.answer is not None
        return self.answer


def test_a_stopping_server_ends_streams_and_long_polls_in_order_and_waits_for_nobody(own_server: Server, own_sandbox: Sandbox) -> None:
    """100 streams and 100 long-polls are open; ten streams and a download are not read. Who reads is told that the server
    stops, by an answer that is whole; who does not is cut, long before the time that answers under way have is over."""
    flood = own_sandbox.start(f"yes 0123456789abcde | head -c 50000000; {wait_for('go')}")
    until(lambda: flood.refresh().record.output.total_bytes == 50_000_000, "the flood is over")
    quiet = own_sandbox.start(f"echo hello; {wait_for('go')}")
    with contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(follow(own_server, flood)) for _ in range(STALLED)]
        download = stack.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", own_server.port, timeout=30)))
        headers = {"Authorization": f"Bearer {own_server.token}", EPOCH_HEADER: flood.epoch}
        download.request("GET", f"/v1/executions/{flood.id}/output", headers=headers)
        assert download.getresponse().status == 200
        readers = [stack.enter_context(follow(own_server, quiet)) for _ in range(CROWD - STALLED)]
        for reader in readers:
            reader.until("output")
        polls = [Waiting(own_server, quiet) for _ in range(CROWD)]
        assert metric(own_server, "remote_env_streams") == CROWD
        assert own_server.stop() == 0
        assert [[each.name for each in reader] for reader in readers] == [["stopping"]] * len(readers)
        for poll in polls:
            status, body = poll.join()
            assert (status, b'"state":"running"' in body) in ((200, True), (503, False)), body
        for each in stalled:
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                each.until("end")
    log = own_server.log.read_text()
    assert "exceeded" not in log and "Traceback" not in log
    own_server.start()
    go(own_sandbox, "go")
    with follow(own_server, quiet, last=str(readers[0].last)) as follower:
        assert [each.name for each in follower] == ["accepted", "started", "end"]


# ------------------------------------------------------------------------------------------------- correlation


def test_every_answer_says_what_it_is_about(server: Server, http: Http, client: Client, shared: Sandbox) -> None:
    execution = shared.run("echo hello")
    path, epoch = f"/v1/executions/{execution.id}", execution.epoch
    about = {"X-Remote-Env-Execution": execution.id, "X-Remote-Env-Sandbox": shared.id, "X-Remote-Env-Epoch": epoch}
    instance = client.health().instance_id
    for reply in (
        http("GET", path, epoch=epoch),
        http("GET", f"{path}/output", epoch=epoch),
        http("GET", f"{path}/output", epoch=epoch, headers={"Range": "bytes=99-"}),
        http("GET", f"{path}/events", epoch=epoch),
        http("POST", f"{path}/cancel", epoch=epoch),
        http("POST", f"{path}/signal", epoch=epoch, json={"signal": 15}),
        http("GET", f"{path}/events", epoch=epoch, headers={"Last-Event-ID": "7"}),
    ):
        assert {name: reply.headers.get(name) for name in about} == about, reply.text
        assert reply.headers["X-Remote-Env-Instance"] == instance


def test_requests_that_mean_another_execution_are_refused_and_counted(
    server: Server, http: Http, make_sandbox: Callable[..., Sandbox]
) -> None:
    one, other = make_sandbox(), make_sandbox()
    execution = one.run("true")
    body = {"id": execution.id, "command": "true"}

    def count(kind: str) -> float:
        return metric(server, f'remote_env_mismatches_total{{kind="{kind}"}}')

    run, run_other = f"/v1/sandboxes/{one.id}/executions", f"/v1/sandboxes/{other.id}/executions"
    requests: list[tuple[str, str, str, str, str, dict[str, str] | None]] = [
        ("epoch", "epoch_mismatch", "GET", f"/v1/executions/{execution.id}/events", other.epoch, None),
        ("epoch", "epoch_mismatch", "POST", run, other.epoch, {**body, "id": new_id()}),
        ("sandbox", "id_conflict", "POST", run_other, one.epoch, body),
        ("body", "id_conflict", "POST", run, one.epoch, {**body, "command": "false"}),
    ]
    for kind, code, method, path, epoch, sent in requests:
        before = count(kind)
        reply = http(method, path, epoch=epoch, json=sent)
        assert (reply.json()["code"], reply.headers.get("X-Remote-Env-Epoch")) == (code, None)
        assert count(kind) == before + 1
