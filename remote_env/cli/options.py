"""Options that several commands share, and how they become fields of the wire's specs."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from remote_env.cli.invocation import parsed
from remote_env.cli.quantities import parse_bind, parse_duration, parse_env, parse_size

CLI_LEASE = "24h"  # nobody renews the lease of a sandbox that outlives its command line

Image = Annotated[str, typer.Argument(metavar="IMAGE", hidden=True)]
Words = Annotated[list[str] | None, typer.Argument(metavar="[--] COMMAND...", hidden=True)]
Line = Annotated[str | None, typer.Option("-c", "--command", metavar="LINE", help="A command line for a shell, in place of COMMAND.")]
Argv = Annotated[bool, typer.Option("--argv", help="Run COMMAND as it is even where it is one word that looks like a command line.")]
Environment = Annotated[
    list[str] | None,
    typer.Option("-e", "--env", metavar="KEY=VALUE", help="Environment variable; KEY alone passes yours on. May be repeated."),
]
Workdir = Annotated[str | None, typer.Option("-w", "--workdir", metavar="PATH", help="Working directory. [default: the sandbox's]")]
User = Annotated[str | None, typer.Option("-u", "--user", metavar="USER", help="User, by name or number. [default: the sandbox's]")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="Kill the command after this time: 90s, 30m, 2h.")]
Stdin = Annotated[bool, typer.Option("-i", "--stdin", help="Read standard input to its end and give it to the command.")]
OutputLimit = Annotated[
    str | None, typer.Option("--output-limit", metavar="SIZE", help="Output to keep, half head, half tail. [default: 64m]")
]
Memory = Annotated[str | None, typer.Option("-m", "--memory", metavar="SIZE", help="Memory limit: 512m, 4g. [default: the server's]")]
Cpus = Annotated[float | None, typer.Option("--cpus", metavar="N", help="CPU limit: 0.5, 2. [default: the server's]", show_default=False)]
Pids = Annotated[int | None, typer.Option("--pids", metavar="N", help="Process limit. [default: the server's]", show_default=False)]
Network = Annotated[str, typer.Option("--network", metavar="bridge|none", help="none: without a network.")]
Pull = Annotated[str, typer.Option("--pull", metavar="missing|always|never", help="When to pull the image.")]
Binds = Annotated[
    list[str] | None,
    typer.Option("--bind", metavar="SOURCE:TARGET[:rw]", help="A directory of the server's, where it allows that. May be repeated."),
]
RunId = Annotated[str | None, typer.Option("--run-id", metavar="ID", help="Run that the sandbox belongs to. [default: one of its own]")]


def environment_of(assignments: list[str] | None) -> dict[str, str]:
    variables: dict[str, str] = parsed("--env", lambda given: parse_env(given, dict(os.environ)), assignments or [])
    return variables


def sandbox_options(
    *, memory: str | None, cpus: float | None, pids: int | None, network: str, pull: str, binds: list[str] | None, lease: str
) -> dict[str, Any]:
    """The fields of a SandboxSpec that the command line can set, but for workdir, env and user. Raises usage errors."""
    for option, value, choices in (("--network", network, ("bridge", "none")), ("--pull", pull, ("missing", "always", "never"))):
        if value not in choices:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(choices)}", param_hint=option)
    return {
        "memory_bytes": parsed("--memory", parse_size, memory),
        "cpus": cpus,
        "pids": pids,
        "network": network,
        "pull": pull,
        "binds": [parsed("--bind", parse_bind, bind) for bind in binds or []],
        "lease_s": parsed("--lease", parse_duration, lease),
    }


def execution_options(*, timeout: str, output_limit: str | None) -> dict[str, Any]:
    """The fields of an ExecutionSpec that `run` and `exec` both set. Raises usage errors."""
    options: dict[str, Any] = {"timeout_s": parsed("--timeout", parse_duration, timeout)}
    if output_limit is not None:
        options["output_limit_bytes"] = parsed("--output-limit", parse_size, output_limit)
    return options
