"""Profiles: how those of `--warm` are written, and which sandboxes can have what was made by one."""

from __future__ import annotations

from typing import Any

import pytest

from remote_env.protocol import SandboxSpec
from server.profiles import Profile, Warm, parse_warm, show_warm
from server.settings import SettingsError, load

FULL = "a/b:1=3,platform=linux/arm64,cpus=0.5,memory=4GiB,pids=99,shm=1MiB,network=none,read-only=true,no-new-privileges=false"


def spec(**more: Any) -> SandboxSpec:
    return SandboxSpec.model_validate({"id": "sandbox-1", "run_id": "run-00001", "image": "python:3.12", **more})


def test_an_image_and_a_count_are_enough() -> None:
    assert parse_warm("python:3.12=8") == (Warm(Profile("python:3.12"), 8),)


def test_options_follow_after_commas() -> None:
    (warm,) = parse_warm([FULL])
    assert warm == Warm(Profile("a/b:1", "linux/arm64", 0.5, 4 << 30, 99, 1 << 20, "none", True, False), 3)
    assert show_warm((warm,)) == FULL


def test_several_are_given_by_repeated_flags_or_in_one_variable() -> None:
    several = parse_warm(["a=1", "b=2,cpus=2"])
    assert parse_warm("a=1 b=2,cpus=2") == parse_warm("a=1;b=2,cpus=2") == several
    assert load({"warm": ["a=1", "b=2,cpus=2"]}, {}).warm == load({}, {"REMOTE_ENV_SERVER_WARM": "a=1 b=2,cpus=2"}).warm == several


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("python:3.12", "is not IMAGE=COUNT"), ("a=0", "a count from 1"), ("a=x", "is not IMAGE=COUNT"), ("=3", "is not IMAGE=COUNT"),
        ("a=1,colour=red", "unknown option 'colour'"), ("a=1,cpus=-1", "cpus=-1, which is not a positive number"),
        ("a=1,memory=1k", "memory_bytes"), ("a=1,network=host", "network"), ("a=1 a=2", "twice"), ("a=1001", "a count from 1 to 1000"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(written: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load({}, {"REMOTE_ENV_SERVER_WARM": written})


def test_more_memory_than_a_sandbox_may_have_is_refused() -> None:
    with pytest.raises(SettingsError, match="max_sandbox_memory"):
        load({"warm": ["a=1,memory=2g"], "max_sandbox_memory": "1g"}, {})


@pytest.mark.parametrize(
    "other",
    [{"image": "python:3.13"}, {"platform": "linux/arm64"}, {"cpus": 2}, {"memory_bytes": 1 << 30}, {"pids": 99}, {"shm_bytes": 1 << 20},
     {"network": "none"}, {"read_only": True}, {"no_new_privileges": False}],
)  # fmt: skip
def test_what_a_container_is_made_of_makes_another_profile(other: dict[str, Any]) -> None:
    assert Profile.of(spec(**other)) != Profile.of(spec())


def test_what_the_server_applies_itself_makes_none() -> None:
    mine = {"env": {"A": "b"}, "workdir": "/x", "user": "me", "labels": {"a": "b"}, "lease_s": 5.0, "on_lease_end": "kill", "pull": "never"}
    assert Profile.of(spec(**mine)) == Profile.of(spec())


@pytest.mark.parametrize("alone", [{"pull": "always"}, {"binds": [{"source": "/a", "target": "/b"}]}])
def test_some_need_a_container_of_their_own(alone: dict[str, Any]) -> None:
    assert Profile.of(spec(**alone)) is None


def test_the_server_s_defaults_written_out_are_the_same_profile() -> None:
    written, left_out = Profile.of(spec(memory_bytes=4 << 30, pids=4096)), Profile.of(spec())
    assert written is not None
    assert left_out is not None
    assert written != left_out
    assert written.filled(4 << 30, 4096, None) == left_out.filled(4 << 30, 4096, None)
    assert written.spec("sandbox-2", "run-00002").memory_bytes == 4 << 30
