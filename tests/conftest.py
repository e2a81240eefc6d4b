"""Fixtures that tests of every kind share."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from remote_env import Client, Sandbox
from tests.support.server import BUSYBOX, SMALL, Server

pytest_plugins = ["tests.engine_fixtures"]
settings.register_profile("any machine", deadline=None)  # a slow one is no failure
settings.load_profile("any machine")


def pytest_configure() -> None:
    """Started in the background, or by nohup, a process ignores these, and so would all that it starts: tests that send them
    would wait for ever."""
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL), (signal.SIGQUIT, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """When tests run in several processes: those that share what a module's fixture made, or a
    composition, stay together in one of them."""
    for item in items:
        fixtures = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 (pytest has no public name for it)
        if "docker_setup" in fixtures or any(each.scope == "module" for several in fixtures.values() for each in several):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish() -> None:
    """What is there before the first test stays: collections, of which tests ask for hundreds, need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _client_log_as_it_was() -> Iterator[None]:
    """What a test asks of the client's logger (REMOTE_ENV_DEBUG, the command line) must not outlive it."""
    log = logging.getLogger("remote_env")
    level, handlers = log.level, list(log.handlers)
    yield
    log.setLevel(level)
    log.handlers[:] = handlers


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that tests share: do not hurt it."""
    shared = Server(tmp_path_factory.mktemp("server") / "data")
    try:
        yield shared.start()
    finally:
        shared.remove_all()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Make servers of one's own, to be hurt: `make_server(*options, environ=…)`, not yet started."""
    made: list[Server] = []

    def make(*options: str, environ: dict[str, str] | None = None) -> Server:
        made.append(Server(tmp_path / f"data{len(made)}", *options, environ=environ))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.remove_all()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    """A client of the shared server."""
    with server.client() as shared:
        yield shared


@pytest.fixture
def sandbox(client: Client) -> Iterator[Sandbox]:
    """A busybox sandbox of one's own on the shared server."""
    made = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
    try:
        yield made
    finally:
        made.remove()
