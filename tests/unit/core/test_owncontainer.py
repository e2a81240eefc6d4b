"""Which container a server is in is told by the mounts that an engine makes in every one."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.engineerror import EngineError
from server.owncontainer import container_of, source_of

MINE, OTHER = "a1" * 32, "b2" * 32
ROOT = "612 520 0:52 / / rw,relatime master:250 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/AB"
HOSTNAME = f"633 612 254:1 /var/lib/docker/containers/{MINE}/hostname /etc/hostname rw,relatime - ext4 /dev/vda1 rw"
OTHERS_SHM = f"702 612 0:61 / /var/lib/docker/containers/{OTHER}/mounts/shm rw,nosuid,nodev,noexec - tmpfs shm rw,size=65536k"


def test_the_container_is_the_one_whose_hostname_is_mounted() -> None:
    assert container_of("\n".join([ROOT, HOSTNAME])) == MINE


def test_a_container_that_an_engine_beside_it_starts_just_now_is_not_taken_for_it() -> None:
    assert container_of("\n".join([ROOT, OTHERS_SHM, HOSTNAME])) == MINE
    assert container_of("\n".join([ROOT, OTHERS_SHM])) is None


def test_a_path_lies_for_the_engine_where_its_nearest_mount_comes_from() -> None:
    mounts = [(Path("/data"), Path("/volumes/a")), (Path("/data/sandboxes"), Path("/volumes/b")), (Path("/dat"), Path("/volumes/c"))]
    assert source_of(Path("/data/sandboxes/x"), mounts) == Path("/volumes/b/x")
    assert source_of(Path("/data/y"), mounts) == Path("/volumes/a/y")
    with pytest.raises(EngineError, match="into a volume"):
        source_of(Path("/elsewhere"), mounts)
