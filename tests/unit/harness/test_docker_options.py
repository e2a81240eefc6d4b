"""What `docker run` options become, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from remote_env import InvalidSpec
from remote_env.harness.docker_options import sandbox_options, sleep_seconds
from remote_env.protocol import SandboxSpec, new_id

GIB = 1 << 30


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--rm"], {}),
        (["-d", "-it", "-dit", "--init", "--rm=true", "--tty=false", "--no-healthcheck"], {}),
        (["--entrypoint", ""], {}),
        (["--entrypoint="], {}),
        (["--memory", "4g"], {"memory_bytes": 4 * GIB}),
        (["--memory=512m"], {"memory_bytes": 512 << 20}),
        (["-m", "1.5GiB"], {"memory_bytes": 3 * GIB // 2}),
        (["-m512M"], {"memory_bytes": 512 << 20}),
        (["-m=64mb"], {"memory_bytes": 64 << 20}),
        (["--memory", "67108864"], {"memory_bytes": 64 << 20}),
        (["--shm-size", "2g"], {"shm_bytes": 2 * GIB}),
        (["--cpus", "1.5"], {"cpus": 1.5}),
        (["--pids-limit=300"], {"pids": 300}),
        (["--network", "none"], {"network": "none"}),
        (["--net=none"], {"network": "none"}),
        (["--network=bridge"], {"network": "bridge"}),
        (["--network", "none", "--network", "default"], {"network": "bridge"}),
        (["--user", "1000:1000"], {"user": "1000:1000"}),
        (["-uroot"], {"user": "root"}),
        (["--platform", "linux/amd64"], {"platform": "linux/amd64"}),
        (["-w", "/testbed"], {"workdir": "/testbed"}),
        (["--workdir=/testbed"], {"workdir": "/testbed"}),
        (["--pull", "always"], {"pull": "always"}),
        (["--read-only"], {"read_only": True}),
        (["--read-only=false"], {"read_only": False}),
        (["--privileged=false"], {}),
        (["--security-opt", "no-new-privileges"], {"no_new_privileges": True}),
        (["--security-opt=no-new-privileges=false"], {"no_new_privileges": False}),
        (["-l", "team=eval", "--label", "alone"], {"labels": {"team": "eval", "alone": ""}}),
        (["-e", "A=1", "--env=B=2=3", "-eC=", "-ite", "D=4"], {"env": {"A": "1", "B": "2=3", "C": "", "D": "4"}}),
        (["-e", "HERE", "-e", "NOT_HERE"], {"env": {"HERE": "and now"}}),
        (["-v", "/data/sets:/sets:ro"], {"binds": [{"source": "/data/sets", "target": "/sets", "read_only": True}]}),
        (["--volume=/data/out:/out"], {"binds": [{"source": "/data/out", "target": "/out", "read_only": False}]}),
    ],
)
def test_an_option_that_a_sandbox_has_is_translated(arguments: list[str], expected: dict[str, Any]) -> None:
    options = sandbox_options(arguments, {"HERE": "and now"})
    assert options == expected
    SandboxSpec(id=new_id(), run_id=new_id(), image="image", **options)  # and fits the request


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--privileged"], "--privileged.*owns the server's machine"),
        (["-v", "/var/run/docker.sock:/var/run/docker.sock"], "socket"),
        (["-v", "/var/run:/host-run"], "socket"),
        (["-v", "named:/data"], "only directories of the server's machine"),
        (["-v", "/anonymous"], "only directories of the server's machine"),
        (["-v", "./here:/there"], "only directories of the server's machine"),
        (["-v", "/a:/b:ro,shared"], "ro and rw"),
        (["--mount", "type=bind,source=/a,target=/b"], "-v SOURCE:TARGET"),
        (["--network", "host"], "bridge or none"),
        (["--network=container:other"], "bridge or none"),
        (["--pid", "host"], "--pid"),
        (["--ipc=host"], "--ipc"),
        (["--cap-add", "SYS_PTRACE"], "capabilities"),
        (["--device=/dev/kvm"], "devices"),
        (["--gpus", "all"], "devices"),
        (["-p", "80:80"], "--publish"),
        (["-P"], "-P"),
        (["--security-opt", "seccomp=unconfined"], "no-new-privileges"),
        (["--name", "mine"], "container_id"),
        (["--ulimit", "nofile=1024"], "--ulimit.*no such option"),
        (["--frobnicate=1"], "--frobnicate.*no such option"),
        (["--memory"], "lacks its value"),
        (["--memory", "lots"], "--memory lots"),
        (["--cpus", "0"], "--cpus 0"),
        (["--cpus", "nan"], "--cpus nan"),
        (["--pids-limit", "-1"], "--pids-limit -1"),
        (["--pids-limit", "many"], "--pids-limit many"),
        (["--pull", "sometimes"], "missing, always or never"),
        (["--rm", "python:3.12"], "'python:3.12' is not an option"),
        (["-e", "=x"], "has no name"),
        (["-dz"], "-dz"),
        (["-"], "'-' is not an option"),
    ],
)
def test_what_a_sandbox_has_no_equivalent_for_is_refused_by_name(arguments: list[str], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        sandbox_options(arguments, {})


def test_a_variable_without_a_value_comes_from_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDED_ON", "yes")
    assert sandbox_options(["-e", "HANDED_ON"]) == {"env": {"HANDED_ON": "yes"}}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1s", 1),
        ("45m", 2700),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5h", 5400),
        (".5", 0.5),
        (" 2h ", 7200),
        ("infinity", None),
        ("inf", None),
    ],
)
def test_durations_are_those_of_the_sleep_command(text: str, seconds: float | None) -> None:
    assert sleep_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0h", "2 h", "-1", "2hours", "nan", "1e3"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="container_timeout"):
        sleep_seconds(text)
