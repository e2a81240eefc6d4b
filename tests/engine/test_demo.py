"""The demo, as a newcomer runs it: it says what happened, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.outside import docker, until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0  # for a slow machine; here it takes about ten seconds

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


class Demo:
    """./scripts/demo in a process group of its own, with its output in a file."""

    def __init__(self, directory: Path) -> None:
        self._output = directory / "output"
        self._scratch = directory / "tmp"
        self._scratch.mkdir()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [ROOT / "scripts" / "demo"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "TMPDIR": str(self._scratch)},
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self._output.read_text()

    def found(self, pattern: str) -> str:
        match = re.search(pattern, self.text)
        assert match, f"{pattern!r} is not in:\n{self.text}"
        return match[1]

    def until_it_says(self, words: str) -> None:
        until(lambda: words in self.text or self.process.poll() is not None, f"the demo says {words!r}")
        assert words in self.text, self.text

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it to everything in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def instance_id(self) -> str:
        """Of the demo's server, while it plays: the label of every container that it makes."""
        (path,) = self._scratch.glob("remote-env-demo-*/data/instance_id")
        return path.read_text().strip()

    def assert_nothing_is_left(self) -> None:
        assert list(self._scratch.iterdir()) == []
        with pytest.raises(requests.ConnectionError):
            requests.get(self.found(r"(http://127.0.0.1:\d+)"), timeout=5)


@pytest.fixture
def demo(sandbox_image: str, tmp_path: Path) -> Iterator[Demo]:
    running = Demo(tmp_path)
    yield running
    if running.process.poll() is None:
        running.interrupt()
        running.process.wait(PATIENCE_S)


def test_the_demo_holds_its_promises_and_says_so(demo: Demo) -> None:
    assert demo.process.wait(PATIENCE_S) == 0, demo.text
    assert "✘" not in demo.text
    assert demo.text.count("✔") == 6
    assert "FAILED (failures=1)" in demo.text
    assert re.search(r"Ran \d+ tests in [\d.]+s\n  │ \n  │ OK\n", demo.text)
    old, new = demo.found(r"the server \(pid (\d+)\) is killed"), demo.found(r"a new server \(pid (\d+)\) answers")
    assert old != new
    counts = re.findall(r"^\| .* \| +(\d+) \| +\d+ \|$", demo.text, re.MULTILINE)
    assert counts == ["1"] * 8
    assert "+                moment = moment.replace(minute=0) + timedelta(hours=1)" in demo.text
    assert "remote-env ran each command once" in demo.text
    container = demo.found(r"container ([0-9a-f]{12}) ")
    assert subprocess.run(["docker", "inspect", container], capture_output=True, check=False).returncode != 0
    demo.assert_nothing_is_left()


@pytest.mark.parametrize(
    "moment",
    ["server   remote-env serve", "[2/8]", "answers at the same address", "is killed, SIGKILL"],
    ids=["while-the-sandbox-is-made", "while-a-command-runs", "after-the-restart", "while-there-is-no-server"],
)
def test_ctrl_c_leaves_no_container_no_server_and_no_files(demo: Demo, moment: str) -> None:
    demo.until_it_says(moment)
    instance_id = demo.instance_id()
    demo.interrupt()
    assert demo.process.wait(PATIENCE_S) == 130, demo.text
    assert not re.search("^Traceback", demo.text, re.MULTILINE), demo.text
    assert docker("ps", "--all", "--quiet", "--filter", f"label=remote-env.instance={instance_id}") == ""
    demo.assert_nothing_is_left()
