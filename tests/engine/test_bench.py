"""`scripts/bench` on a real engine, as short as it goes: that it measures, saves, shows, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from scripts.benchmarks import report

ROOT = Path(__file__).parents[2]
HEAVY = ("docker-sdk", "docker-ssh", "mini-swe-agent", "swe-rex")
BENCH = [sys.executable, "-m", "scripts.benchmarks", "latency", "--quick", "--without", *HEAVY, "--seed", "3"]


@pytest.mark.usefixtures("sandbox_image")
def test_bench_measures_every_kind_in_every_round_and_shows_it_again_from_its_file(tmp_path: Path) -> None:
    saved = tmp_path / "figures.json"
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*BENCH, "--rounds", "2", "--json", str(saved)], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    run = report.load(saved)
    kinds = {f"{kind['name']} {kind['shell']}".strip(): kind["seconds"] for kind in run["sections"]["latency"]["kinds"]}
    assert {"sandbox.run sh", "session.run bash", "AsyncClient run sh", "docker exec sh", "fork+exec in the container bash"} < set(kinds)
    for name, rounds in kinds.items():
        assert len(rounds) == 2, name
        assert all(seconds > 0 for taken in rounds for seconds in taken), name
    assert done.stdout == report.render(json.loads(saved.read_text()))
    assert list(tmp_path.glob("remote-env-bench.*")) == []


@pytest.mark.usefixtures("sandbox_image")
def test_bench_that_is_interrupted_takes_its_server_and_containers_with_it(tmp_path: Path, docker_client: docker.DockerClient) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    bench = subprocess.Popen([*BENCH, "--rounds", "100000"], cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        assert bench.stderr is not None
        for line in bench.stderr:
            if "latency" in line:
                break  # everything stands, and the rounds begin
        (directory,) = tmp_path.glob("remote-env-bench.*")
        instance = (directory / "data" / "instance_id").read_text().strip()
        label = f"remote-env.instance={instance}"
        assert docker_client.containers.list(filters={"label": label})
        bench.send_signal(signal.SIGINT)
        bench.stderr.read()
        assert bench.wait(timeout=120) == 130
        assert docker_client.containers.list(all=True, filters={"label": label}) == []
        assert not directory.exists()
    finally:
        if bench.poll() is None:
            bench.kill()
            bench.wait()
