"""mini-swe-agent on several instances at once, each in a sandbox of its own: `python batch_minisweagent.py [IMAGE]`.

Needs `pip install 'remote-env[minisweagent]'` and a server (REMOTE_ENV_URL, REMOTE_ENV_TOKEN). The model is a script, so that the
example needs no model's server; put `minisweagent.models.get_model` in its place.
"""

# ruff: noqa: T201

from __future__ import annotations

import sys
from typing import Any

from minisweagent.agents.default import DefaultAgent
from minisweagent.exceptions import Submitted
from minisweagent.models.test_models import DeterministicModel, make_output

from remote_env import RemoteDockerEnvironment, run_batch

MARKER = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
INSTANCES = [{"instance_id": f"sum__{number}", "upto": number} for number in range(1, 9)]


class AgentEnvironment:
    """What mini-swe-agent wants of an environment, on one of remote_env's."""

    def __init__(self, env: RemoteDockerEnvironment) -> None:
        self._env = env

    def execute(self, action: dict[str, Any], cwd: str = "") -> dict[str, Any]:
        answer = self._env.execute(action["command"], cwd)
        first, _, rest = answer["output"].lstrip().partition("\n")
        if first.strip() == MARKER and answer["returncode"] == 0:
            raise Submitted({"role": "exit", "content": rest, "extra": {"exit_status": "Submitted", "submission": rest}})
        return answer

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        return {"image": self._env.sandbox.record.image, **kwargs}

    def serialize(self) -> dict[str, Any]:
        return {"info": {"config": {"environment": {"sandbox": self._env.sandbox.id}}}}


def solve(env: RemoteDockerEnvironment, instance: dict[str, Any]) -> str:
    count = f"n=0; for i in $(seq {instance['upto']}); do n=$((n + i)); done; echo $n > /tmp/answer"
    script = [count, f"echo {MARKER}; cat /tmp/answer"]
    outputs = [make_output(command, [{"command": command}], cost=0.0) for command in script]
    model = DeterministicModel(outputs=outputs, cost_per_call=0.0)
    agent = DefaultAgent(model, AgentEnvironment(env), system_template="You work in {{image}}.", instance_template="{{task}}")
    return str(agent.run(f"Write the sum of 1 to {instance['upto']}.")["submission"]).strip()


def main(image: str = "python:3.12-slim") -> None:
    for result in run_batch(INSTANCES, solve, workers=4, image=image, timeout=60):
        if result.infrastructure:
            print(f"{result.job['instance_id']}: not judged: {result.exception}")
        elif result.exception is not None:
            print(f"{result.job['instance_id']}: failed: {result.exception!r}")
        else:
            print(f"{result.job['instance_id']}: {result.value} ({result.duration_s:.1f} s)")


if __name__ == "__main__":
    main(*sys.argv[1:])
