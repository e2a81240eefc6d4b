"""`doctor`: each thing that can be wrong is found, with its mend."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from remote_env.protocol import Health
from tests.unit.cli.conftest import Cli
from tests.unit.client.badserver import BadServer, answer
from tests.unit.client.fakeserver import TOKEN, FakeServer, Fault


def findings(cli: Cli, code: int) -> dict[str, dict[str, Any]]:
    done = cli("doctor", "--json")
    document = json.loads(done.out)
    assert (done.code, document["healthy"]) == (code, code == 0)
    return {finding["name"]: finding for finding in document["findings"]}


def test_engine_that_is_not_there_is_wrong_and_has_a_mend(fake: FakeServer, cli: Cli) -> None:
    engine = findings(cli, 1)["engine"]
    assert engine["verdict"] == "bad"
    assert "DOCKER_HOST" in engine["mend"]


def test_engine_on_another_machine_is_wrong(fake: FakeServer, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://build-host:2375")
    assert "beside its engine" in findings(cli, 1)["engine"]["mend"]


def test_server_that_is_not_there_is_wrong(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTE_ENV_URL", "http://127.0.0.1:9")
    found = findings(cli, 1)
    assert (found["port"]["verdict"], found["server"]["verdict"], found["sandbox"]["verdict"]) == ("warning", "bad", "skipped")
    assert "remote-env serve" in found["server"]["mend"]


def test_something_else_on_the_port_is_told_from_a_server(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def web_page(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(answer("200 OK", b"hi"))
        return True

    with BadServer(web_page) as other:
        monkeypatch.setenv("REMOTE_ENV_URL", other.url)
        found = findings(cli, 1)
    assert found["port"]["verdict"] == "bad"
    assert "something else" in found["port"]["found"]
    assert "--port" in found["port"]["mend"]


def test_server_of_another_version_is_a_warning(fake: FakeServer, cli: Cli) -> None:
    server = findings(cli, 1)["server"]
    assert server["verdict"] == "warning"
    assert "version 0," in server["found"]


def test_token_that_others_can_read_is_a_warning(fake: FakeServer, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o644)
    monkeypatch.delenv("REMOTE_ENV_TOKEN")
    monkeypatch.setenv("REMOTE_ENV_TOKEN_FILE", str(token))
    found = findings(cli, 1)["token"]
    assert (found["verdict"], found["mend"]) == ("warning", f"chmod 600 {token}")
    token.chmod(0o600)
    assert findings(cli, 1)["token"]["verdict"] == "good"


def test_missing_token_file_is_wrong(fake: FakeServer, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMOTE_ENV_TOKEN")
    assert findings(cli, 1)["token"]["verdict"] == "bad"


def test_data_directory_open_to_others_is_a_warning(fake: FakeServer, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    monkeypatch.setenv("REMOTE_ENV_SERVER_DATA_DIR", str(data))
    assert findings(cli, 1)["data directory"]["mend"] == f"chmod 700 {data}"


def test_sandbox_is_made_used_and_removed_where_an_image_is_named(fake: FakeServer, cli: Cli) -> None:
    done = cli("doctor", "--image", "image")
    assert fake.started == {"true": 1}
    assert [sandbox.state for sandbox in fake.sandboxes.values()] == ["removed"]
    assert "made from image" in done.out.decode()


def test_screen_names_the_wrong_things_and_counts_them(fake: FakeServer, cli: Cli) -> None:
    done = cli("doctor")
    assert done.code == 1
    assert "✘ engine" in done.out.decode()
    assert "→" in done.out.decode()
    assert "thing" in done.out.decode().splitlines()[-1]


def test_sandboxes_that_are_not_kept_ready_are_a_warning_with_the_reason(fake: FakeServer, cli: Cli) -> None:
    warm = [
        {"image": "python:3.12", "ready": 8, "wanted": 8, "trouble": None},
        {"image": "gone:1", "ready": 0, "wanted": 2, "trouble": "gone:1 cannot be pulled"},
    ]
    health = Health(version="0", protocol=1, capacity={"warm": warm}).model_dump_json().encode()
    fake.on("GET", "^/health$", *[Fault(answer=(200, {"X-Remote-Env-Protocol": "1"}, health))] * 9)
    document = json.loads(cli("doctor", "--json").out)
    found = [each for each in document["findings"] if each["name"] == "warm sandboxes"]
    assert [each["verdict"] for each in found] == ["good", "warning"]
    assert [each["found"] for each in found] == [
        "8 of 8 of python:3.12 are ready", "0 of 2 of gone:1 are ready: gone:1 cannot be pulled",
    ]  # fmt: skip
