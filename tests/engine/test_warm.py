"""Sandboxes that are kept ready: theirs who ask, at once; nobody's twice; none left behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest

from remote_env import Client
from remote_env.protocol import new_id
from tests.engine.conftest import Http, MakeImage
from tests.support.outside import docker as engine
from tests.support.outside import until
from tests.support.server import BUSYBOX, SMALL, Server

WARM = f"{BUSYBOX}=2,memory={SMALL}"
MakeServer = Callable[..., Server]


def warm(client: Client) -> dict[str, Any]:
    """The first line of what the server tells of its stock."""
    capacity = client.health().capacity
    assert capacity is not None
    (stock, *_) = capacity["warm"]
    assert isinstance(stock, dict)
    return stock


def until_full(client: Client) -> None:
    until(lambda: warm(client)["ready"] == warm(client)["wanted"], "as many are ready as are wanted")


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory, busybox_image: str) -> Iterator[Server]:
    """A server that keeps two ready, for tests that do not hurt it."""
    server = Server(tmp_path_factory.mktemp("warm") / "data", "--warm", WARM)
    try:
        yield server.start()
    finally:
        server.remove_all()


@pytest.fixture(scope="module")
def guest(stocked: Server) -> Iterator[Client]:
    with stocked.client() as client:
        yield client


@pytest.fixture
def ready(stocked: Server, guest: Client) -> set[str]:
    """The containers that nobody has yet."""
    until_full(guest)
    taken = {sandbox.container_id for sandbox in guest.sandboxes()}
    return {each for each in stocked.containers() if each not in taken}


def test_who_asks_gets_one_that_was_ready_and_another_is_made(stocked: Server, guest: Client, ready: set[str]) -> None:
    first, second = (guest.create_sandbox(BUSYBOX, memory_bytes=SMALL) for _ in range(2))
    with first, second:
        assert {first.container_id, second.container_id} == ready
        assert first.run("hostname").text.strip() == str(first.container_id)[:12]
        until_full(guest)
        assert len(stocked.containers()) == 4
        until(lambda: f"remote-env-{first.id}" in engine("ps", "--format", "{{.Names}}"), "its container is called as it is")
    assert not {first.container_id, second.container_id} & set(stocked.containers()), "what was used goes for good"


def test_what_a_container_was_made_without_is_applied(guest: Client, ready: set[str]) -> None:
    options = {"env": {"GREETING": "hello you", "HOME": "/tmp"}, "workdir": "/made/for/it", "user": "app", "labels": {"of": "mine"}}
    with guest.create_sandbox(BUSYBOX, memory_bytes=SMALL, **options) as sandbox:
        assert sandbox.container_id in ready
        assert sandbox.run('echo "$GREETING"; pwd; id -un; echo $HOME').text == "hello you\n/made/for/it\napp\n/tmp\n"
        assert sandbox.run("echo $GREETING", env={"GREETING": "bye"}).text == "bye\n"
        with sandbox.session() as session:
            assert session.run("echo $GREETING").text == "hello you\n"
        assert sandbox.record.labels == {"of": "mine"}


def test_one_that_is_made_otherwise_is_made_for_its_owner(guest: Client, ready: set[str]) -> None:
    with guest.create_sandbox(BUSYBOX, memory_bytes=2 * SMALL) as sandbox:
        assert sandbox.container_id not in ready
        assert sandbox.run("echo hi").text == "hi\n"
    assert warm(guest)["ready"] == 2


def test_nobody_sees_those_that_are_nobodys(stocked: Server, guest: Client, ready: set[str]) -> None:
    assert guest.sandboxes() == guest.sandboxes(state="running") == []
    made_for = engine("inspect", "--format", '{{index .Config.Labels "remote-env.sandbox"}}', next(iter(ready))).strip()
    http = Http(stocked)
    assert http("GET", f"/v1/sandboxes/{made_for}").status_code == 404
    assert f'remote_env_warm_ready{{image="{BUSYBOX}"}} 2.0' in http("GET", "/metrics").text
    http.close()


def test_the_same_request_again_gets_the_same_one_and_after_its_removal_none(stocked: Server, guest: Client, ready: set[str]) -> None:
    http = Http(stocked)
    body = {"id": new_id(), "image": BUSYBOX, "run_id": new_id(), "memory_bytes": SMALL}
    first, again = (http("POST", "/v1/sandboxes", wait=30, json=body) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["container_id"] == again.json()["container_id"]
    assert first.json()["container_id"] in ready
    http("DELETE", f"/v1/sandboxes/{body['id']}", wait=30)
    assert http("POST", "/v1/sandboxes", wait=30, json=body).status_code == 410
    http.close()


def test_one_that_dies_on_the_shelf_is_replaced(guest: Client, ready: set[str]) -> None:
    victim = next(iter(ready))
    engine("kill", victim)
    until(lambda: victim not in engine("ps", "-aq", "--no-trunc"), "it is thrown away")
    until_full(guest)
    with guest.create_sandbox(BUSYBOX, memory_bytes=SMALL) as sandbox:
        assert sandbox.container_id != victim
        assert sandbox.run("echo hi").text == "hi\n"


def test_a_server_that_was_killed_finds_its_own_again_and_an_orderly_end_leaves_none(make_server: MakeServer) -> None:
    """The next server must know those that are nobody's and those that were handed out, by the journal and not by their labels."""
    server = make_server("--warm", WARM, "--sweep-every", "200ms").start()
    with server.client() as client:
        until_full(client)
        mine = client.create_sandbox(BUSYBOX, memory_bytes=SMALL, env={"MINE": "it is"}, workdir="/mine")
        until_full(client)
        before = set(server.containers())
        server.restart()
        until_full(client)
        assert set(server.containers()) == before, "none was made anew, none is left over"
        assert mine.run("echo $MINE; pwd").text == "it is\n/mine\n"
        with client.create_sandbox(BUSYBOX, memory_bytes=SMALL) as next_one:
            assert next_one.container_id in before - {mine.container_id}
        mine.remove()
    assert not any((server.data_dir / "sandbox-env").iterdir()), "an environment outlived its sandbox"
    assert server.stop() == 0
    assert server.containers() == []
    assert not any((server.data_dir / "sandboxes").iterdir())


def test_somebodys_own_sandbox_comes_before_those_on_the_shelf(make_server: MakeServer) -> None:
    server = make_server("--warm", WARM, "--capacity-memory", str(3 * SMALL)).start()
    with server.client() as client:
        until_full(client)
        with client.create_sandbox(BUSYBOX, memory_bytes=3 * SMALL) as large:
            assert large.run("echo hi").text == "hi\n"
            until(lambda: server.containers() == [large.container_id], "they make room")
            assert (warm(client)["ready"], warm(client)["trouble"]) == (0, "no memory is left for more")
        until_full(client)


def test_an_image_that_is_not_there_is_tried_again_now_and_then_and_served_once_it_is(
    make_server: MakeServer, docker_client: docker.DockerClient, busybox_image: str
) -> None:
    name = f"127.0.0.1:9/warm-{new_id()}"  # nobody's port: the engine is refused at once
    server = make_server("--warm", f"{name}=1").start()
    with server.client() as client:
        until(lambda: warm(client)["trouble"], "it says what is wrong")
        assert name in warm(client)["trouble"]
        with client.create_sandbox(BUSYBOX, memory_bytes=SMALL) as other:
            assert other.run("echo hi").text == "hi\n"
        docker_client.images.get(BUSYBOX).tag(name)
        try:
            until_full(client)
            tries = server.log.read_text().count("no warm sandbox can be made")
            assert 1 <= tries <= 6, "it is tried again after longer and longer pauses"
        finally:
            docker_client.images.remove(name)


def test_when_a_name_means_another_image_those_of_the_old_one_go(
    make_server: MakeServer, make_image: MakeImage, docker_client: docker.DockerClient
) -> None:
    name = f"remote-env-test/moved:{new_id()}"
    old, new = make_image("echo old > /which"), make_image("echo new > /which")
    docker_client.images.get(old).tag(name)
    server = make_server("--warm", f"{name}=1,memory={SMALL}", "--sweep-every", "1h").start()
    try:
        with server.client() as client:
            until_full(client)
            (before,) = server.containers()
            docker_client.images.get(new).tag(name)  # as a build does
            until(lambda: before not in server.containers(), "the old one goes")
            until_full(client)
            with client.create_sandbox(name, memory_bytes=SMALL) as sandbox:
                assert sandbox.run("cat /which").text == "new\n"
    finally:
        server.stop()
        docker_client.images.remove(name)


def test_the_environment_is_in_no_journal(stocked: Server, guest: Client, ready: set[str]) -> None:
    with guest.create_sandbox(BUSYBOX, memory_bytes=SMALL, env={"KEY": "sesame-open-up"}) as sandbox:
        assert sandbox.container_id in ready
        assert sandbox.run("echo ${#KEY}").text == "14\n"
        (kept,) = (stocked.data_dir / "sandbox-env").iterdir()
        assert (kept.name, kept.stat().st_mode & 0o777) == (sandbox.id, 0o600)
        written = b"".join(each.read_bytes() for each in journal_files(stocked.data_dir))
        assert b"sesame" not in written
    with closing(sqlite3.connect(stocked.data_dir / "journal.sqlite3")) as journal:
        assert journal.execute("SELECT count(*) FROM warm WHERE container_id = ?", (sandbox.container_id,)).fetchone() == (0,)


def journal_files(data_dir: Path) -> list[Path]:
    return sorted(data_dir.glob("journal.sqlite3*"))
