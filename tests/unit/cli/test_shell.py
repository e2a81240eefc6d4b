"""The command line as a whole: help, version, mistakes of ours, quantities."""

from __future__ import annotations

import subprocess
import sys

import pytest

from remote_env import Client
from remote_env.cli.quantities import parse_duration, parse_env, parse_signal, parse_size, show_duration, show_size
from remote_env.version import __version__
from tests.unit.cli.conftest import ROOT, Cli
from tests.unit.client.fakeserver import FakeServer

COMMANDS = [
    "serve", "run", "exec", "shell", "cp", "create", "ps", "rm", "logs", "kill", "diff", "snapshot", "gc", "doctor", "batch",
]  # fmt: skip


def test_version_is_told_without_importing_the_parser() -> None:
    script = (
        "import sys; sys.argv = ['remote-env', '--version']; from remote_env.cli.main import main; main(); "
        "sys.exit('typer' in sys.modules or 'rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"remote-env {__version__}\n"


def test_help_lists_every_command(cli: Cli) -> None:
    listed = cli("--help").out.decode().partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == COMMANDS


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "serve"])
def test_help_of_each_command_gives_examples(cli: Cli, name: str) -> None:
    done = cli(name, "--help")
    assert done.code == 0
    assert f"remote-env {name}" in done.out.decode().partition("Examples:")[2] or name == "doctor"


def test_unknown_command_is_wrong_usage(cli: Cli) -> None:
    done = cli("rn")
    assert (done.code, done.out) == (2, b"")
    assert "rn" in done.err


def test_url_that_is_none_is_wrong_usage(cli: Cli) -> None:
    assert cli("ps", "--url", "nonsense").code == 2


def test_options_after_the_command_go_before_those_in_front_of_it(fake: FakeServer, cli: Cli) -> None:
    assert cli("--url", "http://127.0.0.1:9", "ps", "--url", fake.url).code == 0


def test_own_mistake_is_one_line_that_says_how_to_see_more(fake: FakeServer, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Client, **filters: object) -> None:
        raise ZeroDivisionError("by a test's order")

    monkeypatch.setattr(Client, "sandboxes", broken)
    done = cli("ps")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "REMOTE_ENV_DEBUG" in done.err and "ZeroDivisionError" in done.err
    monkeypatch.setenv("REMOTE_ENV_DEBUG", "1")
    assert "Traceback" in cli("ps").err


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("10", 10), ("512m", 512 << 20), ("2GiB", 2 << 30), ("1.5g", 3 << 29), ("4 KiB", 4096)]
)
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("0.5s", 0.5), ("5m", 300), ("24h", 86400), ("7d", 604800)])
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1", "1 parsec", "1e3", "nan", "inf"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_size(text)
    with pytest.raises(ValueError, match="is not a"):
        parse_duration(text)


def test_environment_takes_values_and_names() -> None:
    assert parse_env(["A=1", "B=", "C", "D"], {"C": "c"}) == {"A": "1", "B": "", "C": "c"}
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_env(["=x"], {})


@pytest.mark.parametrize("text", ["", "0", "65", "NOPE", "-9"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a signal"):
        parse_signal(text)


def test_quantities_are_shown_short() -> None:
    assert [show_duration(seconds) for seconds in (0, 59.4, 60, 3600, 12000, 86400, 190000)] == [
        "0s", "59s", "1m", "1h", "3h 20m", "1d", "2d 4h",
    ]  # fmt: skip
    assert [show_size(size) for size in (0, 1023, 1024, 3 << 30)] == ["0 B", "1023 B", "1.0 KiB", "3.0 GiB"]
