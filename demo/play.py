"""The play: an agent repairs a program in a sandbox, and the server is killed under it."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from minisweagent import __version__ as mini_version
from minisweagent import package_dir
from minisweagent.environments import get_environment
from minisweagent.models.test_models import DeterministicModel, make_output

from demo.backstage import HERE, Killing, Notes, Run, Saboteur, Server, archive
from demo.stage import ClientLog, ShowingAgent, Stage
from remote_env.harness.minisweagent import RemoteDockerEnvironment


@dataclass(frozen=True)
class Turn:
    thought: str
    command: str
    role: str | None = None


def play(stage: Stage, scratch: Path, stack: ExitStack) -> int:
    """Play it, in front of `stage`. Returns 0 when every promise held, else 1.

    Args:
        scratch: a directory for the server's data.
        stack: takes what has to be undone at the end, whatever the end is.
    """
    recording = yaml.safe_load((HERE / "recording.yaml").read_text())
    turns = [Turn(**turn) for turn in recording["turns"]]
    victim = next(turn.command for turn in turns if turn.role == "after")

    stage.headline("An agent repairs a program in a container, and the server is killed under it")
    server = Server(scratch)
    stack.callback(server.stop)
    server.start()
    old_pid = server.pid
    stage.fact("server", f"remote-env serve, pid {old_pid}, at {server.url}")
    environment = make_environment(server)
    stack.callback(environment.cleanup)
    assert environment.container_id is not None
    container_id = environment.container_id
    stage.fact("sandbox", f"container {container_id[:12]} from {environment.config.image}; the program to repair, minicron, is in /work")
    stage.fact("agent", f"mini-swe-agent {mini_version}, its own loop; a recording speaks for the model")
    stage.fact("task", " ".join(recording["task"].split()))

    client_log = logging.getLogger("remote_env")
    client_log.setLevel(logging.INFO)
    client_log.propagate = False
    client_log.addHandler(ClientLog(stage))
    saboteur = Saboteur(server, container_id, victim, stage.killing)
    stack.callback(saboteur.leave)
    saboteur.start()
    agent = make_agent(stage, environment, turns)
    result = agent.run(recording["task"])
    saboteur.leave()

    notes = Notes.of(container_id)
    stage.headline("How often each command ran")
    stage.say("Counted in the sandbox: each bash that ran a command noted it in a file there. Read with docker exec, not by remote-env.")
    stage.counts([(turn.command, notes.of_command(turn.command)) for turn in turns])
    return verdict(stage, turns, notes, saboteur, old_pid, submitted=result.get("exit_status") == "Submitted")


def make_environment(server: Server) -> RemoteDockerEnvironment:
    """The sandbox, made by mini-swe-agent from its configuration, with the program in it."""
    config = yaml.safe_load((HERE / "agent.yaml").read_text())["environment"]
    environment: Any = get_environment({**config, "url": server.url, "token_file": str(server.token_file)})
    environment.sandbox.run(["tar", "-xf", "-", "-C", "/"], stdin=archive(), check=True)
    assert isinstance(environment, RemoteDockerEnvironment)
    return environment


def make_agent(stage: Stage, environment: RemoteDockerEnvironment, turns: list[Turn]) -> ShowingAgent:
    config = yaml.safe_load((package_dir / "config" / "default.yaml").read_text())["agent"]
    outputs = [make_output(turn.thought, [{"command": turn.command}], cost=0.0) for turn in turns]
    model = DeterministicModel(outputs=outputs, cost_per_call=0.0)  # type: ignore[no-untyped-call]
    return ShowingAgent(model, environment, stage=stage, turns=len(turns), **config)


def verdict(stage: Stage, turns: list[Turn], notes: Notes, saboteur: Saboteur, old_pid: int, *, submitted: bool) -> int:
    """Say what held and what did not. Returns the exit code."""
    before, after = (_runs_of(role, turns, notes) for role in ("before", "after"))
    killing = saboteur.killing
    restarted = killing is not None and killing.new_pid is not None and killing.new_pid != killing.old_pid == old_pid
    new_pid = None if killing is None else killing.new_pid
    once = sorted(run.command for run in notes.runs) == sorted(turn.command for turn in turns)
    checks = [
        ("the tests were red before (exit code 1)", [run.code for run in before] == [1]),
        ("the tests are green after (exit code 0)", [run.code for run in after] == [0]),
        ("the server died while the tests ran, by the sandbox's own clock", any(_died_during(killing, run) for run in after)),
        (f"another server went on: pid {old_pid}, then {new_pid}", restarted),
        ("each command ran exactly once, and nothing else ran", once),
        ("the agent got every result, noticed nothing, and submitted", submitted),
    ]
    stage.headline("Did it hold?")
    for what, held in checks:
        stage.say(f"  {'[green]✔[/green]' if held else '[red]✘[/red]'} {what}")
    if saboteur.error is not None:
        stage.say(f"\n[red]The server did not come back:[/red] {saboteur.error}")
    if not all(held for _, held in checks):
        return 1
    stage.say(
        "\nA docker exec behind HTTP loses its connection here, and nobody can say what became of the command: send it again, and it may\n"
        "run twice (`echo >>`, `git commit`); do not, and its result is lost. remote-env ran each command once and brought every result."
    )
    return 0


def _runs_of(role: str, turns: list[Turn], notes: Notes) -> list[Run]:
    return [run for turn in turns if turn.role == role for run in notes.of_command(turn.command)]


def _died_during(killing: Killing | None, run: Run) -> bool:
    if killing is None or killing.dead_at is None or run.ended is None:
        return False
    return run.began <= killing.at and killing.dead_at <= run.ended
