"""A task of Inspect AI whose samples live in sandboxes of remote-env: repair a program so that its tests pass.

    export REMOTE_ENV_URL=https://server.example:9527 REMOTE_ENV_TOKEN_FILE=~/token
    inspect eval docs/examples/inspect_task.py --model openai/gpt-4o

With `sandbox="docker"` the same task runs in containers of this machine.
"""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, scorer
from inspect_ai.solver import TaskState, generate, use_tools
from inspect_ai.tool import bash
from inspect_ai.util import sandbox

PROGRAM = """\
def mean(numbers):
    return sum(numbers) / (len(numbers) - 1)
"""
TESTS = """\
import unittest

from statistic import mean


class MeanTest(unittest.TestCase):
    def test_mean(self):
        self.assertEqual(mean([1, 2, 3]), 2)
"""


@scorer(metrics=[accuracy()])
def tests_pass() -> Scorer:
    """Whether the tests that the sample came with pass now, whatever became of their file meanwhile."""

    async def score(state: TaskState, target: Target) -> Score:
        await sandbox().write_file("test_statistic.py", TESTS)
        result = await sandbox().exec(["python3", "-m", "unittest", "-q"], timeout=60)
        answer = await sandbox().read_file("statistic.py")
        return Score(value=CORRECT if result.success else INCORRECT, answer=answer, explanation=result.stderr)

    return score


@task
def repair(timeout: int = 60) -> Task:
    return Task(
        dataset=[
            Sample(
                input="The tests of the Python program in your working directory fail. Repair the program.",
                files={"statistic.py": PROGRAM, "test_statistic.py": TESTS},
                setup="git init --quiet . && git add .",
            )
        ],
        solver=[use_tools(bash(timeout=timeout)), generate()],
        scorer=tests_pass(),
        sandbox=("remote_env", "inspect_task.yaml"),
    )
