"""Answers that come late, twice, or for another id, on the very connection that a command uses: none completes another call.

The protocol is the fake server's, the bytes and their order are a script's: what a proxy does that mixes requests up.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from remote_env import AnswerMismatch, Client, EpochChanged, Sandbox, SandboxGone
from remote_env.correlation import About, Homes
from remote_env.protocol import Execution, Problem
from remote_env.protocol import Sandbox as SandboxRecord
from tests.unit.client.badserver import BadServer
from tests.unit.client.conftest import FAST
from tests.unit.client.fakehttp import Request
from tests.unit.client.fakeserver import TOKEN, FakeServer, Fault, refusal

BOTH_FACES = True

START = r"/v1/sandboxes/[^/]+/executions$"
SHOW = r"/v1/executions/[^/]+$"


def parsed(raw: bytes) -> Request:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Request(method, parts.path, {name: values[-1] for name, values in parse_qs(parts.query).items()}, headers, body)


def wired(status: int, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Mixer:
    """Passes requests to a fake server and its answers back; with the answers to the commands numbered in `at` something
    else happens. Commands are counted from 1."""

    def __init__(self, fake: FakeServer, mix: Callable[[Mixer, bytes], bytes], at: tuple[int, ...]) -> None:
        self.fake = fake
        self.before = b""  # the answer to the command before this one
        self.held = b""  # what goes out ahead of the next answer
        self._mix = mix
        self._at = at
        self._commands = 0
        self._lock = threading.Lock()

    def __call__(self, connection: socket.socket, raw: bytes) -> bool:
        request = parsed(raw)
        answer = wired(*self.fake.handle(request))
        with self._lock:
            ahead, self.held = self.held, b""
            if request.path.endswith("/executions"):
                self._commands += 1
                sent = self._mix(self, answer) if self._commands in self._at else answer
                self.before = answer
            else:
                sent = answer
        connection.sendall(ahead + sent)
        return True


def twice(mixer: Mixer, answer: bytes) -> bytes:
    return answer + answer


def once_more_with_the_next(mixer: Mixer, answer: bytes) -> bytes:
    """The second copy passes every look at the idle connection: it comes when the next request is on its way."""
    mixer.held = answer
    return answer


def for_an_older_id(mixer: Mixer, answer: bytes) -> bytes:
    """The connection is off by one: the right answer comes too, one request late."""
    mixer.held = answer
    return mixer.before


def refusal_of_an_older_id(mixer: Mixer, answer: bytes) -> bytes:
    older = json.loads(mixer.before.partition(b"\r\n\r\n")[2])["id"]
    problem = Problem.of("not_found", "unknown here", id=older)
    return wired(404, {"X-Remote-Env-Protocol": "1"}, problem.model_dump_json().encode())


def with_the_headers_of_an_older_id(mixer: Mixer, answer: bytes) -> bytes:
    older = json.loads(mixer.before.partition(b"\r\n\r\n")[2])["id"]
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"X-Remote-Env-Execution")]
    return b"\r\n".join([*lines, b"X-Remote-Env-Execution: " + older.encode()]) + b"\r\n\r\n" + body


def of_another_sandbox(mixer: Mixer, answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    changed = json.dumps({**json.loads(body), "sandbox_id": "another-sandbox"}).encode()
    lines = [line for line in head.split(b"\r\n") if not line.startswith((b"Content-Length", b"X-Remote-Env-Sandbox"))]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(changed)]) + b"\r\n\r\n" + changed


MIXES = {
    # mix: whether the client can see it in an answer (else in the connection, before it uses it again)
    twice: False,
    once_more_with_the_next: True,
    for_an_older_id: True,
    refusal_of_an_older_id: True,
    with_the_headers_of_an_older_id: True,
    of_another_sandbox: True,
}


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.mark.parametrize("mix", MIXES, ids=[mix.__name__ for mix in MIXES])
@pytest.mark.parametrize("at", [(2,), (3,), (100,), (2, 3, 100)], ids=str)
def test_the_second_third_and_hundredth_command_get_their_own_answer_whatever_else_comes(
    fake: FakeServer, mix: Callable[[Mixer, bytes], bytes], at: tuple[int, ...]
) -> None:
    with BadServer(Mixer(fake, mix, at)) as server, Client(server.url, TOKEN, timings=FAST) as client:
        sandbox = client.create_sandbox("image")
        for number in range(1, 103):
            assert sandbox.run(f"echo {number}").text == f"{number}\n", "broke Correlation: another command's answer completed this one"
        stats = client.stats()
    assert all(count == 1 for count in fake.started.values()), "broke At-most-once"
    assert len(fake.started) == 102
    posts = [request for request in server.requests if request.startswith(b"POST") and b"/executions " in request.split(b"\r\n")[0]]
    assert len(posts) == 102, "a POST was sent twice"
    assert (stats["sent"], stats["completed"]) == (102, 102)
    if MIXES[mix]:
        assert stats["mismatched"] == len(at) or (mix is once_more_with_the_next and 0 < stats["mismatched"] <= len(at))
        assert stats["reattached"] >= 1
    else:
        assert stats["mismatched"] == 0


def test_every_connection_is_dropped_after_a_mismatch(fake: FakeServer) -> None:
    with BadServer(Mixer(fake, with_the_headers_of_an_older_id, (3,))) as server, Client(server.url, TOKEN, timings=FAST) as client:
        sandbox = client.create_sandbox("image")
        for number in range(1, 6):
            sandbox.run(f"echo {number}")
        assert len(server.connections) == 2
        assert client.stats()["connections_opened"] == 2


def test_an_answer_later_than_the_callers_patience_goes_to_nobody(fake: FakeServer) -> None:
    """The command is found again by its id; the connection on which its answer comes in the end is nobody's any more."""
    late = threading.Event()

    def hold(body: bytes) -> bytes:
        late.wait(20)
        return body

    with Client(fake.url, TOKEN, timings=replace(FAST, poll_margin_s=0.3)) as client:
        sandbox = client.create_sandbox("image")
        fake.on("POST", START, Fault(change=hold))
        assert sandbox.run("echo 1").text == "1\n"
        late.set()
        for number in range(2, 101):
            assert sandbox.run(f"echo {number}").text == f"{number}\n"
        stats = client.stats()
    assert stats["reattached"] >= 1
    assert stats["mismatched"] == 0
    assert all(count == 1 for count in fake.started.values())


# ------------------------------------------------------------------------------------------------- for the whole budget


def change(**fields: object) -> Fault:
    return Fault(change=lambda body: json.dumps({**json.loads(body), **fields}).encode())


def test_a_mix_up_that_lasts_is_an_error_of_its_own_and_completes_nothing(fake: FakeServer) -> None:
    with Client(fake.url, TOKEN, timings=replace(FAST, reconnect_budget_s=0.1)) as client:
        sandbox = client.create_sandbox("image")
        fake.on("POST", START, change(id="another-execution"))
        fake.on("GET", SHOW, *[change(id="another-execution")] * 10_000)
        with pytest.raises(AnswerMismatch, match="another-execution") as raised:
            sandbox.run("echo once")
        assert raised.value.execution_id in fake.executions
        stats = client.stats()
        assert stats["mismatched"] > 1
        assert stats["completed"] == 0


def test_a_sandbox_that_is_asked_for_and_another_that_answers_is_an_error_of_its_own(fake: FakeServer) -> None:
    with Client(fake.url, TOKEN, timings=replace(FAST, reconnect_budget_s=0.1)) as client:
        sandbox = client.create_sandbox("image")
        fake.on("GET", r"/v1/sandboxes/[^/]+$", *[change(id="another-sandbox")] * 10_000)
        with pytest.raises(AnswerMismatch):
            sandbox.refresh()


def test_raw_output_without_a_word_of_whose_it_is_is_no_answer(fake: FakeServer) -> None:
    """A proxy that strips headers, or another answer of the same length: the bytes alone cannot tell."""
    with Client(fake.url, TOKEN, timings=replace(FAST, reconnect_budget_s=0.05)) as client:
        sandbox = client.create_sandbox("image")
        execution = sandbox.start("hang")
        fake.write(execution.id, b"so far")
        nameless = Fault(answer=(206, {"X-Remote-Env-Protocol": "1", "Content-Range": "bytes 0-5/*"}, b"foreig"))
        fake.on("GET", "/output$", nameless)
        assert execution.output() == b"so far"
        assert client.stats()["mismatched"] == 1
        execution.cancel()


def test_an_execution_answers_nothing_but_questions_about_executions(fake: FakeServer) -> None:
    """/health and its like have no id in them: the headers tell that it is another request's answer."""
    with Client(fake.url, TOKEN, timings=FAST) as client:
        execution = client.create_sandbox("image").run("true")
        headers = {"X-Remote-Env-Protocol": "1", "X-Remote-Env-Execution": execution.id}
        stray = Fault(answer=(200, headers, execution.record.model_dump_json().encode()))
        fake.on("GET", "/health", stray)
        assert client.health().protocol == 1
        assert client.stats()["mismatched"] == 1


# ------------------------------------------------------------------------------------------------------- another server


@pytest.mark.parametrize("code", ["not_found", "epoch_mismatch", "gone", "wrong_state", "capacity"])
def test_another_servers_answer_ends_the_call_as_unknown(fake: FakeServer, sandbox: Sandbox, code: str) -> None:
    """The server was replaced, or another one stands behind the same address. It may say whatever it likes of our ids."""
    sandbox.run("true")
    stranger = refusal(code)
    assert stranger.answer is not None
    status, headers, body = stranger.answer
    fake.on("POST", START, Fault(answer=(status, {**headers, "X-Remote-Env-Instance": "instance-2"}, body)))
    with pytest.raises(EpochChanged, match="instance-2") as raised:
        sandbox.run("touch x")
    assert raised.value.execution_id is not None
    assert fake.started["touch x"] == 0
    with pytest.raises(SandboxGone):
        sandbox.run("true")


def test_a_server_replaced_while_a_command_runs_ends_that_call_as_unknown(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    execution = sandbox.start("hang")
    fake.instance_id = "instance-2"
    fake.executions.clear()
    with pytest.raises(EpochChanged, match="instance-2"):
        execution.wait()


def test_a_new_sandbox_of_the_new_server_works_at_once(fake: FakeServer, client: Client, sandbox: Sandbox) -> None:
    sandbox.run("true")
    fake.instance_id = "instance-2"
    fresh = client.create_sandbox("image")
    assert fresh.run("echo new").text == "new\n"
    assert client.link.instance_id == "instance-1", "until the next beat"


# ------------------------------------------------------------------------------------------------------------ the rules


def record(**fields: str) -> Execution:
    given = {"id": "e1", "sandbox_id": "s1", "epoch": "p1", **fields}
    return Execution.model_validate({**given, "run_id": "r1", "state": "running"})


@pytest.mark.parametrize("field", ["id", "sandbox_id", "epoch"])
def test_each_of_id_sandbox_and_epoch_must_be_the_one_asked_for(field: str) -> None:
    about = About("e1", "s1", "p1")
    assert about.wrong_body(record()) is None
    assert "other" in (about.wrong_body(record(**{field: "other"})) or "")


@pytest.mark.parametrize("header", ["Execution", "Sandbox", "Epoch"])
def test_each_header_must_agree_where_it_is_there_and_be_there_where_nothing_else_tells(header: str) -> None:
    about = About("e1", "s1", "p1")
    right = {"X-Remote-Env-Execution": "e1", "X-Remote-Env-Sandbox": "s1", "X-Remote-Env-Epoch": "p1"}
    name = f"X-Remote-Env-{header}"
    assert about.wrong_headers(right, required=True) is None
    assert "other" in (about.wrong_headers({**right, name: "other"}) or "")
    without = {key: value for key, value in right.items() if key != name}
    assert about.wrong_headers(without) is None
    assert name in (about.wrong_headers(without, required=True) or "")


def test_a_refusal_may_name_the_execution_or_its_sandbox_and_nobody_else() -> None:
    about = About("e1", "s1", "p1")
    for id_, right in (("e1", True), ("s1", True), (None, True), ("e2", False)):
        assert (about.wrong_problem(Problem.of("not_found", "", id=id_)) is None) is right


def test_a_sandbox_may_be_in_another_life_than_the_one_known() -> None:
    answer = SandboxRecord(id="s1", run_id="r1", image="i", state="running", epoch="p2")
    assert About(sandbox_id="s1", epoch="p1").wrong_body(answer) is None
    assert About(sandbox_id="s2").wrong_body(answer) is not None


def test_a_path_tells_what_a_request_is_about() -> None:
    assert About.of("/v1/executions/e1?wait=20", {"X-Remote-Env-Epoch": "p1"}) == About("e1", None, "p1")
    assert About.of("/v1/executions/e1/output") == About("e1")
    assert About.of("/v1/sandboxes/s1/executions") == About(None, "s1")
    assert About.of("/v1/executions?run_id=r1") == About()
    assert About.of("/health") == About()


def test_the_first_server_that_spoke_of_an_epoch_is_its_home_and_old_epochs_are_forgotten() -> None:
    homes = Homes()
    homes.learn("p1", "i1")
    homes.learn("p1", "i2")
    assert homes.stranger("p1", "i2") == "i1"
    assert homes.stranger("p1", "i1") is None
    assert homes.stranger("p1", None) is None, "an older server does not say"
    for number in range(5000):
        homes.learn(f"epoch{number}", "i1")
    assert homes.stranger("p1", "i2") is None
    assert homes.stranger("epoch4999", "i2") == "i1"
