"""`remote-env serve` as a command: its help, and what it says where the server's half is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import server.main
from remote_env.cli.serve import register
from server.settings import Settings, rows

ROOT = Path(__file__).parents[3]


def command_line() -> typer.Typer:
    app = typer.Typer(callback=lambda: None)
    register(app)
    return app


def test_help_tells_every_setting_with_default_and_variable() -> None:
    result = CliRunner().invoke(command_line(), ["serve", "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    for row in rows():
        assert f" {row.flag} " in words
        assert f"[default: {row.default}; env: {row.variable}]" in words


def test_options_reach_the_settings_and_those_not_given_hide_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(server.main, "serve", lambda settings: seen.append(settings) or 0)
    options = ["serve", "--port=7", "--allowed-host=a", "--allowed-host=b", "--log-format", "json", "--remove-on-exit"]
    variables = {"REMOTE_ENV_SERVER_INSECURE": "true", "REMOTE_ENV_SERVER_PORT": "8", "REMOTE_ENV_SERVER_LOG_LEVEL": "debug"}
    assert CliRunner().invoke(command_line(), options, env=variables).exit_code == 0
    (settings,) = seen
    assert (settings.port, settings.allowed_hosts, settings.log_format, settings.remove_on_exit) == (7, ("a", "b"), "json", True)
    assert (settings.insecure, settings.log_level) == (True, "debug")


def test_exit_code_is_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.main, "serve", lambda settings: 1)
    assert CliRunner().invoke(command_line(), ["serve"]).exit_code == 1


def test_missing_dependency_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "server.main")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(command_line(), ["serve"])
    assert result.exit_code == 1
    assert "needs uvicorn" in result.output
    assert "pip install 'remote-env[server]'" in result.output


def test_another_package_called_server_is_named_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").write_text("")
    program = "import typer; from remote_env.cli.serve import register; app = typer.Typer(callback=lambda: None); register(app); app()"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    result = subprocess.run(
        [sys.executable, "-c", program, "serve", "--port=7"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert result.returncode == 1
    assert f"{tmp_path}/server/__init__.py, which is not remote-env's" in result.stderr
