"""Images that are not there are pulled once for however many wait, and say how far they are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest

from remote_env import Client
from remote_env.errors import ImageNotFound
from remote_env.protocol import new_id
from tests.engine.conftest import Http
from tests.support.outside import until
from tests.support.registry import Registry
from tests.support.server import SMALL

WAITERS = 5


@pytest.fixture
def registry(docker_client: docker.DockerClient, busybox_image: str) -> Iterator[Registry]:
    """A registry with an image that the engine does not have."""
    saved = b"".join(docker_client.images.get(busybox_image).save(named=True))
    made = Registry(saved, f"pulled-{new_id()}")
    try:
        with made.serving():
            yield made
    finally:
        if docker_client.images.list(made.image):
            docker_client.images.remove(made.image, force=True)


def test_an_image_is_pulled_once_for_all_who_wait_and_they_hear_how_far_it_is(client: Client, registry: Registry) -> None:
    def told() -> list[str]:
        """What is told to those who wait."""
        return [box.record.progress or "" for box in client.sandboxes() if box.id in ids]

    told_by_engine = f"pulling {registry.image}: "
    registry.hold.clear()
    ids = {new_id() for _ in range(WAITERS)}
    with ThreadPoolExecutor(WAITERS) as pool:
        coming = [pool.submit(client.create_sandbox, registry.image, id=each, memory_bytes=SMALL) for each in ids]
        try:
            until(lambda: len(told()) == WAITERS and all(words.startswith(told_by_engine) for words in told()), "all are told of it")
        finally:
            registry.hold.set()
        boxes = [each.result() for each in coming]
    for box in boxes:
        assert box.run("cat /made-for").text in registry.image
        box.remove()
    assert (registry.asked["config"], registry.asked["layer"]) == (1, registry.layers)
    assert registry.asked["manifest"] <= 2, "one pull asks for it once or twice, several more often"


def test_who_is_removed_while_the_image_comes_does_not_wait_and_the_others_get_it(http: Http, registry: Registry) -> None:
    registry.hold.clear()
    leaves, stays = ({"id": new_id(), "image": registry.image, "run_id": new_id(), "memory_bytes": SMALL} for _ in range(2))
    for body in (leaves, stays):
        assert http("POST", "/v1/sandboxes", json=body).status_code == 202
    until(lambda: http("DELETE", f"/v1/sandboxes/{leaves['id']}", wait=5).json()["state"] == "removed", "it is gone")
    assert not registry.hold.is_set(), "it did not wait for the image"
    registry.hold.set()
    until(lambda: http("POST", "/v1/sandboxes", wait=5, json=stays).json()["state"] == "running", "the other one is made")
    http("DELETE", f"/v1/sandboxes/{stays['id']}", wait=30)
    assert registry.asked["config"] == 1


def test_the_registry_is_asked_again_only_where_the_caller_wants_it(client: Client, registry: Registry) -> None:
    def asked_for(pull: str) -> int:
        before = registry.asked["manifest"]
        client.create_sandbox(registry.image, pull=pull, memory_bytes=SMALL).remove()
        return registry.asked["manifest"] - before

    with pytest.raises(ImageNotFound):
        asked_for("never")
    assert asked_for("missing")
    assert not asked_for("missing")
    assert not asked_for("never")
    assert asked_for("always")
