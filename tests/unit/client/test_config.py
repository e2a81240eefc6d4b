"""Where url and token come from, and where they never show."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from remote_env import Client, errors
from remote_env.config import DEFAULT_URL, Endpoint, TokenSource
from remote_env.errors import InvalidSpec, RemoteEnvError
from remote_env.exchange import ERRORS, Refused
from remote_env.paths import default_data_dir
from remote_env.protocol import PROBLEMS, Problem
from remote_env.timings import Timings


def test_arguments_come_before_the_environment_and_that_before_the_local_servers_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REMOTE_ENV_SERVER_DATA_DIR", str(tmp_path))
    (tmp_path / "token").write_text("local\n")
    (tmp_path / "other").write_text("from-file\n")
    assert Endpoint.resolve().url == DEFAULT_URL
    assert Endpoint.resolve().token_source().value == "local"
    monkeypatch.setenv("REMOTE_ENV_TOKEN_FILE", str(tmp_path / "other"))
    assert Endpoint.resolve().token_source().value == "from-file"
    monkeypatch.setenv("REMOTE_ENV_TOKEN", "from-environment")
    monkeypatch.setenv("REMOTE_ENV_URL", "http://10.0.0.1:1234/")
    assert Endpoint.resolve().url == "http://10.0.0.1:1234"
    assert Endpoint.resolve().token_source().value == "from-environment"
    assert Endpoint.resolve(token_file=tmp_path / "other").token_source().value == "from-file"
    assert Endpoint.resolve("https://host", "given").token_source().value == "given"


def test_the_local_servers_token_is_not_sent_to_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REMOTE_ENV_SERVER_DATA_DIR", str(tmp_path))
    (tmp_path / "token").write_text("local\n")
    assert Endpoint.resolve("http://[::1]:9527").token_source().value == "local"
    assert Endpoint.resolve("http://10.0.0.1:9527").token_source().value is None


@pytest.mark.parametrize(
    "url", ["127.0.0.1:9527", "ftp://host", "http://", "http://host:port", "http://user:pw@host", "http://host/?a=1", "http://host/#x"]
)
def test_an_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        Endpoint.resolve(url, "token")
    assert "pw" not in str(raised.value)


def test_a_pin_for_a_server_without_tls_is_refused_before_the_token_is_sent() -> None:
    with pytest.raises(InvalidSpec, match="not https"):
        Endpoint.resolve("http://10.0.0.1:9527", "token", fingerprint="0" * 64)


@pytest.mark.parametrize("token", ["two words", "new\nline", "ümlaut", ""])
def test_a_token_that_cannot_be_sent_is_refused(token: str) -> None:
    with pytest.raises(InvalidSpec):
        Endpoint.resolve("http://127.0.0.1", token)


def test_a_token_file_is_read_again_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "token"
    source = TokenSource(path=path)
    assert source.value is None
    path.write_text("one\n")
    assert (source.reload(), source.value) == (True, "one")
    assert source.reload() is False
    path.write_text("")
    assert (source.reload(), source.value) == (False, "one")


def test_no_repr_shows_the_token(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), Client("http://127.0.0.1:9", "top-secret") as client:
        shown = repr([client, client.exchange, client._endpoint, client._endpoint.token_source(), client.exchange.transport])
    assert "top-secret" not in shown + caplog.text


def test_every_code_of_the_wire_has_its_error() -> None:
    assert ERRORS.keys() == PROBLEMS.keys()
    for code in PROBLEMS:
        error = Refused(Problem.of(code, "detail")).error(execution_id="e", sandbox_id="s")
        assert (error.execution_id, error.sandbox_id) == ("e", "s")
        assert "detail" in str(error)


def test_every_error_is_in_the_tree_that_the_module_shows_and_says_whether_it_ran() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RemoteEnvError)]
    assert len(kinds) > 15
    for kind in kinds:
        assert errors.__doc__ is not None
        assert f" {kind.__name__}" in errors.__doc__ or f"\n{kind.__name__}" in errors.__doc__, kind.__name__
        assert kind.__doc__


def test_a_call_lasts_half_an_hour_or_the_commands_timeout_and_a_margin() -> None:
    assert Timings().call_s(60) == 1800
    assert Timings().call_s(7200) == 7230
    assert Timings().scaled(0.5).heartbeat_s == 5


def test_the_data_directory_follows_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMOTE_ENV_SERVER_DATA_DIR")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_dir() == Path("/home/somebody/.local/share/remote-env")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_dir() == Path("/data/remote-env")
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_data_dir() == Path("/home/somebody/Library/Application Support/remote-env")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/remote-env")


IMPORT = """
import builtins, os, sys, threading
import requests, urllib3, pydantic, ssl  # what importing these does is theirs
class First(pydantic.BaseModel): pass
before = set(sys.modules)
opened, read = [], []
def watch(event, args):
    if event == "open" and not str(args[0]).endswith((".py", ".pyc")) and "__pycache__" not in str(args[0]):
        opened.append(args[0])
sys.addaudithook(watch)
real = type(os.environ).__getitem__
type(os.environ).__getitem__ = lambda self, name: (read.append(name), real(self, name))[1]
import remote_env
third_party = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
theirs = {"annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection"}
print(sorted(third_party - theirs), opened, [name for name in read if "PYDANTIC" not in name], threading.active_count())
"""


def test_importing_reads_no_file_no_variable_starts_no_thread_and_prints_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['remote_env'] [] [] 1\n"
    assert done.stderr == ""
