"""The fake server with sessions and terminals.

A session's shell knows what the fake's commands are, and `exit N`; sourcing a file whose name holds "missing" fails. The program
`repl` prompts with ">>> ", answers each line with "said LINE", and ends at "quit"; `mute` reads and says nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from remote_env.protocol import Execution, ExecutionSpec, InputAnswer, Outcome
from tests.unit.client.fakehttp import Request
from tests.unit.client.fakeserver import FakeServer, Kept, _json, _problem

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Typed:
    """What a program's terminal was given."""

    data: bytearray = field(default_factory=bytearray)
    count: int | None = 0  # None: the server was started since
    line: bytearray = field(default_factory=bytearray)  # that the program has not had the end of


class SessionServer(FakeServer):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.sessions: dict[str, str | None] = {}  # id → the command that runs in it
        self.typed: dict[str, Typed] = {}
        self.sizes: list[tuple[str, int, int]] = []
        self.room: int | None = None  # bytes that a terminal still takes; None: any number

    def restart(self) -> None:
        """Forgets what a server keeps in memory alone."""
        with self.changed:
            for typed in self.typed.values():
                typed.count = None

    def end_session(self, session_id: str, outcome: Outcome) -> None:
        self.finish(session_id, outcome)

    def _handle(self, request: Request) -> Answer:
        posted = re.fullmatch(r"/v1/sandboxes/([^/]+)/executions", request.path)
        terminal = re.fullmatch(r"/v1/executions/([^/]+)/(input|resize)", request.path)
        with self.changed:
            if request.method == "POST" and terminal:
                return self._known(request, terminal[1]) or getattr(self, f"_{terminal[2]}")(request, terminal[1])
            if request.method == "POST" and posted:
                return self._post(request, posted[1])
        return super()._handle(request)

    def _post(self, request: Request, sandbox_id: str) -> Answer:
        spec = ExecutionSpec.model_validate_json(request.body)
        refused = self._refused(request, sandbox_id)
        if spec.id in self.executions or refused is not None:
            return refused if refused and spec.id not in self.executions else _json(200, self.executions[spec.id].record)
        if spec.opens is not None:
            self.sessions[spec.id] = None
            return _json(202, self._begin(spec, sandbox_id, opens=spec.opens))
        if spec.session is not None:
            if spec.session not in self.sessions or self.executions[spec.session].record.over:
                return _problem("session_ended", "it is over")
            running = self.sessions[spec.session]
            if running is not None and not self.executions[running].record.over:
                return _problem("session_busy", running)
        if spec.session is None and spec.tty is None:
            return super()._handle(request)
        record = self._begin(spec, sandbox_id, session=spec.session, tty=spec.tty is not None)
        if spec.session is not None:
            self.sessions[spec.session] = spec.id
        self._run(spec)
        self.wait_for(lambda: self.executions[spec.id].record.over, request.wait_s)
        record = self.executions[spec.id].record
        return _json(201 if record.over else 202, record)

    def _begin(self, spec: ExecutionSpec, sandbox_id: str, **fields: Any) -> Execution:
        sandbox = self.sandboxes[sandbox_id]
        record = Execution(
            id=spec.id, sandbox_id=sandbox_id, epoch=sandbox.epoch or "", run_id=sandbox.run_id, state="running", **fields
        )  # fmt: skip
        self.executions[spec.id] = Kept(record)
        self.typed[spec.id] = Typed()
        self.started[spec.command or "opens"] += 1
        self.changed.notify_all()
        return record

    def _run(self, spec: ExecutionSpec) -> None:
        word, _, rest = (spec.command or "").partition(" ")
        if word in ("hang", "mute"):
            return
        if word == "repl":
            self.write(spec.id, b">>> ")
            return
        code, output = 1 if word == "false" else 0, rest.encode() + b"\n" if word == "echo" else b""
        if word == "exit" and spec.session is not None:
            code = int(rest)
            kept = self.executions[spec.id]
            kept.record = kept.record.model_copy(update={"session_over": True})
            self.finish(spec.session, Outcome(kind="exited", ran=True, code=code))
        if word == "." and "missing" in rest:
            code, output = 1, b"bash: missing: No such file or directory\n"
        self.finish(spec.id, Outcome(kind="exited", ran=True, code=code), output)

    def _input(self, request: Request, execution_id: str) -> Answer:
        typed, offset = self.typed[execution_id], request.headers["x-remote-env-offset"]
        if self.executions[execution_id].record.over:
            return _problem("wrong_state", "over")
        if offset == "restart":
            typed.count = 0
        elif typed.count is None:
            return _problem("input_unknown", "started since")
        elif int(offset) > typed.count:
            return _problem("wrong_state", "beyond")
        else:
            new = request.body[typed.count - int(offset) :]
            taken = new if self.room is None else new[: self.room]
            self.room = None if self.room is None else self.room - len(taken)
            typed.count += len(taken)
            typed.data += taken
            self._read(execution_id, taken)
            if len(taken) < len(new):
                return _problem("too_many", "it does not read")
        return _json(202, InputAnswer(offset=typed.count or 0))

    def _read(self, execution_id: str, data: bytes) -> None:
        typed = self.typed[execution_id]
        typed.line += data
        while b"\n" in typed.line:
            line, _, rest = bytes(typed.line).partition(b"\n")
            typed.line[:] = rest
            if line == b"quit":
                self.finish(execution_id, Outcome(kind="exited", ran=True, code=0), b"bye\r\n")
            elif self.executions[execution_id].output:
                self.write(execution_id, b"said " + line + b"\r\n>>> ")

    def _resize(self, request: Request, execution_id: str) -> Answer:
        asked = request.json()
        self.sizes.append((execution_id, asked["rows"], asked["cols"]))
        return _json(200, self.executions[execution_id].record)
