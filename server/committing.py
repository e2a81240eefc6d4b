"""Making an image of a container that is as its own image was, but for what changed in the file system.

The engine's commit takes over what the container was started with: our init as ENTRYPOINT, root as USER, the sandbox's environment
and our labels, which it lets nobody leave out. So the image that it makes is only the source of the layers: the image that gets
the name has the configuration of the sandbox's image, whole. It is loaded as an archive without a layer in it, since the engine
looks for the layers that it has before it reads any.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Iterable
from typing import Any

import docker
from docker.errors import APIError
from docker.utils import parse_repository_tag

log = logging.getLogger("server.committing")


def commit(api: docker.APIClient, container_id: str, name: str, our_labels: Iterable[str]) -> tuple[str, int]:
    """The id and the size in bytes, all layers together, of an image of that name made of a container. It is not paused.

    `our_labels`: by which containers of ours are known; no image of that name ever has them. Raises the SDK's errors.
    """
    container = api.inspect_container(container_id)
    original = api.inspect_image(container["Image"])["Config"] or {}
    repository, tag = parse_repository_tag(name)
    tag = tag or "latest"
    # `conf`, since the SDK's `changes` cannot say all of it; and an engine pauses unless told otherwise.
    made: Any = api.commit(container_id, conf=_nearest(original, container["Config"], our_labels), pause=False)
    committed = api.inspect_image(made["Id"])
    try:
        _load(api, committed, original, f"{repository}:{tag}")
    except NotLoaded as error:
        log.warning("the engine takes no image without its layers (%s): this one keeps our labels, without values", error)
        api.tag(committed["Id"], repository, tag, force=True)
    else:
        api.remove_image(committed["Id"], noprune=True)
    image = api.inspect_image(f"{repository}:{tag}")
    return str(image["Id"]), int(image["Size"])


class NotLoaded(Exception):
    """The engine has not taken the archive."""


def _nearest(original: dict[str, Any], container: dict[str, Any], our_labels: Iterable[str]) -> dict[str, Any]:
    """As near to the image's configuration as a commit comes, which adds what the container has and this has not: empty labels, so
    that nothing made of the image is ever taken for one of ours, and empty variables in place of the sandbox's own."""
    env = list(original.get("Env") or ())
    known = {each.partition("=")[0] for each in env}
    added = {each.partition("=")[0] for each in container.get("Env") or ()} - known
    return {
        **original,
        "Env": env + [f"{name}=" for name in sorted(added)],
        "Labels": {**(original.get("Labels") or {}), **dict.fromkeys(our_labels, "")},
        "Entrypoint": original.get("Entrypoint") or [],
        "User": original.get("User") or "0:0",
    }


def _load(api: docker.APIClient, committed: dict[str, Any], config: dict[str, Any], name: str) -> None:
    """An image of that name with the layers of one that is there, and another configuration. Raises NotLoaded."""
    layers = committed["RootFS"]["Layers"]
    image = {
        "architecture": committed["Architecture"], "os": committed["Os"], "created": committed["Created"], "config": config,
        "rootfs": {"type": "layers", "diff_ids": layers},
    }  # fmt: skip
    if committed.get("Variant"):
        image["variant"] = committed["Variant"]
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [f"{number}/layer.tar" for number in range(len(layers))]}]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for member, content in (("config.json", image), ("manifest.json", manifest)):
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    try:
        for line in api.load_image(archive.getvalue()):
            if "error" in line:
                raise NotLoaded(str(line["error"]))
        if api.inspect_image(name)["RootFS"]["Layers"] != layers:
            raise NotLoaded("another image has the name")
    except APIError as error:
        raise NotLoaded(str(error.explanation or error)) from error
