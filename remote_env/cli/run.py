"""`run` and `exec`: a command's output and exit code as if it had run here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from remote_env.cli import options, screen
from remote_env.cli.invocation import Invocation, command
from remote_env.cli.quantities import show_duration
from remote_env.cli.words import WordsCommand, command_of

if TYPE_CHECKING:
    from remote_env.sandbox import Sandbox

Split = Annotated[
    bool | None,
    typer.Option(
        "--split/--merged",
        help="Keep its stdout and stderr apart, or in one in the order written. [default: apart where ours go to different places]",
        show_default=False,
    ),
]
_LEASE = "5m"  # renewed while `run` lives; how soon its sandbox is reaped where it dies


def register(app: typer.Typer) -> None:
    command(app, "run", cls=WordsCommand, runs_commands=True)(run)
    command(app, "exec", cls=WordsCommand, runs_commands=True)(exec_)


def run(
    invocation: Invocation,
    image: options.Image,
    words: options.Words = None,
    line: options.Line = None,
    as_argv: options.Argv = False,
    env: options.Environment = None,
    workdir: options.Workdir = None,
    user: options.User = None,
    timeout: options.Timeout = "30m",
    stdin: options.Stdin = False,
    memory: options.Memory = None,
    cpus: options.Cpus = None,
    pids: options.Pids = None,
    network: options.Network = "bridge",
    pull: options.Pull = "missing",
    binds: options.Binds = None,
    output_limit: options.OutputLimit = None,
    split: Split = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the sandbox for `exec`, `logs` and `rm`.")] = False,
    lease: Annotated[
        str | None,
        typer.Option(
            "--lease", metavar="DURATION", help=f"How long the sandbox stays once nothing renews it. [default: {_LEASE}; with --keep 24h]"
        ),
    ] = None,
    run_id: options.RunId = None,
) -> int:
    """Make a sandbox, run a command in it, remove it.

    One word that a shell would not take literally ('ls | wc -l') is a command line for the sandbox's shell. Everything
    else runs as it is, without a shell. -c and --argv say so outright.

    \b
    Examples:
      remote-env run python:3.12-slim -- python -c 'print(6 * 7)'
      remote-env run alpine 'ls / | wc -l'
      remote-env run --memory 2g --network none --timeout 10m IMAGE -c 'make test'
      tar c . | remote-env run -i debian -- sh -c 'tar x -C /srv && ls /srv'
      remote-env run alpine 'ls /etc /none' 2>/dev/null

    \b
    Exit code: the command's own; 124 timed out; 125 did not run; 123 lost or
    unknown; 130 cancelled by Ctrl-C (128 + n by another signal); 2 wrong usage.
    The first Ctrl-C cancels the command and waits for its end, the second leaves.
    """
    what = command_of(words, line, as_argv)
    lease = lease or (options.CLI_LEASE if keep else _LEASE)
    sandbox_options = options.sandbox_options(
        memory=memory, cpus=cpus, pids=pids, network=network, pull=pull, binds=binds, lease=lease
    ) | {"env": options.environment_of(env), "workdir": workdir, "user": user}  # fmt: skip
    execution_options = options.execution_options(timeout=timeout, output_limit=output_limit)

    from remote_env.cli.carry import carry_out, read_stdin
    from remote_env.cli.creating import create_with_progress
    from remote_env.cli.interrupts import Interrupts
    from remote_env.errors import OutcomeUnknownError

    if stdin:
        execution_options["stdin"] = read_stdin()
    sandbox: Sandbox | None = None
    remove = not keep
    with Interrupts() as interrupts, invocation.client(run_id=run_id) as client:
        try:
            sandbox = create_with_progress(client, image, sandbox_options)
            code = carry_out(sandbox, what, execution_options, interrupts, split=split, as_json=invocation.as_json)
        except OutcomeUnknownError:
            remove = False  # the command may be running, and its result be had later
            raise
        except KeyboardInterrupt:
            remove = False
            return interrupts.exit_code
        finally:
            if sandbox is not None and remove:
                _remove(sandbox)
            elif sandbox is not None:
                _tell_kept(sandbox, asked_for=keep)
    return code


def exec_(
    invocation: Invocation,
    name: Annotated[str, typer.Argument(metavar="SANDBOX", hidden=True)],
    words: options.Words = None,
    line: options.Line = None,
    as_argv: options.Argv = False,
    env: options.Environment = None,
    workdir: options.Workdir = None,
    make_workdir: Annotated[bool, typer.Option("--make-workdir", help="Make the working directory where it is missing.")] = False,
    user: options.User = None,
    timeout: options.Timeout = "30m",
    stdin: options.Stdin = False,
    output_limit: options.OutputLimit = None,
    split: Split = None,
) -> int:
    """Run a command in a sandbox that is there.

    SANDBOX is its id, or a beginning of it that fits no other. Command lines, exit codes and Ctrl-C are as with `run`.

    \b
    Examples:
      remote-env exec $SANDBOX -- git status
      remote-env exec $SANDBOX -w /srv -e CI=1 'make test 2>&1 | tail'
      remote-env exec -i $SANDBOX -- sh -c 'cat > notes.txt' < notes.txt
    """
    what = command_of(words, line, as_argv)
    execution_options = options.execution_options(timeout=timeout, output_limit=output_limit)
    execution_options |= {"env": options.environment_of(env), "workdir": workdir, "make_workdir": make_workdir, "user": user}

    from remote_env.cli.carry import carry_out, read_stdin
    from remote_env.cli.interrupts import Interrupts
    from remote_env.cli.lookup import find_sandbox

    if stdin:
        execution_options["stdin"] = read_stdin()
    with Interrupts() as interrupts, invocation.client() as client:
        try:
            sandbox = find_sandbox(client, name)
            return carry_out(sandbox, what, execution_options, interrupts, split=split, as_json=invocation.as_json)
        except KeyboardInterrupt:
            return interrupts.exit_code


def _remove(sandbox: Sandbox) -> None:
    from remote_env.errors import RemoteEnvError

    try:
        sandbox.remove()
    except (RemoteEnvError, KeyboardInterrupt) as error:
        screen.warn(f"sandbox {sandbox.id} is left to its lease ({str(error) or 'interrupted'}).")


def _tell_kept(sandbox: Sandbox, *, asked_for: bool) -> None:
    lease_s = sandbox.record.lease_s
    until = f" for {show_duration(lease_s)} or" if lease_s else ""
    tell = screen.note if asked_for else screen.warn
    tell(f"sandbox {sandbox.id} stays{until} until `remote-env rm {sandbox.id}`")
