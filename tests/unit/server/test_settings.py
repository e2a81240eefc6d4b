"""Where settings come from, how they are written, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from server.settings import Settings, SettingsError, host_memory_bytes, load, rows, unknown_variables


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text('port = 1003\nmin_free_disk = "3GiB"\nmax_executions = 3\ninsecure = true\nbind_allow = ["/srv/a", "/srv/b"]\n')
    return path


def test_flags_come_before_variables_before_the_file_before_defaults(config: Path) -> None:
    variables = {"REMOTE_ENV_SERVER_PORT": "1002", "REMOTE_ENV_SERVER_MIN_FREE_DISK": "2g", "REMOTE_ENV_SERVER_CONFIG": str(config)}
    settings = load({"port": "1001"}, variables)
    assert (settings.port, settings.min_free_disk_bytes, settings.max_executions, settings.default_pids) == (1001, 2 << 30, 3, 4096)
    assert settings.bind_allow == (Path("/srv/a"), Path("/srv/b"))
    assert load({"config": str(config)}, {}).port == 1003


def test_defaults_are_the_contracts() -> None:
    settings = load({}, {})
    assert (settings.host, settings.port, settings.max_executions) == ("127.0.0.1", 9527, 1024)
    assert (settings.retention_s, settings.min_free_disk_bytes, settings.default_memory_bytes) == (86400.0, 2 << 30, 4 << 30)
    assert settings.capacity_memory_bytes == host_memory_bytes()
    assert settings.token_path == settings.data_dir / "token"


def test_flags_that_were_not_given_hide_nothing() -> None:
    given = {row.name: None for row in rows()} | {"allowed_host": [], "config": None}
    assert load(given, {"REMOTE_ENV_SERVER_PORT": "7"}).port == 7


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 << 20), ("2GiB", 2 << 30), ("1.5g", 3 << 29), ("4096", 4096), ("10 kb", 10_000), ("1T", 1 << 40)]
)  # fmt: skip
def test_sizes_are_written_with_units(text: str, size: int) -> None:
    assert load({"min_free_disk": text}, {}).min_free_disk_bytes == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("5m", 300.0), ("24h", 86400.0), ("0.5", 0.5), ("200ms", 0.2), ("1d", 86400.0)]
)
def test_durations_are_written_with_units(text: str, seconds: float) -> None:
    assert load({"drain_grace": text}, {}).drain_grace_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("flags", "variables", "words"),
    [
        ({"port": "99999"}, {}, ["--port", "'99999'", "port number"]),
        ({}, {"REMOTE_ENV_SERVER_PORT": "tcp://10.0.0.1:80"}, ["REMOTE_ENV_SERVER_PORT", "port number"]),
        ({"min_free_disk": "2 gigs"}, {}, ["--min-free-disk", "2GiB"]),
        ({"retention": "1w"}, {}, ["--retention", "24h"]),
        ({"retention": "-5s"}, {}, ["--retention"]),
        ({}, {"REMOTE_ENV_SERVER_INSECURE": "perhaps"}, ["REMOTE_ENV_SERVER_INSECURE", "true or false"]),
        ({"log_format": "xml"}, {}, ["--log-format", "console, json"]),
        ({"max_executions": "1.5"}, {}, ["--max-executions", "whole number"]),
        ({"max_executions": "0"}, {}, ["max_executions", "0"]),
        ({"config": "/no/such/file.toml"}, {}, ["--config", "/no/such/file.toml", "No such file"]),
        ({"retention": "31m"}, {}, ["retention", "max_timeout"]),
        ({"max_timeout": "24h"}, {}, ["retention", "max_timeout"]),
        ({"tls_cert": "/c.pem"}, {}, ["tls_cert", "tls_key"]),
        ({"tls_cert": "/c.pem", "tls_key": "/k.pem", "tls_self_signed": True}, {}, ["tls_self_signed", "tls_cert"]),
    ],
)
def test_a_bad_setting_is_named_with_its_source(flags: dict[str, object], variables: dict[str, str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(flags, variables)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("min_free_disc = 5", ["min_free_disc", "min_free_disk"]), ("port = [1]", ["port in", "port number"]), ("port", ["not TOML"]),
        ("port = true", ["port number"]), ("min_free_disk = -1", ["a size"]), ("allowed_host = 5", ["not a list"]),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load({"config": str(path)}, {})
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "build-7"])
def test_address_that_others_reach_needs_tls_or_an_explicit_word(host: str) -> None:
    with pytest.raises(SettingsError, match=r"--tls-self-signed.*ssh -N -L 9527:127\.0\.0\.1:9527.*--insecure"):
        load({"host": host}, {})
    for consent in ({"insecure": True}, {"tls_self_signed": True}, {"tls_cert": "/c.pem", "tls_key": "/k.pem"}):
        assert load({"host": host, **consent}, {}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])
def test_loopback_needs_neither(host: str) -> None:
    assert load({"host": host}, {}).host == host


def test_docker_host_of_the_environment_is_asked_last() -> None:
    assert load({}, {"DOCKER_HOST": "unix:///a"}).docker_host == "unix:///a"
    assert load({}, {"DOCKER_HOST": "unix:///a", "REMOTE_ENV_SERVER_DOCKER_HOST": "unix:///b"}).docker_host == "unix:///b"


def test_every_row_has_help_and_a_default_that_can_be_written_again() -> None:
    for row in rows():
        assert row.help.endswith(".")
        if row.default not in ("none", "by platform", "the host's", "DATA_DIR/token", "four times the host's CPUs"):
            assert row.kind.parse(row.default) == getattr(load({}, {}), row.attribute)


def test_no_public_name_has_a_unit_and_all_differ() -> None:
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names) == len(dataclasses.fields(Settings))
    assert not [name for name in names if name.endswith(("_s", "_bytes"))]


def test_misspelt_variables_are_found() -> None:
    assert unknown_variables({"REMOTE_ENV_SERVER_PROT": "1", "REMOTE_ENV_SERVER_PORT": "1", "REMOTE_ENV_URL": ""}) == [
        "REMOTE_ENV_SERVER_PROT"
    ]
