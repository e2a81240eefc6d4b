"""On stage: the agent that shows what it does, and everything that is printed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from minisweagent.agents.default import DefaultAgent
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.backstage import Killing, Run

SHOWN_LINES = 14  # of a command's output


class Stage:
    """Prints, from more than one thread. Colours and boxes on a terminal, plain text elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=120)
        self._lock = threading.Lock()

    def say(self, text: str = "") -> None:
        with self._lock:
            self._console.print(text, soft_wrap=True)

    def headline(self, text: str) -> None:
        self.say(f"\n[bold]{text}[/bold]")

    def fact(self, name: str, text: str) -> None:
        self.say(f"  [bold]{name:<8}[/bold] {escape(text)}")

    def command(self, number: int, of: int, thought: str, command: str) -> None:
        lines = [f"\n[bold]\\[{number}/{of}][/bold] {escape(thought)}"]
        lines += [
            f"  [bold cyan]{sign}[/bold cyan] {escape(line)}" for sign, line in zip("$" + ">" * 99, command.split("\n"), strict=False)
        ]
        self.say("\n".join(lines))

    def observation(self, output: str, returncode: int, seconds: float | None) -> None:
        shown = output.rstrip("\n").split("\n") if output.strip() else []
        if len(shown) > SHOWN_LINES:
            more = len(shown) - SHOWN_LINES + 1
            shown = [f"… {more} lines more", *shown[more:]]
        colour = "green" if returncode == 0 else "red"
        took = "" if seconds is None else f", {seconds:.2f} s"
        self.say("\n".join([*(f"  [dim]│[/dim] {escape(line)}" for line in shown), f"  [{colour}]exit code {returncode}[/{colour}]{took}"]))

    def killing(self, killing: Killing) -> None:
        if killing.new_pid is None:
            self._event(killing.at, f"the sandbox has noted that the tests began: the server (pid {killing.old_pid}) is killed, SIGKILL")
        elif killing.answers_at is not None:
            away = killing.answers_at - killing.at
            self._event(killing.answers_at, f"a new server (pid {killing.new_pid}) answers at the same address, after {away:.1f} s")

    def client_said(self, at: float, text: str) -> None:
        self._event(at, f"client: {text}", style="yellow")

    def counts(self, rows: Sequence[tuple[str, Sequence[Run]]]) -> None:
        table = Table(box=box.ROUNDED if self._console.is_terminal else box.ASCII, title_justify="left", expand=False)
        table.add_column("command", overflow="ellipsis", no_wrap=True, max_width=72)
        table.add_column("times run", justify="right")
        table.add_column("exit code", justify="right")
        for command, runs in rows:
            first, *more = command.split("\n")
            times = f"[green]{len(runs)}[/green]" if len(runs) == 1 else f"[red]{len(runs)}[/red]"
            table.add_row(escape(first + (" …" if more else "")), times, ", ".join(str(run.code) for run in runs))
        with self._lock:
            self._console.print(table)

    def _event(self, at: float, text: str, style: str = "bold yellow") -> None:
        self.say(f"  [{style}]⚡ {datetime.fromtimestamp(at):%H:%M:%S} {escape(text)}[/{style}]")


class ClientLog(logging.Handler):
    """Shows what remote-env's client logs while the server is away: that it lost it, and that it has it again."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        _, _, text = record.getMessage().partition(": ")  # without the execution's id
        if "trying again" not in text:
            self._stage.client_said(record.created, text)


class ShowingAgent(DefaultAgent):
    """mini-swe-agent's agent, which also shows each command and its result. Its loop is its own."""

    def __init__(self, *args: Any, stage: Stage, turns: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stage = stage
        self._turns = turns

    def query(self) -> dict[str, Any]:
        message: dict[str, Any] = super().query()
        for action in message["extra"]["actions"]:
            self._stage.command(self.n_calls, self._turns, message["content"], action["command"])
        return message

    def add_messages(self, *messages: dict[str, Any]) -> list[dict[str, Any]]:
        for message in messages:
            extra = message.get("extra", {})
            if "raw_output" in extra:
                self._stage.observation(extra["raw_output"], extra["returncode"], extra.get("duration_s"))
            elif "submission" in extra:
                self._stage.observation(extra["submission"], 0, None)
        added: list[dict[str, Any]] = super().add_messages(*messages)
        return added
