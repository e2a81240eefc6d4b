"""The wall clock jumps: nothing that is a matter of time may happen early, and no duration may come out of it."""

from __future__ import annotations

from remote_env import Execution
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.hurting import until_running
from tests.faults.matrix.row import row
from tests.faults.matrix.subjects import told
from tests.faults.matrix.traffic import Call, Command
from tests.faults.matrix.unlucky import Unlucky

HOUR_NS = 3600 * 10**9
TIMEOUT_S = 6.0
ROUNDING_S = 1.0


@row(
    "clock-jumps",
    "the wall clock jumps by an hour, forwards and back",
    "CLOCK_REALTIME of the server's process jumps (a library preloaded into it) while commands run; it is also killed and started then",
    "clock",
)
def clock_jumps(arena: Arena) -> None:
    unlucky = Unlucky(arena.tmp)
    arena.server_environ |= unlucky.environ
    arena.server_options += ["--max-timeout", "40m", "--retention", "45m", "--sweep-every", "1s"]
    ours, traffic = arena.ours, arena.traffic
    timeout_s = TIMEOUT_S * max(arena.scale, 0.3)
    lies: list[str] = []

    def run(command: Command) -> Call:
        """As always; and what its result says of its duration is held against how long the call took."""
        kept: list[Execution] = []

        def execute() -> Execution:
            kept.append(ours.sandbox.run(command.text, timeout_s=timeout_s if command.outcome == "timed_out" else 600.0))
            return kept[0]

        call = told(command, execute)
        lies.extend(f"command {command.name}: {lie}" for execution in kept if (lie := lie_about_time(execution, call.seconds, timeout_s)))
        return call

    with ours.new_sandbox() as removed:
        over = traffic.commands(8, lines=20)
        ids = {command.name: removed.run(command.text).id for command in over}
    jumps = (1, 0, -1, 0)
    width = -(-(arena.commands - len(over)) // len(jumps))
    for number, hours in enumerate(jumps):
        commands = traffic.commands(width - width // 8, sleep_s=1.0, lines=50)
        commands += [traffic.made_of("echo so far; sleep 100000", -1, "so far\n", outcome="timed_out") for _ in range(width // 8)]
        with arena.meanwhile(commands, workers=width, run=run):
            until_running(arena, commands)
            unlucky["offset_ns"] = hours * HOUR_NS
            if number % 3 == 0:
                ours.server.restart()
    # Their sandbox was removed before any jump, and is beyond retention by no clock but the one that jumped.
    arena.drive(over, run=lambda command: told(command, lambda: ours.client.execution(ids[command.name])))
    arena.verdict.check("True-results", lies)
    arena.note(f"{len(jumps)} jumps")


def lie_about_time(execution: Execution, call_s: float, timeout_s: float) -> str | None:
    """What is wrong with the duration of an execution whose call took `call_s` seconds."""
    began, ended = execution.record.started_at, execution.record.ended_at
    if began is None or ended is None:
        return "nobody says when it ran"
    lasted_s = (ended - began).total_seconds()
    if not 0 <= lasted_s <= call_s + ROUNDING_S:
        return f"its call took {call_s:.1f} s, and it is said to have run for {lasted_s:.1f} s"
    if execution.outcome is not None and execution.outcome.kind == "timed_out" and lasted_s < timeout_s - ROUNDING_S:
        return f"its timeout of {timeout_s:.1f} s came after {lasted_s:.1f} s"
    return None
