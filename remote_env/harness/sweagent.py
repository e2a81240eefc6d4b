"""SWE-agent's command line, with `type: remote_env` among its deployments.

    python -m remote_env.harness.sweagent run --config my.yaml --env.deployment.type=remote_env …

in place of `sweagent run …`; every argument is SWE-agent's own.
"""

from __future__ import annotations

import importlib

from remote_env.harness.swerex import register


def main() -> None:
    """Registers the deployment and hands over. Raises ImportError where SWE-agent is not installed."""
    register()
    importlib.import_module("sweagent.run.run").main()


if __name__ == "__main__":
    main()
