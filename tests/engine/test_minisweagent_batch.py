"""mini-swe-agent's own batch runner for SWE-bench-like datasets, both versions of it, with every agent in a sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.peers import package_directory
from tests.support.server import BUSYBOX, SANDBOX, Server

VERSION_1 = "mini-swe-agent==1.17.5"
INSTANCES, WORKERS = 12, 6
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat /tmp/x"
SLOW = "echo slow; sleep 1000"
SCRIPT = ["echo $0 $(ls /bin/busybox) >> /tmp/x", SLOW, "echo twice >> /tmp/x", SUBMIT]

# What the runner loads its instances with. The real package comes with a database engine, and is asked for two lines here.
DATASETS = """
import json
def load_dataset(path, split):
    return [json.loads(line) for line in open(f"{path}/{split}.jsonl")]
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "datasets.py").write_text(DATASETS)
    lines = [
        json.dumps({"instance_id": f"fix__{n}", "problem_statement": f"task {n}", "image_name": SANDBOX if n % 2 else BUSYBOX})
        for n in range(INSTANCES)
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    return tmp_path


def run_batch(server: Server, dataset: Path, config: dict[str, Any], *front: Path) -> dict[str, Any]:
    """The runner's predictions: instance id -> patch."""
    (dataset / "config.yaml").write_text(yaml.safe_dump(config))
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (*front, dataset / "modules", Path.cwd()))),
        "REMOTE_ENV_URL": server.url,
        "REMOTE_ENV_TOKEN": server.token,
        "MSWEA_SILENT_STARTUP": "1",
        "MSWEA_GLOBAL_CONFIG_DIR": str(dataset / "settings"),
        "MSWEA_COST_TRACKING": "ignore_errors",
    }
    runner = [sys.executable, "-m", "remote_env.harness.minisweagent", "swebench", "--subset", str(dataset), "--split", "test"]
    done = subprocess.run(
        [*runner, "--workers", str(WORKERS), "--output", str(dataset / "out"), "--config", str(dataset / "config.yaml")],
        env=environ, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    predictions = json.loads((dataset / "out" / "preds.json").read_text())
    for each in (dataset / "out").glob("*/*.traj.json"):
        assert server.token not in each.read_text()
    return {name: entry["model_patch"] for name, entry in predictions.items()}


def check(predictions: dict[str, Any], interpreter: str) -> None:
    """Each instance ran in its own image, each command of it once."""
    wanted = {f"fix__{n}": f"{interpreter} {'' if n % 2 else '/bin/busybox'}".strip() + "\ntwice\n" for n in range(INSTANCES)}
    assert predictions == wanted


def test_version_2_runs_a_dataset_with_many_threads(server: Server, dataset: Path, sandbox_image: str, busybox_image: str) -> None:
    outputs = [{"role": "assistant", "content": each, "extra": {"actions": [{"command": each}], "cost": 0.0}} for each in SCRIPT]
    config = {
        "agent": {"system_template": "s", "instance_template": "{{task}}", "step_limit": 10, "cost_limit": 0},
        "environment": {"environment_class": "docker", "interpreter": ["sh", "-c"], "timeout": 2, "run_args": ["--memory", "128m"]},
        "model": {"model_class": "deterministic", "model_name": "script", "outputs": outputs, "cost_per_call": 0.0},
    }
    check(run_batch(server, dataset, config), "sh")


def test_version_1_runs_a_dataset_with_many_threads(server: Server, dataset: Path, sandbox_image: str) -> None:
    outputs = [f"```bash\n{each}\n```" for each in SCRIPT]
    lines = [json.dumps({"instance_id": f"fix__{n}", "problem_statement": "task", "image_name": SANDBOX}) for n in range(INSTANCES)]
    (dataset / "test.jsonl").write_text("\n".join(lines))
    config = {
        "agent": {"system_template": "s", "instance_template": "{{task}}", "cost_limit": 0},
        "environment": {"environment_class": "docker", "timeout": 2, "run_args": ["--memory", "128m"]},
        "model": {"model_class": "deterministic", "model_name": "script", "outputs": outputs, "cost_per_call": 0.0},
    }
    predictions = run_batch(server, dataset, config, package_directory(VERSION_1))
    assert predictions == {f"fix__{n}": "bash\ntwice\n" for n in range(INSTANCES)}
