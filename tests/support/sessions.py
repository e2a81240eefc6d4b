"""Sessions and terminals over plain HTTP: what the wire does, without the client's help."""

from __future__ import annotations

import time
from typing import Any

import requests

from remote_env.protocol import EPOCH_HEADER, OFFSET_HEADER, new_id
from tests.support.server import Server

PATIENCE_S = 30.0


class Wire:
    """Requests about one sandbox.

    Args:
        sandbox_id, epoch: of a sandbox that runs.
    """

    def __init__(self, server: Server, sandbox_id: str, epoch: str) -> None:
        self.server, self.sandbox_id, self.epoch = server, sandbox_id, epoch

    def __call__(
        self, method: str, path: str, *, wait: float | None = None, headers: dict[str, str] | None = None, **more: Any
    ) -> requests.Response:
        given = {"Authorization": f"Bearer {self.server.token}", EPOCH_HEADER: self.epoch, **(headers or {})}
        if wait is not None:
            given["Prefer"] = f"wait={wait:g}"
        return requests.request(method, self.server.url + path, headers=given, timeout=60, **more)

    def post(self, *, id: str | None = None, wait: float = 0, **spec: Any) -> requests.Response:
        return self("POST", f"/v1/sandboxes/{self.sandbox_id}/executions", json={"id": id or new_id(), **spec}, wait=wait)

    def start(self, **spec: Any) -> str:
        """Accepted; its id. A busy session is asked again."""
        spec.setdefault("id", new_id())
        deadline = time.monotonic() + PATIENCE_S
        while True:
            reply = self.post(**spec)
            if reply.status_code in (200, 201, 202):
                return str(reply.json()["id"])
            assert (reply.json()["code"], time.monotonic() < deadline) == ("session_busy", True), reply.text
            time.sleep(float(reply.json()["retry_after_s"]))

    def show(self, eid: str, wait: float = 0) -> dict[str, Any]:
        reply = self("GET", f"/v1/executions/{eid}?wait={wait:g}")
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def over(self, eid: str) -> dict[str, Any]:
        """As it ended."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.show(eid, wait=20))["state"] not in ("ended", "abandoned"):
            assert time.monotonic() < deadline, found
        return found

    def run(self, **spec: Any) -> dict[str, Any]:
        return self.over(self.start(**spec))

    def cancel(self, eid: str) -> None:
        assert self("POST", f"/v1/executions/{eid}/cancel").status_code in (200, 202)

    def output(self, eid: str) -> bytes:
        """What it has said so far."""
        reply = self("GET", f"/v1/executions/{eid}/output")
        assert reply.status_code == 200, reply.text
        return reply.content

    def says(self, eid: str, wanted: bytes) -> bytes:
        """What it has said, once that is in it."""
        deadline = time.monotonic() + PATIENCE_S
        while wanted not in (content := self.output(eid)):
            assert time.monotonic() < deadline, content
            time.sleep(0.01)
        return content

    def type_in(self, eid: str, data: bytes, offset: int | str) -> requests.Response:
        return self("POST", f"/v1/executions/{eid}/input", data=data, headers={OFFSET_HEADER: str(offset)})

    def session(self, **spec: Any) -> Session:
        return Session(self, **spec)


class Session:
    """One session's shell and its commands."""

    def __init__(self, wire: Wire, **spec: Any) -> None:
        self.wire = wire
        reply = wire.post(opens="session", wait=20, **spec)
        assert (reply.status_code, reply.json()["state"]) == (202, "running"), reply.text
        self.id: str = reply.json()["id"]

    def post(self, command: str, **spec: Any) -> requests.Response:
        return self.wire.post(session=self.id, command=command, **spec)

    def start(self, command: str, **spec: Any) -> str:
        return self.wire.start(session=self.id, command=command, **spec)

    def run(self, command: str, **spec: Any) -> dict[str, Any]:
        return self.wire.run(session=self.id, command=command, **spec)

    def says(self, command: str, **spec: Any) -> str:
        """The output of a command that exits with 0."""
        found = self.run(command, **spec)
        assert (found["outcome"]["kind"], found["outcome"]["code"]) == ("exited", 0), found
        return str(found["output"]["text"])

    def close(self) -> dict[str, Any]:
        self.wire.cancel(self.id)
        return self.wire.over(self.id)
