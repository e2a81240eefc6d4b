"""A server that keeps the protocol in memory, over real sockets, and breaks it exactly where a test says so."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from remote_env.protocol import (
    INLINE_LIMIT,
    Execution,
    ExecutionList,
    ExecutionSpec,
    Health,
    LeaseAnswer,
    Outcome,
    Output,
    Problem,
    Sandbox,
    SandboxList,
    SandboxSpec,
)
from tests.unit.client.fakehttp import HttpServer, Json, Request

TOKEN = "the-token"


@dataclass
class Fault:
    """What goes wrong with one request.

    Args:
        arrives: whether the request takes effect at the server.
        answer: what is sent instead of the server's own answer: (status, headers, body); None: the connection is cut.
        change: makes another body of the server's own answer; then `answer` does not matter.
        before: called first, in the request's thread.
    """

    arrives: bool = False
    answer: tuple[int, dict[str, str], bytes] | None = None
    change: Callable[[bytes], bytes] | None = None
    before: Callable[[], None] | None = None


CUT_BEFORE = Fault()
CUT_AFTER = Fault(arrives=True)


def refusal(code: str, *, retry_after_s: float | None = 0.0, detail: str = "by a test's order") -> Fault:
    problem = Problem.of(code, detail, retry_after_s=retry_after_s)
    headers = {"Content-Type": "application/problem+json", "X-Remote-Env-Protocol": "1"}
    return Fault(answer=(problem.status, headers, problem.model_dump_json().encode()))


@dataclass
class Kept:
    """An execution and what the fake knows of it."""

    record: Execution
    output: bytes = b""


@dataclass
class FakeServer:
    """Commands: `true`, `false`; `echo TEXT`; `flood N` writes N bytes; `hang` runs until `finish`, cancel or close."""

    token: str = TOKEN
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    started: Counter[str] = field(default_factory=Counter)  # commands, by how often they were started
    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    executions: dict[str, Kept] = field(default_factory=dict)
    tombstones: set[str] = field(default_factory=set)
    long_gone: set[str] = field(default_factory=set)  # sandboxes that a lease answer does not tell of any more
    connections: int = 0
    instance_id: str = "instance-1"

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self._faults: list[tuple[str, re.Pattern[str], deque[Fault]]] = []
        self._handlers: set[socket.socket] = set()
        self._closing = False
        self._epochs = 0
        self._http = HttpServer(self)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._http.server_address[1]}"

    def on(self, method: str, path: str, *faults: Fault) -> None:
        """The next requests of this method whose path matches the pattern meet these faults, one each."""
        self._faults.append((method, re.compile(path), deque(faults)))

    def mend(self) -> None:
        """No request meets a fault any more that was ordered before."""
        with self.changed:
            self._faults.clear()

    def seen(self, method: str, path: str) -> list[Request]:
        with self.changed:
            return [request for request in self.requests if request.method == method and re.search(path, request.path)]

    def wait_until(self, condition: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout=20)

    def finish(self, execution_id: str, outcome: Outcome, output: bytes = b"") -> None:
        with self.changed:
            kept = self.executions[execution_id]
            kept.output += output
            kept.record = kept.record.model_copy(update={"state": "ended", "outcome": outcome, "output": describe(kept.output)})
            self.changed.notify_all()

    def write(self, execution_id: str, output: bytes) -> None:
        with self.changed:
            self.executions[execution_id].output += output
            self.changed.notify_all()

    def restart_sandbox(self, sandbox_id: str) -> None:
        """As `docker restart` does: the same sandbox in another life, whose journal knows nothing of the old one."""
        with self.changed:
            self._epochs += 1
            self.sandboxes[sandbox_id] = self.sandboxes[sandbox_id].model_copy(update={"epoch": f"epoch{self._epochs}"})

    def cut_connections(self) -> None:
        """Closes every connection from this side, as a server that ends or a proxy with an idle limit does."""
        with self.changed:
            handlers = list(self._handlers)
        for connection in handlers:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed by its own thread

    def close(self) -> None:
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        self._http.shutdown()
        self.cut_connections()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------------- requests

    def take_fault(self, request: Request) -> Fault | None:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()
            for method, path, faults in self._faults:
                if method == request.method and path.search(request.path) and faults:
                    return faults.popleft()
        return None

    def handle(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        status, headers, body = self._handle(request)
        headers = {**headers, "X-Remote-Env-Instance": self.instance_id}
        named = re.match(r"/v1/executions/([^/]+)", request.path)
        execution_id = named[1] if named else request.json().get("id", "") if request.path.endswith("/executions") else ""
        kept = self.executions.get(execution_id)
        if kept is not None and status < 300:
            headers |= {"X-Remote-Env-Execution": kept.record.id, "X-Remote-Env-Sandbox": kept.record.sandbox_id}
            headers["X-Remote-Env-Epoch"] = kept.record.epoch
        return status, headers, body

    def _handle(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        if request.path == "/health":
            return _json(200, Health(version="0", protocol=1))
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return _problem("unauthorized", "another token")
        with self.changed:
            for method, pattern, route in ROUTES:
                match = re.fullmatch(pattern, request.path)
                if method == request.method and match:
                    return route(self, request, *match.groups())
        return _problem("not_found", request.path)

    def wait_for(self, condition: Callable[[], bool], wait_s: float) -> None:
        self.changed.wait_for(lambda: self._closing or condition(), timeout=wait_s)

    def create(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        spec = SandboxSpec.model_validate_json(request.body)
        if spec.id in self.tombstones:
            return _problem("gone", "removed")
        new = spec.id not in self.sandboxes
        if new:
            self._epochs += 1
            missing = spec.image.startswith("missing")
            self.sandboxes[spec.id] = Sandbox(
                id=spec.id,
                run_id=spec.run_id,
                image=spec.image,
                state="failed" if missing else "running",
                reason="image_not_found: no such image" if missing else None,
                epoch=f"epoch{self._epochs}",
                container_id=f"container-of-{spec.id}",
                workdir=spec.workdir or "/",
            )
        return _json(201 if new else 200, self.sandboxes[spec.id])

    def show_sandbox(self, request: Request, sandbox_id: str) -> tuple[int, dict[str, str], bytes]:
        if sandbox_id not in self.sandboxes:
            return _problem("gone" if sandbox_id in self.tombstones else "not_found", sandbox_id)
        return _json(200, self.sandboxes[sandbox_id])

    def list_sandboxes(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        run_id = request.query.get("run_id")
        found = [sandbox for sandbox in self.sandboxes.values() if run_id in (None, sandbox.run_id) and sandbox.state == "running"]
        return _json(200, SandboxList(sandboxes=found))

    def remove(self, request: Request, sandbox_id: str) -> tuple[int, dict[str, str], bytes]:
        self.tombstones.add(sandbox_id)
        if sandbox_id not in self.sandboxes:
            return _problem("not_found", sandbox_id)
        self.sandboxes[sandbox_id] = self.sandboxes[sandbox_id].model_copy(update={"state": "removed", "reason": "on request"})
        self.changed.notify_all()
        return _json(200, self.sandboxes[sandbox_id])

    def renew(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        run_id, *others = runs = runs_of(request)
        ours = [sandbox for sandbox in self.sandboxes.values() if sandbox.run_id in runs]
        live = [sandbox.id for sandbox in ours if sandbox.state == "running"]
        gone = {sandbox.id: sandbox.reason or "" for sandbox in ours if sandbox.state != "running" and sandbox.id not in self.long_gone}
        return _json(200, LeaseAnswer(run_id=run_id, run_ids=others, expires_in_s=300.0 if live else None, live=live, gone=gone))

    def start(self, request: Request, sandbox_id: str) -> tuple[int, dict[str, str], bytes]:
        spec = ExecutionSpec.model_validate_json(request.body)
        known = self.executions.get(spec.id)
        if known is not None:
            return self._known(request, spec.id) or _json(200, known.record)
        refused = self._refused(request, sandbox_id)
        if refused:
            return refused
        command = spec.command or " ".join(spec.argv or ())
        self.started[command] += 1
        sandbox = self.sandboxes[sandbox_id]
        record = Execution(id=spec.id, sandbox_id=sandbox_id, epoch=sandbox.epoch or "", run_id=sandbox.run_id, state="running")
        self.executions[spec.id] = Kept(record)
        word, _, rest = command.partition(" ")
        if word != "hang":
            output = {"echo": rest.encode() + b"\n", "flood": pattern_bytes(int(rest)) if word == "flood" else b""}.get(word, b"")
            self.finish(spec.id, Outcome(kind="exited", ran=True, code=1 if word == "false" else 0), output)
        self.changed.notify_all()
        self.wait_for(lambda: self.executions[spec.id].record.over, request.wait_s)
        record = self.executions[spec.id].record
        return _json(201 if record.over else 202, record)

    def show(self, request: Request, execution_id: str) -> tuple[int, dict[str, str], bytes]:
        refused = self._known(request, execution_id)
        if refused:
            return refused
        self.wait_for(lambda: self.executions[execution_id].record.over, request.wait_s)
        return _json(200, self.executions[execution_id].record)

    def list_executions(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        wanted = request.query.get("id")
        found = [kept.record for kept in self.executions.values() if wanted in (None, kept.record.id)]
        return _json(200, ExecutionList(executions=found))

    def cancel(self, request: Request, execution_id: str) -> tuple[int, dict[str, str], bytes]:
        refused = self._known(request, execution_id)
        if refused:
            return refused
        if not self.executions[execution_id].record.over:
            self.finish(execution_id, Outcome(kind="cancelled", ran=True))
        return _json(200, self.executions[execution_id].record)

    def signal(self, request: Request, execution_id: str) -> tuple[int, dict[str, str], bytes]:
        refused = self._known(request, execution_id)
        if refused:
            return refused
        if self.executions[execution_id].record.over:
            return _problem("wrong_state", "over")
        self.finish(execution_id, Outcome(kind="signalled", ran=True, signal=request.json()["signal"]))
        return _json(200, self.executions[execution_id].record)

    def abandon(self, request: Request, execution_id: str) -> tuple[int, dict[str, str], bytes]:
        if execution_id in self.executions:
            return self._known(request, execution_id) or _json(200, self.executions[execution_id].record)
        sandbox_id = request.json()["sandbox_id"]
        refused = self._refused(request, sandbox_id)
        if refused:
            return refused
        sandbox = self.sandboxes[sandbox_id]
        outcome = Outcome(kind="not_run", ran=False)
        record = Execution(
            id=execution_id, sandbox_id=sandbox_id, epoch=sandbox.epoch or "", run_id=sandbox.run_id, state="abandoned", outcome=outcome
        )
        self.executions[execution_id] = Kept(record)
        return _json(200, record)

    def output(self, request: Request, execution_id: str) -> tuple[int, dict[str, str], bytes]:
        refused = self._known(request, execution_id)
        if refused:
            return refused
        kept = self.executions[execution_id]
        span = re.fullmatch(r"bytes=(\d+)-(\d+)?", request.headers.get("range", ""))
        start = int(span[1]) if span else 0
        self.wait_for(lambda: kept.record.over or len(kept.output) > start, request.wait_s)
        end = min(int(span[2]) + 1, len(kept.output)) if span and span[2] else len(kept.output)
        headers = {"X-Remote-Env-Protocol": "1", "X-Remote-Env-State": kept.record.state}
        if span and start >= len(kept.output):
            return _problem("range_not_satisfiable", "beyond") if kept.record.over else (204, headers, b"")
        total = str(len(kept.output)) if kept.record.over else "*"
        if span:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        return 206 if span else 200, headers, kept.output[start:end]

    def _known(self, request: Request, execution_id: str) -> tuple[int, dict[str, str], bytes] | None:
        kept = self.executions.get(execution_id)
        if kept is None:
            return _problem("not_found", execution_id)
        epoch = request.headers.get("x-remote-env-epoch")
        if epoch is None:
            return _problem("epoch_required", "")
        return None if epoch == kept.record.epoch else _problem("epoch_mismatch", epoch)

    def _refused(self, request: Request, sandbox_id: str) -> tuple[int, dict[str, str], bytes] | None:
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is None:
            return _problem("not_found", sandbox_id)
        if sandbox.state != "running":
            return _problem("gone", sandbox.state)
        epoch = request.headers.get("x-remote-env-epoch")
        if epoch is None:
            return _problem("epoch_required", "")
        return None if epoch == sandbox.epoch else _problem("epoch_mismatch", epoch)


Route = Callable[..., tuple[int, dict[str, str], bytes]]
ROUTES: tuple[tuple[str, str, Route], ...] = (
    ("POST", r"/v1/sandboxes", FakeServer.create),
    ("GET", r"/v1/sandboxes", FakeServer.list_sandboxes),
    ("GET", r"/v1/sandboxes/([^/]+)", FakeServer.show_sandbox),
    ("DELETE", r"/v1/sandboxes/([^/]+)", FakeServer.remove),
    ("POST", r"/v1/leases", FakeServer.renew),
    ("POST", r"/v1/sandboxes/([^/]+)/executions", FakeServer.start),
    ("GET", r"/v1/executions", FakeServer.list_executions),
    ("GET", r"/v1/executions/([^/]+)", FakeServer.show),
    ("GET", r"/v1/executions/([^/]+)/output", FakeServer.output),
    ("POST", r"/v1/executions/([^/]+)/cancel", FakeServer.cancel),
    ("POST", r"/v1/executions/([^/]+)/signal", FakeServer.signal),
    ("POST", r"/v1/executions/([^/]+)/abandon", FakeServer.abandon),
)


def runs_of(request: Request) -> list[str]:
    """The runs that a lease renewal is about."""
    asked = request.json()
    return [asked["run_id"], *asked.get("run_ids", [])]


def describe(output: bytes) -> Output:
    about: Json = {"total_bytes": len(output), "kept_bytes": len(output), "sha256": hashlib.sha256(output).hexdigest()}
    if len(output) > INLINE_LIMIT:
        return Output(encoding="utf-8", **about)
    try:
        return Output(text=output.decode(), encoding="utf-8", **about)
    except UnicodeDecodeError:
        return Output(base64=base64.b64encode(output).decode(), encoding="base64", **about)


def pattern_bytes(size: int) -> bytes:
    """Text that is different everywhere, so that a piece in the wrong place shows."""
    line = b"".join(b"%07d\n" % number for number in range(size // 8 + 1))
    return line[:size]


def _json(status: int, model: Any) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json", "X-Remote-Env-Protocol": "1"}, model.model_dump_json().encode()


def _problem(code: str, detail: str) -> tuple[int, dict[str, str], bytes]:
    status, _, _ = _json(Problem.of(code, detail).status, Problem.of(code, detail))
    return _json(status, Problem.of(code, detail))
