"""remote-env as a deployment of SWE-ReX, and so of SWE-agent.

In Python, in place of SWE-ReX's own deployment:

    deployment = RemoteEnvDeployment(image="python:3.12")

In SWE-agent's configuration, once `register()` was called before `sweagent` was imported (`python -m remote_env.harness.sweagent run …`
in place of `sweagent run …` does that):

    env:
      deployment:
        type: remote_env
        image: python:3.12

It takes what SWE-ReX's DockerDeployment takes and answers as its runtime does, with the container on another machine, nothing
installed into its image, and with each command run at most once whatever happens to the connection or to the server on the way.
"""

from __future__ import annotations

try:
    from swerex import __version__ as _peer_version  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"remote_env.harness.swerex needs SWE-ReX ({error}): pip install 'remote-env[swerex]' brings swe-rex and aiohttp, which swe-rex "
        "needs and does not name."
    ) from error

from remote_env.harness.swerex_deployment import RemoteEnvDeployment, RemoteEnvDeploymentConfig, register
from remote_env.harness.swerex_failures import SandboxFailure
from remote_env.harness.swerex_runtime import RemoteEnvRuntime

__all__ = ["RemoteEnvDeployment", "RemoteEnvDeploymentConfig", "RemoteEnvRuntime", "SandboxFailure", "register"]
