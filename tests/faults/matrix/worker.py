"""A client of ours in a process of its own, where it may be given another network, another environment, or a SIGKILL.

python -m tests.faults.matrix.worker       speaks JSON lines: first its settings, then commands in, answers out
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from remote_env import Client, Timings
from tests.faults.matrix.subjects import RemoteEnv, told
from tests.faults.matrix.traffic import Call, Command, Fate

ROOT = Path(__file__).parents[3]


class Worker:
    """The parent's side. `run` may be called from many threads.

    Args:
        prefix: what the process is started by, such as `ip netns exec NAME`.
        url: of the server, as the worker sees it; default: the subject's own.
        log: where the worker's standard error goes, the client's log lines among it.
    """

    def __init__(
        self, ours: RemoteEnv, log: Path, *, prefix: Sequence[str] = (), url: str | None = None, environ: Mapping[str, str] | None = None,
        timings: Timings | None = None, fingerprint: str | None = None,
    ) -> None:  # fmt: skip
        settings = {
            "url": url or ours.server.url, "token": ours.server.token, "sandbox": ours.sandbox.id, "fingerprint": fingerprint,
            "timings": asdict(timings or ours.timings),
        }  # fmt: skip
        with open(log, "ab") as stderr:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.faults.matrix.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                cwd=ROOT, env={**os.environ, **(environ or {})}, text=True, start_new_session=True,
            )  # fmt: skip
        self._lock = threading.Lock()
        self._pending: dict[int, tuple[Command, Future[Call]]] = {}
        self._number = 0
        self._say(settings)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise AssertionError(f"the client's process did not start:\n{log.read_text()[-2000:]}")
        threading.Thread(target=self._listen, name="traffic-worker", daemon=True).start()

    def run(self, command: Command, execution_id: str | None = None) -> Call:
        """As `RemoteEnv.run`, from over there. A worker that died gives FAILED. `execution_id`: the id that the command gets."""
        answer: Future[Call] = Future()
        with self._lock:
            self._number += 1
            number = self._number
            self._pending[number] = (command, answer)
        try:
            self._say({"number": number, "text": command.text, "id": execution_id})
        except OSError as error:
            return Call(command, Fate.FAILED, f"the client's process is gone: {error}", execution_id=execution_id)
        return answer.result()

    def kill(self) -> None:
        """SIGKILL: nothing of it says goodbye to anybody."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End of input: the worker closes its client and leaves."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()

    def _say(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with self._lock:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                said = json.loads(line)
                with self._lock:
                    command, answer = self._pending.pop(said.pop("number"))
                try:
                    answer.set_result(Call(command, Fate(said.pop("fate")), **said))
                except (TypeError, ValueError) as error:
                    answer.set_exception(error)  # it speaks another version of this protocol: whoever asked is to hear of it
        finally:
            with self._lock:
                left, self._pending = self._pending, {}
            for command, answer in left.values():
                answer.set_result(Call(command, Fate.FAILED, "the client's process is gone"))


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG)
    settings = json.loads(sys.stdin.readline())
    timings = Timings(**settings["timings"])
    lock = threading.Lock()
    with Client(settings["url"], settings["token"], timings=timings, fingerprint=settings["fingerprint"]) as client:
        sandbox = client.sandbox(settings["sandbox"])
        print("ready", flush=True)

        def perform(asked: dict[str, Any]) -> None:
            spec = {} if asked["id"] is None else {"id": asked["id"]}
            call = told(Command("", asked["text"], 0, ""), lambda: sandbox.run(asked["text"], **spec))
            said = {name: value for name, value in asdict(call).items() if name not in ("command", "fate") and value is not None}
            with lock:
                print(json.dumps({"number": asked["number"], "fate": call.fate.value, **said}), flush=True)

        with ThreadPoolExecutor(256) as pool:
            for line in sys.stdin:
                pool.submit(perform, json.loads(line))


if __name__ == "__main__":
    main()
