"""The connection between client and server breaks: before the request is delivered, after it, in the middle of the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from remote_env import Client, CommandNotDelivered, Sandbox
from remote_env.protocol import EPOCH_HEADER, new_id
from tests.support.outside import runs
from tests.support.proxy import CuttingProxy
from tests.support.server import Server

POST = b"/executions HTTP/1.1"


@pytest.fixture
def proxy(server: Server) -> Iterator[CuttingProxy]:
    made = CuttingProxy(server.port)
    yield made
    made.close()


@pytest.fixture
def through(server: Server, proxy: CuttingProxy, sandbox: Sandbox) -> Iterator[Sandbox]:
    """The sandbox, as a client sees it that comes through the proxy."""
    with Client(proxy.url, server.token) as client:
        yield client.sandbox(sandbox.id)


@pytest.mark.parametrize("cut", ["after_delivery", "half_response"])
def test_answer_cut_after_delivery_is_found_again_by_its_id(cut: str, through: Sandbox, proxy: CuttingProxy) -> None:
    """Broken: the command was delivered, its answer was not. Must hold: the true result, one run, one POST."""
    proxy.cut_next(POST, cut)  # type: ignore[arg-type]
    execution = through.run("echo c >> /ran; echo out; exit 5")
    assert (execution.returncode, execution.text) == (5, "out\n")
    assert runs(through) == Counter(c=1), "broke At-most-once"
    assert proxy.posts(POST) == 1, "the client sent a POST twice"


def test_request_cut_before_delivery_is_fenced_and_said_so(through: Sandbox, proxy: CuttingProxy, server: Server) -> None:
    """Broken: the request was lost on the way. Must hold: the caller is told that it did not run and never will, and a late
    copy of the very same request runs nothing."""
    proxy.cut_next(POST, "before_delivery")
    with pytest.raises(CommandNotDelivered) as lost:
        through.run("echo c >> /ran")
    assert proxy.posts(POST) == 1
    late = requests.post(
        f"{server.url}/v1/sandboxes/{through.id}/executions",
        json={"id": lost.value.execution_id, "command": "echo c >> /ran"},
        headers={"Authorization": f"Bearer {server.token}", EPOCH_HEADER: through.epoch, "Prefer": "wait=5"}, timeout=30,
    )  # fmt: skip
    assert (late.status_code, late.json()["state"]) == (200, "abandoned")
    assert runs(through) == Counter(), "broke the fence: an abandoned id ran"


def test_lost_request_is_sent_once_more_under_a_new_id_where_asked(through: Sandbox, proxy: CuttingProxy) -> None:
    proxy.cut_next(POST, "before_delivery")
    execution = through.run("echo c >> /ran; exit 4", on_undelivered="redeliver")
    assert execution.returncode == 4
    assert runs(through) == Counter(c=1)


def test_read_that_was_not_delivered_is_run_again_as_a_new_execution(through: Sandbox, proxy: CuttingProxy) -> None:
    """`cat` changes nothing: losing its answer is worse than running it again, and the result says that it was."""
    proxy.cut_next(POST, "before_delivery")
    execution = through.run("cat /etc/passwd")
    assert execution.returncode == 0
    assert execution.attempts == 2


def test_abandon_whose_answer_is_lost_is_asked_for_again(through: Sandbox, proxy: CuttingProxy) -> None:
    """Broken: the POST is lost, and then the answer to the abandon. Must hold: still the truth."""
    proxy.cut_next(POST, "before_delivery")
    proxy.cut_next(b"/abandon HTTP/1.1", "after_delivery")
    with pytest.raises(CommandNotDelivered):
        through.run("echo c >> /ran")
    assert runs(through) == Counter()


def test_long_poll_that_breaks_is_taken_up_again(through: Sandbox, proxy: CuttingProxy) -> None:
    proxy.cut_next(POST, "after_delivery")
    proxy.cut_next(b"GET /v1/executions/", "half_response")
    proxy.cut_next(b"GET /v1/executions/", "after_delivery")
    execution = through.run("echo c >> /ran; sleep 0.3; echo done")
    assert execution.text == "done\n"
    assert runs(through) == Counter(c=1)


def test_output_too_long_for_the_answer_survives_cuts_while_it_is_fetched(through: Sandbox, proxy: CuttingProxy) -> None:
    proxy.cut_next(b"/output", "half_response")
    proxy.cut_next(b"/output", "after_delivery")
    execution = through.run("echo c >> /ran; seq 1 300000")
    assert execution.output() == b"".join(b"%d\n" % n for n in range(1, 300001))
    assert runs(through) == Counter(c=1)


def test_twenty_copies_of_one_post_in_parallel_run_once(sandbox: Sandbox, server: Server) -> None:
    """Broken: a proxy repeats a POST. Must hold: one is new, all are told the same result, it ran once."""
    execution_id = new_id()

    def post(_: int) -> requests.Response:
        return requests.post(
            f"{server.url}/v1/sandboxes/{sandbox.id}/executions",
            json={"id": execution_id, "command": "echo c >> /ran; sleep 0.2; echo out"},
            headers={"Authorization": f"Bearer {server.token}", EPOCH_HEADER: sandbox.epoch, "Prefer": "wait=20"}, timeout=60,
        )  # fmt: skip

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))
    assert Counter(answer.status_code for answer in answers) == Counter({201: 1, 200: 19})
    assert {answer.json()["output"]["text"] for answer in answers} == {"out\n"}
    assert runs(sandbox) == Counter(c=1), "broke At-most-once"
