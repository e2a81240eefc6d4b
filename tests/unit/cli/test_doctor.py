"""`doctor`: each thing that can be wrong is found, with its mend."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Cli
from tests.unit.client.badserver import BadServer, answer
from tests.unit.client.fakeserver import TOKEN, FakeServer


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
