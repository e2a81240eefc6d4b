"""A headless Chromium, driven over its own debugging protocol: what a page does, says and asks for."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60.0
QUIET = [f"--{each}" for each in ("disable-gpu", "disable-dev-shm-usage", "no-first-run", "disable-background-networking", "disable-sync")]


def find_browser() -> str | None:
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Page:
    """One page. `requests` are the URLs that it asked for, `complaints` what its console, errors and policy said."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self._number = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._loaded = False
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._link.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                answer: dict[str, Any] = message["result"]
                return answer

    def open(self, path: Path) -> None:
        """Returns once all of it is loaded."""
        self._loaded = False
        self.call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """Its value, once what it promises has come."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`, as the reader's system has it."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def click(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def hover(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._link.recv(timeout=PATIENCE_S))
        parameters = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.complaints.append(json.dumps(parameters)[:1000])
            case "Page.javascriptDialogOpening":
                self.complaints.append(json.dumps(parameters))
                self._number += 1
                self._link.send(json.dumps({"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}))
        return message


@contextmanager
def browser(program: str, directory: Path) -> Iterator[str]:
    """The address of a running browser's debugging endpoint. It has a profile of its own and goes with all its processes."""
    command = [program, "--headless", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={directory}", *QUIET, "about:blank"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line.decode(errors="replace"))
            if said[-1].startswith("DevTools listening on "):
                break
        else:
            raise AssertionError(f"{program} did not start: {''.join(said)[-2000:]}")
        yield said[-1].removeprefix("DevTools listening on ").strip()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


@contextmanager
def open_page(endpoint: str) -> Iterator[Page]:
    """A fresh page of the browser; closed afterwards."""
    with connect(endpoint, max_size=None, compression=None, proxy=None) as link:
        link.send(json.dumps({"id": 0, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
        target = _answer(link, 0)["targetId"]
        try:
            where = endpoint.partition("/devtools/")[0]
            with connect(f"{where}/devtools/page/{target}", max_size=None, compression=None, proxy=None) as own:
                yield Page(own)
        finally:
            link.send(json.dumps({"id": 1, "method": "Target.closeTarget", "params": {"targetId": target}}))
            _answer(link, 1)


def _answer(link: ClientConnection, number: int) -> dict[str, Any]:
    while True:
        message = json.loads(link.recv(timeout=PATIENCE_S))
        if message.get("id") == number:
            answer: dict[str, Any] = message["result"]
            return answer
