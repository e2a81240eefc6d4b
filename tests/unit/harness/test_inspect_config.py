"""What Inspect's configurations say of a sandbox, and what is refused with a word that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.util import ComposeConfig

from remote_env.errors import InvalidSpec
from remote_env.harness.inspect_config import DEFAULT_IMAGE, SandboxConfig, deserialize, metadata_variables, resolve


def write(directory: Path, text: str, name: str = "remote_env.yaml") -> str:
    file = directory / name
    file.write_text(text)
    return str(file)


def options(directory: Path, text: str, name: str = "remote_env.yaml", **variables: str) -> dict[str, dict[str, Any]]:
    return resolve(write(directory, text, name), variables).sandboxes()


def test_without_a_configuration_it_is_what_inspects_docker_sandbox_would_be() -> None:
    assert resolve(None).sandboxes() == {"default": {"image": DEFAULT_IMAGE, "env": {}, "network": "none", "lease_s": 1800.0}}


def test_a_file_is_read_with_people_s_sizes_and_durations(tmp_path: Path) -> None:
    text = """
        image: python:3.12-slim
        workdir: /work
        user: 1000
        env: {DEBUG: 1, NAME: x}
        memory: 2g
        shm: 64MB
        cpus: 1.5
        pids: 200
        network: none
        pull: never
        platform: linux/arm64
        read_only: true
        no_new_privileges: false
        lease: 24h
    """
    assert options(tmp_path, text)["default"] == {
        "image": "python:3.12-slim", "workdir": "/work", "user": "1000", "env": {"DEBUG": "1", "NAME": "x"}, "memory_bytes": 2 << 30,
        "shm_bytes": 64 << 20, "cpus": 1.5, "pids": 200, "network": "none", "pull": "never", "platform": "linux/arm64", "read_only": True,
        "no_new_privileges": False, "lease_s": 86400.0,
    }  # fmt: skip


def test_json_is_taken_too(tmp_path: Path) -> None:
    assert options(tmp_path, json.dumps({"image": "a", "memory": 1 << 30}), "c.json")["default"]["memory_bytes"] == 1 << 30


def test_what_stands_at_the_top_holds_for_every_service_and_the_default_one_comes_first(tmp_path: Path) -> None:
    made = options(
        tmp_path, "{image: top, memory: 1g, env: {A: 1, B: 1}, services: {victim: {image: other, env: {B: 2}, network: none}, default: }}"
    )
    assert list(made) == ["default", "victim"]
    assert (made["default"]["image"], made["default"]["memory_bytes"], made["default"]["env"]) == ("top", 1 << 30, {"A": "1", "B": "1"})
    assert (made["victim"]["image"], made["victim"]["memory_bytes"], made["victim"]["env"]) == ("other", 1 << 30, {"A": "1", "B": "2"})
    assert "network" not in made["default"] and made["victim"]["network"] == "none"


def test_without_a_service_called_default_the_first_is_it(tmp_path: Path) -> None:
    assert list(options(tmp_path, "{image: a, services: {one: {}, two: {}}}")) == ["one", "two"]


def test_a_configuration_survives_inspects_log() -> None:
    """Inspect writes it into its logs as JSON without what is None, and makes it again from there."""
    config = deserialize({"image": "top", "memory": "1g", "services": {"default": {}, "other": {"image": "b", "user": 7}}})
    again = deserialize(json.loads(config.model_dump_json(exclude_none=True)))
    assert again == config and hash(again) == hash(config)
    assert again.sandboxes() == config.sandboxes()


def test_no_token_can_stand_in_it() -> None:
    with pytest.raises(InvalidSpec, match=r"token: Extra inputs"):
        deserialize({"token": "secret"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imagine: a", "remote_env.yaml: imagine: Extra inputs are not permitted"),
        ("{services: {default: {imagine: a}}}", "services.default.imagine: Extra inputs"),
        ("memory: much", "memory: 'much' is not a size such as 512m or 2g"),
        ("lease: soon", "lease: 'soon' is not a duration"),
        ("network: host", "network: Input should be 'bridge' or 'none'"),
        ("{services: {victim: {image: 'a b'}}}", "The sandbox 'victim' cannot be made so: image: not an image reference"),
        ("workdir: here", "workdir: not an absolute path"),
        ("memory: 1k", "memory_bytes: Input should be greater than"),
        ("[a, b]", "a sandbox's configuration is a mapping"),
        ("a: [", "no YAML or JSON"),
        ("image: ${NOT_SET_ANYWHERE}", "${NOT_SET_ANYWHERE} is not set"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        options(tmp_path, text)
    assert words in str(refused.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidSpec, match=r"nowhere\.yaml: .* No such file"):
        resolve("nowhere.yaml")


def test_values_come_from_the_environment_and_from_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY", "r.example")
    text = "{image: '${REGISTRY}/${SAMPLE_METADATA_THE_IMAGE:-none}:${TAG-latest}', env: {COST: '$$5 and $6'}}"
    file = write(tmp_path, text)
    metadata = {"the image": "solver", "unused": "x"}
    assert metadata_variables(file, metadata) == {"SAMPLE_METADATA_THE_IMAGE": "solver"}
    made = resolve(file, metadata_variables(file, metadata)).sandboxes()["default"]
    assert made["image"] == "r.example/solver:latest"
    assert made["env"] == {"COST": "$5 and $6"}
    assert resolve(file).sandboxes()["default"]["image"] == "r.example/none:latest"


def test_a_dockerfile_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"the server builds no images.*`image: NAME`"):
        resolve(write(tmp_path, "FROM a", "Dockerfile"))


# ------------------------------------------------------------------------------------------------------ compose files


COMPOSE = """
services:
  web:
    image: web:1
    command: ["sleep", "infinity"]
    network_mode: none
    x-local: true
  box:
    image: box:1
    x-default: true
    init: true
    command: tail -f /dev/null
    working_dir: /work
    user: "1000"
    environment: ["A=1", "B=x=y"]
    mem_limit: 0.5gb
    deploy: {resources: {limits: {cpus: "1.0", memory: 2g}}}
    pids_limit: 100
    pull_policy: if_not_present
    depends_on: [web]
"""


def test_a_compose_file_says_the_same(tmp_path: Path) -> None:
    made = options(tmp_path, COMPOSE, "compose.yaml")
    assert list(made) == ["box", "web"]
    assert made["box"] == {
        "image": "box:1", "workdir": "/work", "user": "1000", "env": {"A": "1", "B": "x=y"}, "memory_bytes": 1 << 29, "cpus": 1.0,
        "pids": 100, "pull": "missing", "lease_s": 1800.0,
    }  # fmt: skip
    assert made["web"] == {"image": "web:1", "network": "none", "env": {}, "lease_s": 1800.0}


def test_inspects_own_model_of_a_compose_file_says_the_same() -> None:
    config = ComposeConfig.model_validate({"services": {"default": {"image": "a", "mem_limit": "1g", "x-default": True, "cpus": 2}}})
    assert resolve(config).sandboxes() == {
        "default": {"image": "a", "memory_bytes": 1 << 30, "cpus": 2.0, "env": {}, "lease_s": 1800.0},
    }


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("{build: .}", "`build` is not possible in a sandbox: the server builds no images"),
        ("{image: a, command: nginx}", "`command` is not possible in a sandbox: a sandbox runs no program"),
        ("{image: a, volumes: ['.:/x']}", "`volumes` is not possible"),
        ("{image: a, networks: [n]}", "`networks` is not possible"),
        ("{image: a, network_mode: host}", "`network_mode` is not possible"),
        ("{image: a, privileged: true}", "a privileged container owns the server's machine"),
        ("{image: a, deploy: {replicas: 2}}", "`deploy` is not possible"),
        ("{image: a, deploy: {resources: {reservations: {devices: [{count: 1}]}}}}", "devices` is not possible"),
        ("{image: a, environment: [HOME]}", "environment: HOME has no value"),
        ("{working_dir: /}", "names no image"),
    ],
)
def test_what_a_sandbox_cannot_do_is_refused_by_name(tmp_path: Path, service: str, words: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        options(tmp_path, f"services: {{default: {service}}}", "compose.yaml")
    assert words in str(refused.value) and "'default'" in str(refused.value)


@pytest.mark.parametrize(
    ("services", "words"),
    [
        ("{a: {image: a}, b: {image: b}}", "No service of the compose file is the default"),
        ("{default: {image: a}, b: {image: b, x-default: true}}", "Two services of the compose file are the default"),
        ("{}", "without `services`"),
    ],
)
def test_a_compose_file_has_one_default(tmp_path: Path, services: str, words: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        options(tmp_path, f"services: {services}", "docker-compose.yml")
    assert words in str(refused.value)


def test_an_image_that_was_built_elsewhere_is_taken_by_its_name(tmp_path: Path) -> None:
    assert options(tmp_path, "services: {default: {image: a, build: ., privileged: false}}", "x-compose.yaml")["default"]["image"] == "a"


def test_a_configuration_made_in_python_is_taken_as_it_is() -> None:
    config = SandboxConfig(image="a", memory=1 << 30)
    assert resolve(config) is config
