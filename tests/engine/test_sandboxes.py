"""Sandboxes: made once, removed for good, reaped with their lease, and never anybody else's."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remote_env import Client, Sandbox
from remote_env.errors import IdConflict, SandboxGone
from remote_env.protocol import new_id
from tests.engine.conftest import Http, MakeSandbox, inspect
from tests.support.outside import docker as engine
from tests.support.outside import until
from tests.support.server import BUSYBOX, SMALL, Server


def exists(container_id: str | None) -> bool:
    assert container_id
    return container_id in engine("ps", "-aq", "--no-trunc").split()


def running(container_id: str | None) -> bool:
    assert container_id
    return container_id in engine("ps", "-q", "--no-trunc").split()


def body(sandbox_id: str, **more: object) -> dict[str, object]:
    return {"id": sandbox_id, "image": BUSYBOX, "run_id": "run-of-the-tests", "memory_bytes": SMALL, **more}


@pytest.fixture
def container(busybox_image: str) -> Iterator[Callable[..., str]]:
    """Make containers that no server made: `container(*labels)`; removed after the test."""
    made: list[str] = []

    def make(*labels: str) -> str:
        options = [word for label in labels for word in ("--label", label)]
        # Made, then started: a sweep that comes in between ends a `docker run` in error, and is what some wait for.
        made.append(engine("create", *options, busybox_image, "sleep", "600").strip())
        subprocess.run(["docker", "start", made[-1]], capture_output=True, check=False)
        return made[-1]

    yield make
    for each in made:
        subprocess.run(["docker", "rm", "-fv", each], capture_output=True, check=False)


def test_post_of_the_same_sandbox_again_makes_no_second_one(server: Server, http: Http, make_sandbox: MakeSandbox) -> None:
    sid = new_id()
    first = http("POST", "/v1/sandboxes", wait=30, json=body(sid))
    assert (first.status_code, first.json()["state"]) == (201, "running")
    again = http("POST", "/v1/sandboxes", wait=30, json=body(sid))
    assert (again.status_code, again.json()["container_id"]) == (200, first.json()["container_id"])
    assert len(engine("ps", "-aq", "--filter", f"label=remote-env.sandbox={sid}").split()) == 1
    assert http("DELETE", f"/v1/sandboxes/{sid}", wait=30).status_code == 200


def test_post_of_the_same_id_with_another_body_is_a_conflict(http: Http, client: Client, sandbox: Sandbox) -> None:
    with pytest.raises(IdConflict):
        client.create_sandbox(BUSYBOX, id=sandbox.id, memory_bytes=SMALL, workdir="/tmp")
    answer = http("POST", "/v1/sandboxes", json=body(sandbox.id, pids=99))
    assert (answer.status_code, answer.json()["code"]) == (422, "id_conflict")
    assert sandbox.run("echo lives").text == "lives\n"


def test_removed_sandbox_is_gone_for_the_engine_and_its_id_for_good(http: Http, client: Client) -> None:
    sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
    sandbox.remove()
    assert not exists(sandbox.container_id)
    sandbox.remove()
    assert http("DELETE", f"/v1/sandboxes/{sandbox.id}").status_code == 200
    shown = http("GET", f"/v1/sandboxes/{sandbox.id}")
    assert (shown.status_code, shown.json()["state"]) == (200, "removed")
    again = http("POST", "/v1/sandboxes", json=body(sandbox.id))
    assert (again.status_code, again.json()["code"]) == (410, "gone")
    with pytest.raises(SandboxGone):
        client.sandbox(sandbox.id).run("true")


def test_delete_of_an_unknown_id_fences_it(http: Http) -> None:
    sid = new_id()
    answer = http("DELETE", f"/v1/sandboxes/{sid}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    late = http("POST", "/v1/sandboxes", wait=30, json=body(sid))
    assert (late.status_code, late.json()["code"]) == (410, "gone")
    assert engine("ps", "-aq", "--filter", f"label=remote-env.sandbox={sid}") == ""


def test_sandbox_that_is_deleted_while_it_is_made_leaves_no_container(server: Server, http: Http) -> None:
    sid = new_id()
    assert http("POST", "/v1/sandboxes", json=body(sid)).status_code == 202
    assert http("DELETE", f"/v1/sandboxes/{sid}", wait=30).json()["state"] == "removed"
    assert engine("ps", "-aq", "--filter", f"label=remote-env.sandbox={sid}") == ""


def test_results_outlive_their_sandbox_until_purged(client: Client, http: Http) -> None:
    sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
    execution = sandbox.run("echo kept")
    sandbox.remove()
    assert client.execution(execution.id).text == "kept\n"
    sandbox.remove(purge=True)
    left = http("GET", f"/v1/executions/{execution.id}", epoch=execution.epoch)
    assert (left.status_code, left.json()["outcome"]["code"]) == (200, 0)
    assert (left.json()["output"]["purged"], left.json()["output"]["text"]) == (True, None)
    output = http("GET", f"/v1/executions/{execution.id}/output", epoch=execution.epoch)
    assert (output.status_code, output.json()["code"]) == (410, "gone")


def test_labels_are_the_callers_and_ours(server: Server, make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(labels={"task": "42", "remote-env.instance": "forged", "remote-env.sandbox": "forged"})
    labels = inspect(sandbox)["Config"]["Labels"]
    assert labels["task"] == "42"
    assert labels["remote-env.sandbox"] == sandbox.id
    assert labels["remote-env.instance"] == (server.data_dir / "instance_id").read_text().strip()


def test_sandboxes_are_listed_by_run_and_state(client: Client, make_sandbox: MakeSandbox) -> None:
    run = new_id()
    here, gone = make_sandbox(run_id=run), make_sandbox(run_id=run)
    gone.remove()
    assert [sandbox.id for sandbox in client.sandboxes(run_id=run)] == [here.id]
    assert {sandbox.id for sandbox in client.sandboxes(run_id=run, state="all")} == {here.id, gone.id}
    assert client.sandboxes(run_id=new_id()) == []


def test_another_client_can_attach(server: Server, sandbox: Sandbox) -> None:
    with server.client() as other:
        assert other.sandbox(sandbox.id).run("echo attached").text == "attached\n"


# ------------------------------------------------------------------------------------------------------------- leases


def create(http: Http, **more: object) -> dict[str, str]:
    """A sandbox that no client keeps alive."""
    answer = http("POST", "/v1/sandboxes", wait=30, json=body(new_id(), run_id=new_id(), **more))
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


def start(http: Http, sandbox: dict[str, str], command: str, **more: object) -> str:
    eid = new_id()
    spec = {"id": eid, "command": command, **more}
    answer = http("POST", f"/v1/sandboxes/{sandbox['id']}/executions", epoch=sandbox["epoch"], json=spec)
    assert answer.status_code == 202, answer.text
    return eid


def test_sandbox_whose_lease_is_over_is_removed(http: Http) -> None:
    sandbox = create(http, lease_s=1.5)
    until(lambda: http("GET", f"/v1/sandboxes/{sandbox['id']}").json()["state"] == "removed", "the sandbox is removed")
    assert not exists(sandbox["container_id"])
    assert http("GET", f"/v1/sandboxes/{sandbox['id']}").json()["reason"] == "lease_over"
    told = http("POST", "/v1/leases", json={"run_id": sandbox["run_id"]}).json()
    assert (told["live"], told["gone"]) == ([], {sandbox["id"]: "lease_over"})


def test_running_command_holds_the_lease_and_lets_go_with_its_end(http: Http) -> None:
    sandbox = create(http, lease_s=3)
    bystander = create(http, lease_s=3)
    start(http, sandbox, "while [ ! -e /go ]; do sleep 0.05; done")
    until(lambda: not exists(bystander["container_id"]), "a lease of the same length is over")
    assert running(sandbox["container_id"])
    engine("exec", sandbox["container_id"], "touch", "/go")
    until(lambda: not exists(sandbox["container_id"]), "the container is removed")


def test_running_command_does_not_hold_the_lease_of_a_run_that_asked_for_kill(http: Http) -> None:
    sandbox = create(http, lease_s=3, on_lease_end="kill")
    eid = start(http, sandbox, "echo begun; sleep 300", grace_s=0)
    until(lambda: not exists(sandbox["container_id"]), "the container is removed")
    ended = http("GET", f"/v1/executions/{eid}?wait=20", epoch=sandbox["epoch"]).json()
    assert (ended["outcome"]["kind"], ended["outcome"]["reason"]) == ("cancelled", "sandbox_removed")
    assert ended["output"]["text"] == "begun\n"


def test_clients_heartbeat_keeps_the_lease(http: Http, make_sandbox: MakeSandbox) -> None:
    kept = make_sandbox(lease_s=1.5)
    bystander = create(http, lease_s=3)
    until(lambda: not exists(bystander["container_id"]), "a longer lease is over")
    assert kept.run("echo lives").text == "lives\n"


# ------------------------------------------------------------------------------------------------- ours, theirs, exit


def test_foreign_containers_survive_and_orphans_of_ours_are_removed(
    make_server: Callable[..., Server], container: Callable[..., str]
) -> None:
    server = make_server("--sweep-every", "1s").start()
    ours = (server.data_dir / "instance_id").read_text().strip()
    foreign = container("remote-env.instance=somebody-elses", f"remote-env.sandbox={new_id()}")
    unlabelled = container()
    orphan = container(f"remote-env.instance={ours}", f"remote-env.sandbox={new_id()}")
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        until(lambda: not exists(orphan), "the orphan is removed")
        later = container(f"remote-env.instance={ours}", f"remote-env.sandbox={new_id()}")
        until(lambda: not exists(later), "the next sweep removes the next orphan")
        assert running(foreign) and running(unlabelled)
        assert sandbox.run("echo lives").text == "lives\n"


def test_container_with_a_sandboxs_name_that_is_not_ours_is_left_alone(client: Client, http: Http, container: Callable[..., str]) -> None:
    sid = new_id()
    foreign = container()
    engine("rename", foreign, f"remote-env-{sid}")
    answer = http("POST", "/v1/sandboxes", wait=30, json=body(sid))
    assert answer.json()["state"] == "failed"
    http("DELETE", f"/v1/sandboxes/{sid}", wait=30)
    assert running(foreign)


def test_sandboxes_stay_when_the_server_stops_and_go_on_with_the_next(make_server: Callable[..., Server]) -> None:
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        execution = sandbox.start("while [ ! -e /go ]; do sleep 0.05; done; echo done")
        assert server.stop() == 0
        assert running(sandbox.container_id)
        server.start()
        sandbox.run("touch /go")
        assert execution.wait().text == "done\n"


def test_sandboxes_are_removed_with_the_server_on_request(make_server: Callable[..., Server], container: Callable[..., str]) -> None:
    server = make_server("--remove-on-exit").start()
    foreign = container("remote-env.instance=somebody-elses")
    with server.client() as client:
        made = [client.create_sandbox(BUSYBOX, memory_bytes=SMALL) for _ in range(2)]
        made[0].start("sleep 300", grace_s=0)
        assert server.stop() == 0
    assert not any(exists(sandbox.container_id) for sandbox in made)
    assert running(foreign)


def test_second_server_on_the_same_data_is_refused_with_the_pid_of_the_first(make_server: Callable[..., Server], tmp_path: Path) -> None:
    first = make_server().start()
    second = Server(first.data_dir)
    second.log = tmp_path / "second.log"
    assert second.spawn().wait(timeout=60) != 0
    assert str(first.pid) in second.log.read_text()
    with first.client() as client:
        assert client.create_sandbox(BUSYBOX, memory_bytes=SMALL).run("echo lives").text == "lives\n"
