"""The examples of docs/examples run as they stand there, but for the image."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.engine.test_minisweagent import run_agent
from tests.support.server import SANDBOX, Server

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def test_the_configuration_for_mini_swe_agent_runs_an_agent(server: Server, sandbox_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTE_ENV_URL", server.url)
    monkeypatch.setenv("REMOTE_ENV_TOKEN", server.token)
    monkeypatch.setenv("GITHUB_TOKEN", "forwarded")
    environment = yaml.safe_load((EXAMPLES / "minisweagent.yaml").read_text())["environment"]
    submit = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; pwd; echo $PAGER $GITHUB_TOKEN"
    result, _ = run_agent({**environment, "image": SANDBOX}, [submit])
    assert result == {"exit_status": "Submitted", "submission": "/testbed\ncat forwarded\n"}
