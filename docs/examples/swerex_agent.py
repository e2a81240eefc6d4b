"""A small agent on SWE-ReX, whose container is a sandbox of remote-env: it runs its commands in one shell, as SWE-agent does.

    export REMOTE_ENV_URL=https://server.example:9527 REMOTE_ENV_TOKEN_FILE=~/token
    python docs/examples/swerex_agent.py python:3.12

With SWE-ReX's own `DockerDeploymentConfig` in place of `RemoteEnvDeploymentConfig` it runs in a container of this machine.
"""

import asyncio
import sys

from swerex.exceptions import BashIncorrectSyntaxError, CommandTimeoutError
from swerex.runtime.abstract import BashAction, BashInterruptAction, CreateBashSessionRequest, ReadFileRequest, WriteFileRequest

from remote_env.harness.swerex import RemoteEnvDeploymentConfig

PROGRAM = "print(6 * 9)\n"
COMMANDS = [  # what a model would come up with
    "cd /tmp && python3 answer.py",
    "sed -i 's/9/7/' answer.py",
    "python3 answer.py",
    "sleep 1000",
    "if true; then echo unfinished",
    "pwd",
]


async def run_agent(image: str) -> list[str]:
    """What the agent saw of each command, and the program that it left behind."""
    deployment = RemoteEnvDeploymentConfig(image=image, docker_args=["--memory=1g"]).get_deployment()
    await deployment.start()
    try:
        runtime = deployment.runtime
        await runtime.write_file(WriteFileRequest(path="/tmp/answer.py", content=PROGRAM))
        await runtime.create_session(CreateBashSessionRequest(startup_source=["/root/.bashrc"], startup_timeout=30))
        observations = []
        for command in COMMANDS:
            try:
                observation = await runtime.run_in_session(BashAction(command=command, timeout=5, check="silent"))
                observations.append(f"{observation.output}(exit code {observation.exit_code})")
            except CommandTimeoutError:
                await runtime.run_in_session(BashInterruptAction())
                observations.append("The command took too long and was interrupted.")
            except BashIncorrectSyntaxError as error:
                observations.append(error.extra_info["bash_stderr"])
        observations.append((await runtime.read_file(ReadFileRequest(path="/tmp/answer.py"))).content)
        return observations
    finally:
        await deployment.stop()


if __name__ == "__main__":
    sys.stdout.writelines(f"{seen}\n" for seen in asyncio.run(run_agent(sys.argv[1] if len(sys.argv) > 1 else "python:3.12")))
