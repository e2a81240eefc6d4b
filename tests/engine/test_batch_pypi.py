"""Real input: the batch of docs/examples/batch_pypi.py, 20 packages' own test suites, from the package index to the report."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.engine_fixtures import UNREACHABLE
from tests.support.server import Server

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "batch_pypi.py"


def run(*command: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **(environ or {})}, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def jobs(image_with_pytest: str, tmp_path: Path) -> Path:
    """The job file, made as its reader would make it."""
    made = run(sys.executable, str(EXAMPLE), str(tmp_path / "batch"))
    if made.returncode and any(sign in made.stderr for sign in UNREACHABLE):
        pytest.skip(f"the package index cannot be reached: {made.stderr[-300:]}")
    assert made.returncode == 0, made.stderr
    return tmp_path / "batch" / "jobs.jsonl"


def test_twenty_packages_own_suites_end_in_sandboxes_as_they_do_elsewhere(server: Server, jobs: Path, tmp_path: Path) -> None:
    batch = (sys.executable, "-m", "remote_env.cli.main", "batch")
    out = tmp_path / "results"
    done = run(*batch, "run", str(jobs), "--out", str(out), "--workers", "4", environ=server.env)
    results: dict[str, dict[str, Any]] = {line["id"]: line for line in map(json.loads, (out / "results.jsonl").read_text().splitlines())}
    wanted = [package.id for package in runpy.run_path(str(EXAMPLE))["PACKAGES"]]
    outcomes = dict.fromkeys(wanted, "passed") | {"polib-1.2.0": "failed"}
    assert {name: line["outcome"] for name, line in results.items()} == outcomes, done.stderr
    assert done.returncode == 1 and len(wanted) == 20
    for name, line in results.items():
        (junit,) = line["artifacts"]
        (suite,) = ElementTree.parse(out / junit["file"]).getroot()
        failures = 0 if outcomes[name] == "passed" else 1
        assert int(suite.attrib["tests"]) > 10 and int(suite.attrib["failures"]) + int(suite.attrib["errors"]) == failures, name
        assert " passed" in (out / line["commands"][-1]["output_file"]).read_text()
    report = run(*batch, "report", str(out), "--json")
    assert json.loads(report.stdout)["counts"]["passed"] == 19 and (out / "report.html").exists()
